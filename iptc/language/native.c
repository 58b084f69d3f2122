#include "native.h"

#include <linux/netfilter/xt_comment.h>
#include <linux/netfilter/xt_limit.h>
#include <linux/netfilter/xt_mark.h>
#include <linux/netfilter/xt_pkttype.h>
#include <linux/netfilter/xt_tcpudp.h>
#include <linux/netfilter_ipv4/ipt_ttl.h>
#include <linux/if_packet.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct text {
	char *at, *end;
};

static void __attribute__((format(printf, 2, 3))) put(struct text *text, const char *format, ...)
{
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(text->at, text->end - text->at, format, args);
	va_end(args);
	text->at += length < text->end - text->at ? length : text->end - text->at - 1;
}

static void put_option(struct text *text, const char *name, int inverted)
{
	put(text, "%s --%s", inverted ? " !" : "", name);
}

static void put_ports(struct text *text, const char *name, const uint16_t *ports, int inverted)
{
	if (ports[0] == 0 && ports[1] == 0xffff && !inverted)
		return;
	put_option(text, name, inverted);
	put(text, ports[0] == ports[1] ? " %u" : " %u:%u", ports[0], ports[1]);
}

static void put_flags(struct text *text, unsigned int flags)
{
	static const char *const names[] = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"};
	char between = ' ';

	for (int i = 0; i < 6; i++) {
		if (flags & 1 << i) {
			put(text, "%c%s", between, names[i]);
			between = ',';
		}
	}
	if (between == ' ')
		put(text, " NONE");
}

static void put_tcp(struct text *text, const void *data)
{
	const struct xt_tcp *tcp = data;

	put_ports(text, "sport", tcp->spts, tcp->invflags & XT_TCP_INV_SRCPT);
	put_ports(text, "dport", tcp->dpts, tcp->invflags & XT_TCP_INV_DSTPT);
	if (tcp->option || tcp->invflags & XT_TCP_INV_OPTION) {
		put_option(text, "tcp-option", tcp->invflags & XT_TCP_INV_OPTION);
		put(text, " %u", tcp->option);
	}
	if (tcp->flg_mask || tcp->invflags & XT_TCP_INV_FLAGS) {
		put_option(text, "tcp-flags", tcp->invflags & XT_TCP_INV_FLAGS);
		put_flags(text, tcp->flg_mask);
		put_flags(text, tcp->flg_cmp);
	}
}

static void put_udp(struct text *text, const void *data)
{
	const struct xt_udp *udp = data;

	put_ports(text, "sport", udp->spts, udp->invflags & XT_UDP_INV_SRCPT);
	put_ports(text, "dport", udp->dpts, udp->invflags & XT_UDP_INV_DSTPT);
}

static void put_icmp_of(struct text *text, const char *name, const void *data, int has_any)
{
	/* struct ip6t_icmp has the same members */
	const struct ipt_icmp *icmp = data;

	put_option(text, name, icmp->invflags & IPT_ICMP_INV);
	/* as iptables does since 1.8.11: type 255 with one code alone is not "any" */
	if (has_any && icmp->type == 0xff && icmp->code[0] == 0 && icmp->code[1] == 0xff) {
		put(text, " any");
		return;
	}
	put(text, " %u", icmp->type);
	if (icmp->code[0] != 0 || icmp->code[1] != 0xff)
		put(text, "/%u", icmp->code[0]);
}

static void put_icmp(struct text *text, const void *data)
{
	put_icmp_of(text, "icmp-type", data, 1);
}

static void put_icmp6(struct text *text, const void *data)
{
	put_icmp_of(text, "icmpv6-type", data, 0);
}

static void put_comment(struct text *text, const void *data)
{
	const struct xt_comment_info *comment = data;
	static const char plain[] = "_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
	size_t length = strnlen(comment->comment, XT_MAX_COMMENT_LEN - 1);

	put_option(text, "comment", 0);
	if (length > 0 && strspn(comment->comment, plain) >= length) {
		put(text, " %.*s", (int)length, comment->comment);
		return;
	}
	put(text, " \"");
	for (size_t i = 0; i < length; i++)
		put(text, strchr("\"\\'", comment->comment[i]) ? "\\%c" : "%c", comment->comment[i]);
	put(text, "\"");
}

static void put_mark(struct text *text, const void *data)
{
	const struct xt_mark_mtinfo1 *mark = data;

	put_option(text, "mark", mark->invert);
	put(text, mark->mask == 0xffffffff ? " 0x%x" : " 0x%x/0x%x", mark->mark, mark->mask);
}

