/* Reads counters as a C program does with libiptc: init, all chains and rules, sum, free. */

#include <libiptc/libiptc.h>

#include "serve.h"

static struct totals poll_table(void)
{
    struct totals sum = {0, 0};
    struct xtc_handle *handle = iptc_init("filter");
    if (!handle)
        die("iptc_init");
    for (const char *chain = iptc_first_chain(handle); chain; chain = iptc_next_chain(handle))
        for (const struct ipt_entry *rule = iptc_first_rule(chain, handle); rule; rule = iptc_next_rule(rule, handle)) {
            sum.packets += rule->counters.pcnt;
            sum.bytes += rule->counters.bcnt;
        }
    iptc_free(handle);
    return sum;
}
