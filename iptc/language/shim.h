/* One order of headers for the whole package, and the C that must stay C:
 * the guard around libxtables, the capture of what plugins print, plugin loading. */
#ifndef IPTC_SHIM_H
#define IPTC_SHIM_H

#include <netinet/in.h>
#include <net/if.h>
#include <arpa/inet.h>
#include <getopt.h>
#include <netdb.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <linux/netfilter/xt_NFLOG.h>
#include <linux/netfilter/xt_comment.h>
#include <xtables.h>

/* The numbers that stand in declarations for Cython, which cannot ask the headers for them: _core.pxd, legacy/blob.pxd,
 * nft/parts.pyx. */
_Static_assert(XT_ALIGN(sizeof(struct xt_entry_match)) == 32, "PAYLOAD_HEADER");
_Static_assert(XT_ALIGN(sizeof(struct xt_entry_target)) == 32, "PAYLOAD_HEADER");
_Static_assert(sizeof(struct xt_standard_target) == 40, "STANDARD_SIZE");
_Static_assert(sizeof(struct xt_error_target) == 64, "ERROR_SIZE");
_Static_assert(offsetof(struct ipt_get_entries, entrytable) == 40, "ENTRIES_HEAD");
_Static_assert(offsetof(struct ip6t_get_entries, entrytable) == 40, "ENTRIES_HEAD");
_Static_assert(offsetof(struct xt_nflog_info, prefix) == 12, "NFLOG_PREFIX");
_Static_assert(sizeof(((struct xt_nflog_info *)0)->prefix) == 64, "NFLOG_ROOM");
_Static_assert(XT_ALIGN(sizeof(struct xt_nflog_info)) == 80, "NFLOG_SIZE");
_Static_assert(sizeof(struct xt_comment_info) == 256, "COMMENT_ROOM");
_Static_assert(IFNAMSIZ == 16, "the names of interfaces in struct ipt_ip and ip6t_ip6");
_Static_assert(sizeof(struct ipt_replace) == sizeof(struct ip6t_replace), "legacy/draft.pxd uses one for both families");

/* Nothing here is linked to libxtables: its variable that this macro reads is not there. Refusals go to shim_refuse. */
#undef xtables_error

/* How much room a buffer gets that grows: *more*, so that it seldom has to, or as much as is needed now, so that a sanitizer
 * sees the first byte too many; of large ones each step would be a copy of all there is. */
static inline size_t shim_room(size_t more, size_t needed)
{
#ifdef IPTC_EXACT_ALLOCATIONS
	return more < needed || needed > 65536 ? more : needed;
#else
	return more;
#endif
}

/* What libxtables and its plugins call instead of a function of that name; a table of them ends with NULL. */
struct stand_in {
	const char *name;
	void *instead;
};

static inline void *find_stand_in(const struct stand_in *table, const char *name)
{
	while (table->name != NULL && strcmp(table->name, name) != 0)
		table++;
	return table->instead;
}

/* Load libxtables and prepare it for this process: its globals, its family, and our place in the symbol order. 0; -1 with the reason
 * in shim_message(); one of LIBXTABLES_ABSENT and its like; or SHIM_IDS_DIFFER where the real user is not the effective one, for whom
 * libxtables ends the process. Another call may succeed. */
#define SHIM_IDS_DIFFER 100
int shim_init(void);

/* Run body(arg) so that nothing in it ends the process: 0, or -1 with the reason in shim_message().
 * A refusal by libxtables, exit() in a plugin and SIGFPE all come back here. */
int shim_guard(void (*body)(void *), void *arg);
const char *shim_message(void);

/* The exit status that iptables has where it refuses so (enum xtables_exittype). */
int shim_refused_with(void);
#define SHIM_OUT_OF_MEMORY (-1)	/* what it returns where an allocation failed before the body gave up */

/* Inside it: refuse as libxtables does. */
void shim_refuse(int status, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));

/* Before the next option of a guarded body: what earlier ones copied is not freed when this one is refused. */
void shim_keep_copies(void);

/* Whether this thread is inside a guard; and leave it, with that message. */
int shim_guarded(void);
void shim_leave(const char *why) __attribute__((noreturn));

/* Take SIGFPE for a plugin that divides, until the guard ends. */
void shim_trap_sigfpe(void);

/* Like shim_guard, with what plugins print caught; it is there until the next call. */
int shim_capture(void (*body)(void *), void *arg);
const char *shim_out(size_t *length);
const char *shim_err(size_t *length);

/* Inside it: print as plugins do, to what they know as stdout; and to what they know as stderr. */
void shim_print(const char *text, size_t length);
void shim_warn(const char *text);

/* dlopen a plugin and collect what it registers; 0, or -1 with the reason in shim_message(). */
typedef void (*shim_registered)(int is_target, void *extension);
int shim_load(const char *path, shim_registered callback);

/* What the plugin read its option words from: set before a parse, put back after it. */
void shim_set_getopt(char *arg, int index);
int shim_get_optind(void);

#endif