static void put_limit(struct text *text, const void *data)
{
	static const struct {
		const char *name;
		uint32_t period;
	} units[] = {
		{"day", XT_LIMIT_SCALE * 24 * 60 * 60}, {"hour", XT_LIMIT_SCALE * 60 * 60}, {"min", XT_LIMIT_SCALE * 60},
		{"sec", XT_LIMIT_SCALE},
	};
	const struct xt_rateinfo *limit = data;
	int i = 1;

	put_option(text, "limit", 0);
	if (limit->avg == 0) {
		put(text, " inf");
	} else {
		/* the smallest unit in which the rate is a whole number, or nearly so, as iptables chooses it */
		while (i < 4 && limit->avg <= units[i].period && units[i].period / limit->avg >= units[i].period % limit->avg)
			i++;
		put(text, " %u/%s", units[i - 1].period / limit->avg, units[i - 1].name);
	}
	if (limit->burst != 5)
		put(text, " --limit-burst %u", limit->burst);
}

static void put_pkttype(struct text *text, const void *data)
{
	static const char *const names[] = {
		[PACKET_HOST] = "unicast", [PACKET_BROADCAST] = "broadcast", [PACKET_MULTICAST] = "multicast",
		[PACKET_OTHERHOST] = "otherhost",
	};
	const struct xt_pkttype_info *type = data;

	put_option(text, "pkt-type", type->invert);
	if (type->pkttype >= 0 && type->pkttype <= PACKET_OTHERHOST)
		put(text, " %s", names[type->pkttype]);
	else
		put(text, " %d", type->pkttype);
}

static void put_hops(struct text *text, const char *name, const void *data)
{
	/* struct ip6t_hl_info has the same members, and modes of the same numbers */
	const struct ipt_ttl_info *hops = data;
	static const char *const modes[] = {[IPT_TTL_EQ] = "eq", [IPT_TTL_NE] = "eq", [IPT_TTL_LT] = "lt", [IPT_TTL_GT] = "gt"};

	put(text, "%s --%s-%s %u", hops->mode == IPT_TTL_NE ? " !" : "", name, hops->mode <= IPT_TTL_GT ? modes[hops->mode] : "eq",
	    hops->ttl);
}

static void put_ttl(struct text *text, const void *data)
{
	put_hops(text, "ttl", data);
}

static void put_hl(struct text *text, const void *data)
{
	put_hops(text, "hl", data);
}

static void put_nothing(struct text *text, const void *data)
{
}

static const struct {
	const char *name;
	int is_target, family, revision; /* NFPROTO_UNSPEC: both families */
	size_t size;
	void (*put)(struct text *text, const void *data);
} parts[] = {
	{"tcp", 0, NFPROTO_UNSPEC, 0, sizeof(struct xt_tcp), put_tcp},
	{"udp", 0, NFPROTO_UNSPEC, 0, sizeof(struct xt_udp), put_udp},
	{"icmp", 0, NFPROTO_IPV4, 0, sizeof(struct ipt_icmp), put_icmp},
	{"icmp6", 0, NFPROTO_IPV6, 0, sizeof(struct ipt_icmp), put_icmp6},
	{"comment", 0, NFPROTO_UNSPEC, 0, sizeof(struct xt_comment_info), put_comment},
	{"mark", 0, NFPROTO_UNSPEC, 1, sizeof(struct xt_mark_mtinfo1), put_mark},
	{"limit", 0, NFPROTO_UNSPEC, 0, sizeof(struct xt_rateinfo), put_limit},
	{"pkttype", 0, NFPROTO_UNSPEC, 0, sizeof(struct xt_pkttype_info), put_pkttype},
	{"ttl", 0, NFPROTO_IPV4, 0, sizeof(struct ipt_ttl_info), put_ttl},
	{"hl", 0, NFPROTO_IPV6, 0, sizeof(struct ipt_ttl_info), put_hl},
	{"TRACE", 1, NFPROTO_UNSPEC, 0, 0, put_nothing},
};

int native_print(char *text, int is_target, int family, const struct xt_entry_match *payload)
{
	struct text printed = {text, text + NATIVE_ROOM};

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		if (parts[i].is_target == is_target && (parts[i].family == NFPROTO_UNSPEC || parts[i].family == family)
		    && parts[i].revision == payload->u.user.revision
		    && strncmp(parts[i].name, payload->u.user.name, XT_EXTENSION_MAXNAMELEN) == 0
		    && payload->u.match_size == sizeof(*payload) + XT_ALIGN(parts[i].size)) {
			parts[i].put(&printed, payload->data);
			return printed.at - text;
		}
	}
	return -1;
}
