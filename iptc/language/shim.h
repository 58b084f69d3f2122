/* The C that must stay C: the guard around libxtables, the capture of what plugins print, the loading of plugins. It
 * also includes all headers of the package, in the one order that works. */
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

/* Numbers that _core.pxd, legacy/blob.pxd and nft/parts.pyx write out, since Cython cannot read them from the headers.
 * */
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

/* This macro of xtables.h uses a variable of libxtables, to which we do not link. Use shim_refuse instead. */
#undef xtables_error

/* How large a buffer becomes when it must grow: *more*, so that it seldom has to grow. When a sanitizer runs, only what
 * is *needed*, so that it sees each access behind the end. */
static inline size_t shim_room(size_t more, size_t needed)
{
#ifdef IPTC_EXACT_ALLOCATIONS
	return more < needed || needed > 65536 ? more : needed;
#else
	return more;
#endif
}

/* A function that libxtables and its plugins call instead of the one with that name. A table of them ends with NULL. */
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

/* Load libxtables and prepare it for this process: its globals, its family, and our place in the order of symbols.
 * Return 0; -1 with the reason in shim_message(); LIBXTABLES_ABSENT or another reason of libxtables.h; or
 * SHIM_IDS_DIFFER if the real user is not the effective one, for which libxtables would end the process. A later call
 * may succeed. */
#define SHIM_IDS_DIFFER 100
int shim_init(void);

/* Run body(arg) so that nothing in it can end the process. Return 0, or -1 with the reason in shim_message():
 * libxtables refused something, or a plugin called exit() or raised SIGFPE. */
int shim_guard(void (*body)(void *), void *arg);
const char *shim_message(void);

/* The exit status with which iptables refuses the same (enum xtables_exittype). */
int shim_refused_with(void);
#define SHIM_OUT_OF_MEMORY (-1)	/* returned instead if an allocation had failed */

/* Inside a guard: refuse, as libxtables does. */
void shim_refuse(int status, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));

/* Inside a guard, before the next option: keep what earlier options have copied, also if this option is refused. */
void shim_keep_copies(void);

/* Inside a guard: the plugin that is called next fills *payload*, which has *room* bytes and stays where it is. */
void shim_lend(void *payload, size_t room);

/* Whether this thread is inside a guard. The second function leaves the guard, with *why* as its message. */
int shim_guarded(void);
void shim_leave(const char *why) __attribute__((noreturn));

/* Handle SIGFPE until the guard ends: the plugin that is called next divides. */
void shim_trap_sigfpe(void);

/* Do as shim_guard, and also catch what plugins print. The text stays until the next call. */
int shim_capture(void (*body)(void *), void *arg);
const char *shim_out(size_t *length);
const char *shim_err(size_t *length);

/* Inside shim_capture: print to the stream that plugins use as stdout, or to the one that they use as stderr. */
void shim_print(const char *text, size_t length);

/*
 * Plugins that this thread calls ask the namespace of the raw socket *fd* what they ask the kernel, or with -1 their own
 * one again. Returns what it was.
 */
int shim_ask_elsewhere(int fd);
void shim_warn(const char *text);

/* Load a plugin with dlopen, and call *callback* for each extension that it registers. Return 0, or -1 with the reason
 * in shim_message(). */
typedef void (*shim_registered)(int is_target, void *extension);
int shim_load(const char *path, shim_registered callback);

/* Set getopt's variables, from which plugins read the words of an option: before parsing, and again after it. */
void shim_set_getopt(char *arg, int index);
int shim_get_optind(void);

#endif
