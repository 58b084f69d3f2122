/* The floor of nf_tables: what the kernel's own interface costs. The rules of each chain are dumped by a socket that stays
 * open into a buffer that stays allocated, and their counters are added up. The list of chains is read only once. */

#include <endian.h>
#include <sys/socket.h>
#include <linux/netlink.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nf_tables.h>

#include "serve.h"

enum { ROOM = 65536, NAME = 256 };

static int fd = -1;
static char *buffer;
static char (*chains)[NAME];
static size_t count;

static struct nlattr *next(struct nlattr *at)
{
    return (struct nlattr *)((char *)at + NLA_ALIGN(at->nla_len));
}

static int kind(const struct nlattr *at)
{
    return at->nla_type & NLA_TYPE_MASK;
}

static uint64_t number(const struct nlattr *at)
{
    uint64_t value;

    memcpy(&value, at + 1, sizeof value);
    return be64toh(value);
}

static void put(struct nlmsghdr *message, int type, const char *text)
{
    struct nlattr *at = (struct nlattr *)((char *)message + message->nlmsg_len);

    at->nla_type = type;
    at->nla_len = NLA_HDRLEN + strlen(text) + 1;
    strcpy((char *)(at + 1), text);
    message->nlmsg_len += NLA_ALIGN(at->nla_len);
}

static void take_chain(struct nlattr *at, struct nlattr *end, void *unused)
{
    const char *table = "", *name = "";

    (void)unused;
    for (; at < end; at = next(at)) {
        if (kind(at) == NFTA_CHAIN_TABLE)
            table = (char *)(at + 1);
        else if (kind(at) == NFTA_CHAIN_NAME)
            name = (char *)(at + 1);
    }
    if (strcmp(table, "filter"))
        return;
    chains = realloc(chains, (count + 1) * sizeof *chains);
    if (!chains)
        die("realloc");
    strcpy(chains[count++], name);
}

static void take_rule(struct nlattr *at, struct nlattr *end, void *context)
{
    struct totals *sum = context;
    struct nlattr *element, *part, *last, *end_of_part;

    while (kind(at) != NFTA_RULE_EXPRESSIONS)
        if ((at = next(at)) >= end)
            return;
    last = next(at);
    for (element = at + 1; element < last; element = next(element)) {
        part = element + 1;
        if (strcmp((char *)(part + 1), "counter"))
            continue;
        part = next(part);
        end_of_part = next(part);
        for (part += 1; part < end_of_part; part = next(part)) {
            if (kind(part) == NFTA_COUNTER_PACKETS)
                sum->packets += number(part);
            else if (kind(part) == NFTA_COUNTER_BYTES)
                sum->bytes += number(part);
        }
        return;
    }
}

static void dump(int type, const char *chain, void (*take)(struct nlattr *, struct nlattr *, void *), void *context)
{
    struct {
        struct nlmsghdr message;
        struct nfgenmsg general;
        char room[2 * NAME];
    } request = {
        {NLMSG_LENGTH(sizeof(struct nfgenmsg)), NFNL_SUBSYS_NFTABLES << 8 | type, NLM_F_REQUEST | NLM_F_DUMP, 1, 0},
        {NFPROTO_IPV4, NFNETLINK_V0, 0},
        {0},
    };

    if (chain) {
        put(&request.message, NFTA_RULE_TABLE, "filter");
        put(&request.message, NFTA_RULE_CHAIN, chain);
    }
    if (send(fd, &request, request.message.nlmsg_len, 0) < 0)
        die("send");
    for (;;) {
        ssize_t length = recv(fd, buffer, ROOM, 0);
        struct nlmsghdr *message = (struct nlmsghdr *)buffer;

        if (length <= 0)
            die("recv");
        for (; NLMSG_OK(message, (size_t)length); message = NLMSG_NEXT(message, length)) {
            if (message->nlmsg_type == NLMSG_DONE)
                return;
            if (message->nlmsg_type == NLMSG_ERROR)
                die("nf_tables");
            take((struct nlattr *)((char *)message + NLMSG_LENGTH(sizeof(struct nfgenmsg))),
                 (struct nlattr *)((char *)message + message->nlmsg_len), context);
        }
    }
}

static struct totals poll_table(void)
{
    struct totals sum = {0, 0};

    if (fd < 0) {
        fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
        buffer = malloc(ROOM);
        if (fd < 0 || !buffer)
            die("socket");
        dump(NFT_MSG_GETCHAIN, NULL, take_chain, NULL);
    }
    for (size_t i = 0; i < count; i++)
        dump(NFT_MSG_GETRULE, chains[i], take_rule, &sum);
    return sum;
}
