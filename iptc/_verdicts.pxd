# The verdicts that can be the target of a rule, each with its name, its number in xtables, and its code in nf_tables.

from libc.stdint cimport int32_t

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>
    #include <linux/netfilter.h>
    #include <linux/netfilter/nf_tables.h>
    #include <linux/netfilter/x_tables.h>

    /* iptables writes no rule with a jump to QUEUE to nf_tables. */
    #define VERDICT_NO_CODE INT32_MIN

    struct verdict {
        const char *name;
        int32_t number;         /* in struct xt_standard_target; there, numbers from 0 are offsets of chains */
        int32_t code;           /* NFTA_VERDICT_CODE */
    };

    static const struct verdict verdict_table[] = {
        {"ACCEPT", -NF_ACCEPT - 1, NF_ACCEPT},
        {"DROP", -NF_DROP - 1, NF_DROP},
        {"RETURN", XT_RETURN, NFT_RETURN},
        {"QUEUE", -NF_QUEUE - 1, VERDICT_NO_CODE},
    };
    #define VERDICT_COUNT (sizeof(verdict_table) / sizeof(verdict_table[0]))

    /* Each of these functions returns NULL if there is no such verdict. */

    static inline __attribute__((unused)) const struct verdict *verdict_named(const char *name)
    {
        for (size_t i = 0; i < VERDICT_COUNT; i++)
            if (verdict_table[i].name[0] == name[0] && strcmp(verdict_table[i].name, name) == 0)
                return &verdict_table[i];
        return NULL;
    }

    static inline __attribute__((unused)) const struct verdict *verdict_numbered(int32_t number)
    {
        for (size_t i = 0; i < VERDICT_COUNT; i++)
            if (verdict_table[i].number == number)
                return &verdict_table[i];
        return NULL;
    }

    static inline __attribute__((unused)) const struct verdict *verdict_coded(int32_t code)
    {
        for (size_t i = 0; i < VERDICT_COUNT; i++)
            if (verdict_table[i].code == code && code != VERDICT_NO_CODE)
                return &verdict_table[i];
        return NULL;
    }
    """
    enum:
        VERDICT_NO_CODE
    const size_t VERDICT_COUNT
    struct Verdict "verdict":
        const char *name
        int32_t number
        int32_t code
    const Verdict verdict_table[]
    const Verdict *verdict_named(const char *name)
    const Verdict *verdict_numbered(int32_t number)
    const Verdict *verdict_coded(int32_t code)
