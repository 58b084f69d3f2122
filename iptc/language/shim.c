#define _GNU_SOURCE
#include "libxtables.h"
#include "names.h"
#include "shim.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <getopt.h>
#include <link.h>
#include <setjmp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* All state below belongs to the thread that is inside a guard, which holds the GIL. */
static __thread sigjmp_buf *landing;
static char message[4096];
static int refused_with;

#define KEPT (1 << 20)	/* bytes of memory that are kept for the next text that plugins print */

/* ------------------------------------------------------------------ guard */

static void land(void) __attribute__((noreturn));
static void land(void)
{
	siglongjmp(*landing, 1);
}

static void __attribute__((noreturn, format(printf, 2, 0))) refuse(int status, const char *format, va_list args)
{
	if (landing == NULL) {
		/* not in a guard: another user of libxtables in this process called this. Do as libxtables does by default */
		vfprintf(stderr, format, args);
		exit(status);
	}
	vsnprintf(message, sizeof(message), format, args);
	refused_with = status;
	if (errno == ENOMEM)
		refused_with = SHIM_OUT_OF_MEMORY;
	land();
}

void shim_refuse(int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	refuse(status, format, args);
}

static void __attribute__((noreturn, format(printf, 2, 3))) exit_err(enum xtables_exittype status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	refuse(status, format, args);
}

/* Copies that plugins have made of the value of an option. They free them at the end of parsing, which a refusal skips.
 * */
#define COPIES 64
static void *copies[COPIES];
static size_t copied;

static char *plugin_strdup(const char *text)
{
	char *copy = libxtables.strdup(text);

	if (landing != NULL && copied < COPIES)
		copies[copied++] = copy;
	return copy;
}

static void not_ours(const void *copy)
{
	for (size_t i = 0; i < copied; i++) {
		if (copies[i] == copy) {
			copies[i] = copies[--copied];
			return;
		}
	}
}

static void plugin_free(void *memory)
{
	not_ours(memory);
	free(memory);
}

/* The payload that a plugin fills. Here it is no allocation of its own, as which SNAT and DNAT of 1.8.7 take it. */
static void *lent;
static size_t lent_room;

void shim_lend(void *payload, size_t room)
{
	lent = payload;
	lent_room = room;
}

static void *plugin_realloc(void *memory, size_t size)
{
	if (memory != NULL && memory == lent) {
		if (size > lent_room)
			shim_refuse(PARAMETER_PROBLEM, "the extension asks for a longer structure");
		return memory;
	}
	not_ours(memory);
	return realloc(memory, size);
}

/* The names that this copies are kept, also if the option is refused. */
static struct xtables_lmap *plugin_lmap_init(const char *file)
{
	size_t before = copied;
	struct xtables_lmap *map = libxtables.lmap_init(file);

	copied = before;
	return map;
}

void shim_keep_copies(void)
{
	copied = 0;
}

/* Called instead of exit() by libxtables and its plugins. */
static void __attribute__((noreturn)) plugin_exit(int status)
{
	if (landing == NULL)
		exit(status);
	/* libxtables calls exit() if an allocation fails */
	if (errno == ENOMEM)
		refused_with = SHIM_OUT_OF_MEMORY;
	snprintf(message, sizeof(message), "the extension gave up (exit status %d)", status);
	land();
}

/* Called instead of other functions that end the process. */
static void __attribute__((noreturn)) plugin_abort(void)
{
	if (landing == NULL)
		abort();
	snprintf(message, sizeof(message), "the extension gave up (abort)");
	land();
}

static void __attribute__((noreturn)) plugin_assert_fail(const char *what, const char *file, unsigned int line, const char *function)
{
	if (landing == NULL) {
		fprintf(stderr, "%s:%u: %s: Assertion `%s' failed.\n", file, line, function, what);
		abort();
	}
	snprintf(message, sizeof(message), "the extension gave up (%s:%u: \"%s\" does not hold)", file, line, what);
	land();
}

int shim_guarded(void)
{
	return landing != NULL;
}

void shim_leave(const char *why)
{
	snprintf(message, sizeof(message), "%s", why);
	land();
}

/* The handler of SIGFPE is ours only while a plugin runs whose code divides. After that the program's handler is
 * restored. It is given the signals that were sent to the process meanwhile, and those that other threads raised. A
 * rule costs two system calls for this: the call that sets our handler also returns the old one. */
static struct sigaction sigfpe_before;
static volatile sig_atomic_t trapped, came_early;
static siginfo_t early;

static void on_sigfpe(int signal, siginfo_t *info, void *context)
{
	/* the processor raised it if the code is positive; otherwise some program sent it */
	int fault = info->si_code > 0;
	struct sigaction before;

	if (!trapped) {
		/* the program's handler is not known yet, or is restored already. A fault of another thread happens again when
		 * its instruction is tried again; a signal that was sent is sent again later */
		if (!fault) {
			early = *info;
			came_early = 1;
		}
		return;
	}
	before = sigfpe_before;
	if (landing != NULL && fault) {
		snprintf(message, sizeof(message), "the extension divided by zero or overflowed on these values");
		/* siglongjmp does not restore the mask of signals */
		pthread_sigmask(SIG_SETMASK, &((ucontext_t *)context)->uc_sigmask, NULL);
		land();
	}
	if (before.sa_flags & SA_RESETHAND) {
		sigfpe_before.sa_flags &= ~SA_SIGINFO;
		sigfpe_before.sa_handler = SIG_DFL;
	}
	if (before.sa_flags & SA_SIGINFO) {
		before.sa_sigaction(signal, info, context);
	} else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
		before.sa_handler(signal);
	} else if (fault || before.sa_handler == SIG_DFL) {
		/* the signal ends the process: now, or when the instruction is tried again */
		before.sa_handler = SIG_DFL;
		sigaction(SIGFPE, &before, NULL);
		if (!fault)
			raise(SIGFPE);
	}
}

static void send_again(void)
{
	while (came_early) {
		came_early = 0;
		syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), SIGFPE, &early);
	}
}

void shim_trap_sigfpe(void)
{
	/* as it was set last time; nearly always it can be used again */
	static struct sigaction trap = {.sa_sigaction = on_sigfpe, .sa_flags = SA_SIGINFO};
	int flags;

	if (trapped || sigaction(SIGFPE, &trap, &sigfpe_before) < 0)
		return;
	flags = SA_SIGINFO | (sigfpe_before.sa_flags & (SA_ONSTACK | SA_RESTART | SA_NODEFER));
	/* the kernel sets one bit for each signal; the rest of a mask has random bytes */
	if (trap.sa_flags != flags || memcmp(&trap.sa_mask, &sigfpe_before.sa_mask, (_NSIG - 1) / 8) != 0) {
		trap.sa_flags = flags;
		trap.sa_mask = sigfpe_before.sa_mask;
		sigaction(SIGFPE, &trap, NULL);
	}
	trapped = 1;
	send_again();
}

static void release_sigfpe(void)
{
	struct sigaction now;

	sigaction(SIGFPE, &sigfpe_before, &now);
	trapped = 0;
	if (!(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_sigfpe)
		/* another thread has set its own handler meanwhile: keep that */
		sigaction(SIGFPE, &now, NULL);
	send_again();
}

int shim_guard(void (*body)(void *), void *arg)
{
	sigjmp_buf here, *outer = landing;
	int failed;

	message[0] = '\0';
	refused_with = OTHER_PROBLEM;
	errno = 0;
	copied = 0;
	lent = NULL;
	failed = sigsetjmp(here, 0);
	if (!failed) {
		landing = &here;
		body(arg);
	}
	landing = outer;
	if (trapped && outer == NULL)
		release_sigfpe();
	while (failed && copied > 0)
		free(copies[--copied]);
	copied = 0;
	lent = NULL;
	return failed ? -1 : 0;
}

const char *shim_message(void)
{
	return message;
}

int shim_refused_with(void)
{
	return refused_with;
}

/* ---------------------------------------------------------------- capture */

/* What libxtables and its plugins print goes to our own streams: when they are loaded, their references to printing
 * functions and to stdout and stderr are redirected here. The streams of the process are not touched. Text stays in the
 * buffer of the stream; what does not fit is spilled to more memory. With musl all text is spilled: its streams keep the
 * first bytes of the buffer for ungetc. */
#ifdef __GLIBC__
#define STAYS_IN_BUFFER 1
#else
#define STAYS_IN_BUFFER 0
#endif

struct sink {
	FILE *stream;
	char *spilled;
	size_t length, room;
	int lost;
	char buffer[1 << 16];
};
static struct sink out, err;

/* The streams that plugins find under the names stdout and stderr. Outside a guard they are those of the process. */
static FILE *plugin_stdout, *plugin_stderr;

static ssize_t spill(void *cookie, const char *text, size_t size)
{
	struct sink *sink = cookie;

	if (sink->room - sink->length < size) {
		size_t room = shim_room(2 * sink->room + size + sizeof(sink->buffer), sink->length + size);
		char *grown = realloc(sink->spilled, room);

		if (grown == NULL) {
			sink->lost = 1;
			return 0;
		}
		sink->spilled = grown;
		sink->room = room;
	}
	memcpy(sink->spilled + sink->length, text, size);
	sink->length += size;
	return size;
}

static int sink_open(struct sink *sink)
{
	if (sink->stream == NULL) {
		sink->stream = fopencookie(sink, "w", (cookie_io_functions_t){.write = spill});
		if (sink->stream == NULL)
			return -1;
		setvbuf(sink->stream, sink->buffer, _IOFBF, sizeof(sink->buffer));
		/* no locking: only the thread that holds the GIL writes to this stream */
		__fsetlocking(sink->stream, FSETLOCKING_BYCALLER);
	}
	if (sink->length > shim_room(KEPT, 0)) {
		/* after a whole table was printed, do not keep that much memory for single rules */
		free(sink->spilled);
		sink->spilled = NULL;
		sink->room = 0;
	}
	sink->length = 0;
	sink->lost = 0;
	__fpurge(sink->stream);
	return 0;
}

/* Spill the rest of a text that did not fit in the buffer or may not stay there. With exact allocations spill all of it, so
 * that a sanitizer sees an access behind its end. */
static void sink_close(struct sink *sink)
{
	if (sink->length > 0 || (__fpending(sink->stream) > 0 && (!STAYS_IN_BUFFER || !shim_room(1, 0))))
		fflush_unlocked(sink->stream);
}

static const char *sink_text(struct sink *sink, size_t *length)
{
	if (sink->stream == NULL) {
		*length = 0;
		return "";
	}
	*length = sink->length ? sink->length : __fpending(sink->stream);
	return sink->length ? sink->spilled : sink->buffer;
}

int shim_capture(void (*body)(void *), void *arg)
{
	int failed;

	if (sink_open(&out) < 0 || sink_open(&err) < 0) {
		refused_with = SHIM_OUT_OF_MEMORY;
		if (trapped)
			release_sigfpe();
		return -1;
	}
	plugin_stdout = out.stream;
	plugin_stderr = err.stream;
	failed = shim_guard(body, arg);
	plugin_stdout = stdout;
	plugin_stderr = stderr;
	sink_close(&out);
	sink_close(&err);
	if (!failed && (out.lost || err.lost)) {
		refused_with = SHIM_OUT_OF_MEMORY;
		return -1;
	}
	return failed;
}

void shim_print(const char *text, size_t length)
{
	fwrite_unlocked(text, 1, length, out.stream);
}

void shim_warn(const char *text)
{
	fputs_unlocked(text, err.stream);
}

const char *shim_out(size_t *length)
{
	return sink_text(&out, length);
}

const char *shim_err(size_t *length)
{
	return sink_text(&err, length);
}

/* Called by plugins instead of the functions that print to stdout or stderr. */

static FILE *stream_of(struct sink *sink)
{
	if (landing != NULL)
		return sink->stream;
	return sink == &out ? stdout : stderr;
}

static int plugin_vprintf(const char *format, va_list args)
{
	return vfprintf(stream_of(&out), format, args);
}

static int plugin_vprintf_chk(int flag, const char *format, va_list args)
{
	return vfprintf(stream_of(&out), format, args);
}

static int plugin_printf(const char *format, ...)
{
	va_list args;
	int written;

	va_start(args, format);
	written = vfprintf(stream_of(&out), format, args);
	va_end(args);
	return written;
}

static int plugin_printf_chk(int flag, const char *format, ...)
{
	va_list args;
	int written;

	va_start(args, format);
	written = vfprintf(stream_of(&out), format, args);
	va_end(args);
	return written;
}

static int plugin_puts(const char *text)
{
	FILE *stream = stream_of(&out);

	return fputs(text, stream) == EOF || putc('\n', stream) == EOF ? EOF : 1;
}

static int plugin_putchar(int c)
{
	return putc(c, stream_of(&out));
}

/* Print ": reason" at the end of a message, if there is a reason. */
static void print_message(int error, const char *format, va_list args)
{
	FILE *stream = stream_of(&err);

	if (format != NULL)
		vfprintf(stream, format, args);
	if (error)
		fprintf(stream, "%s%s", format != NULL ? ": " : "", strerror(error));
	putc('\n', stream);
}

static void plugin_perror(const char *text)
{
	int error = errno;

	if (text != NULL && text[0] != '\0')
		fprintf(stream_of(&err), "%s: ", text);
	fprintf(stream_of(&err), "%s\n", strerror(error));
}

static void plugin_warn(const char *format, ...)
{
	int error = errno;
	va_list args;

	va_start(args, format);
	print_message(error, format, args);
	va_end(args);
}

static void plugin_warnx(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_message(0, format, args);
	va_end(args);
}

static void __attribute__((noreturn)) plugin_err(int status, const char *format, ...)
{
	int error = errno;
	va_list args;

	va_start(args, format);
	print_message(error, format, args);
	va_end(args);
	plugin_exit(status);
}

static void __attribute__((noreturn)) plugin_errx(int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_message(0, format, args);
	va_end(args);
	plugin_exit(status);
}

static void plugin_error(int status, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_message(error, format, args);
	va_end(args);
	if (status)
		plugin_exit(status);
}

/* ---------------------------------------------------------------- plugins */

static shim_registered collect;
static int refused;

static void registered(int is_target, const char *name, const char *version, size_t size, void *extension)
{
	if (version == NULL || strcmp(version, XTABLES_VERSION) != 0) {
		snprintf(message, sizeof(message), "%s \"%s\" has version \"%s\", but \"%s\" is required",
			 is_target ? "target" : "match", name, version ? version : "(none)", XTABLES_VERSION);
		refused = 1;
	} else if (size != XT_ALIGN(size) || strlen(name) >= XT_EXTENSION_MAXNAMELEN) {
		snprintf(message, sizeof(message), "%s \"%s\" has an invalid size or name",
			 is_target ? "target" : "match", name);
		refused = 1;
	} else {
		collect(is_target, extension);
	}
}

/* Whether *version* can belong to a further row of a plugin's table: then it is in the same file as the table. */
static int is_row(int is_target, const void *table, const char *version)
{
	Dl_info ours, its;

	if (collect == NULL || refused)
		return collect == NULL;
	if (dladdr(table, &ours) != 0 && version != NULL && dladdr(version, &its) != 0 && ours.dli_fbase == its.dli_fbase)
		return 1;
	snprintf(message, sizeof(message), "its %s are laid out in another way", is_target ? "targets" : "matches");
	refused = 1;
	return 0;
}

/* The constructors of plugins call these four functions. The linker finds them before those of libxtables. They fill
 * our own registry, which knows both families and all revisions, and they never end the process. For other users of
 * libxtables they call the functions of libxtables. */
#define EXPORT __attribute__((visibility("default")))

EXPORT void xtables_register_match(struct xtables_match *me)
{
	if (collect != NULL)
		registered(0, me->name, me->version, me->size, me);
	else
		libxtables.register_match(me);
}

EXPORT void xtables_register_matches(struct xtables_match *match, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		if (is_row(0, &match[0], match[i].version))
			xtables_register_match(&match[i]);
}

EXPORT void xtables_register_target(struct xtables_target *me)
{
	if (collect != NULL)
		registered(1, me->name, me->version, me->size, me);
	else
		libxtables.register_target(me);
}

EXPORT void xtables_register_targets(struct xtables_target *target, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		if (is_row(1, &target[0], target[i].version))
			xtables_register_target(&target[i]);
}

/* The raw socket of the network namespace that the rules of this thread are of; -1 for that of the thread. */
static __thread int elsewhere = -1;

int shim_ask_elsewhere(int fd)
{
	int before = elsewhere;

	elsewhere = fd;
	return before;
}

/* A plugin that asks the kernel, such as for the number of a set, asks the namespace of the rule. */
static int plugin_socket(int domain, int type, int protocol)
{
	if (elsewhere >= 0 && domain == AF_INET && protocol == IPPROTO_RAW)
		return fcntl(elsewhere, F_DUPFD_CLOEXEC, 0);
	return socket(domain, type, protocol);
}

static const struct stand_in redirected[] = {
	{"socket", (void *)plugin_socket},
	{"exit", (void *)plugin_exit},
	{"_exit", (void *)plugin_exit},
	{"_Exit", (void *)plugin_exit},
	{"quick_exit", (void *)plugin_exit},
	{"abort", (void *)plugin_abort},
	{"__assert_fail", (void *)plugin_assert_fail},
	{"stdout", (void *)&plugin_stdout},
	{"stderr", (void *)&plugin_stderr},
	{"printf", (void *)plugin_printf},
	{"vprintf", (void *)plugin_vprintf},
	{"__printf_chk", (void *)plugin_printf_chk},
	{"__vprintf_chk", (void *)plugin_vprintf_chk},
	{"puts", (void *)plugin_puts},
	{"putchar", (void *)plugin_putchar},
	{"putchar_unlocked", (void *)plugin_putchar},
	{"perror", (void *)plugin_perror},
	{"warn", (void *)plugin_warn},
	{"warnx", (void *)plugin_warnx},
	{"err", (void *)plugin_err},
	{"errx", (void *)plugin_errx},
	{"error", (void *)plugin_error},
	{"xtables_strdup", (void *)plugin_strdup},
	{"xtables_lmap_init", (void *)plugin_lmap_init},
	{"free", (void *)plugin_free},
	{"realloc", (void *)plugin_realloc},
	{NULL, NULL},
};

static void *instead_of(const char *name)
{
	return find_stand_in(redirected, name) ?: names_instead_of(name) ?: libxtables_instead_of(name);
}

/* On some architectures, addresses in the dynamic section are relative to the start of the file. */
static const void *absolute(const struct link_map *map, ElfW(Addr) address)
{
	return (const void *)(address < map->l_addr ? map->l_addr + address : address);
}

/* Redirect references of a loaded object from these functions to ours. */
static void redirect(struct link_map *map)
{
	const ElfW(Sym) *symbols = NULL;
	const char *names = NULL;
	struct { const char *at; size_t size, step; } tables[3] = {
		{NULL, 0, 0}, {NULL, 0, sizeof(ElfW(Rela))}, {NULL, 0, sizeof(ElfW(Rel))},
	};
	long page = sysconf(_SC_PAGESIZE);

	for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
		switch (d->d_tag) {
		case DT_SYMTAB: symbols = absolute(map, d->d_un.d_ptr); break;
		case DT_STRTAB: names = absolute(map, d->d_un.d_ptr); break;
		case DT_JMPREL: tables[0].at = absolute(map, d->d_un.d_ptr); break;
		case DT_PLTRELSZ: tables[0].size = d->d_un.d_val; break;
		case DT_PLTREL: tables[0].step = d->d_un.d_val == DT_RELA ? sizeof(ElfW(Rela)) : sizeof(ElfW(Rel)); break;
		case DT_RELA: tables[1].at = absolute(map, d->d_un.d_ptr); break;
		case DT_RELASZ: tables[1].size = d->d_un.d_val; break;
		case DT_REL: tables[2].at = absolute(map, d->d_un.d_ptr); break;
		case DT_RELSZ: tables[2].size = d->d_un.d_val; break;
		}
	}
	if (symbols == NULL || names == NULL)
		return;
	for (int t = 0; t < 3; t++) {
		if (tables[t].at == NULL || tables[t].step == 0)
			continue;
		for (size_t at = 0; at + tables[t].step <= tables[t].size; at += tables[t].step) {
			/* Rel and Rela begin with the same members; r_addend, which only Rela has, is not used */
			const ElfW(Rela) *r = (const void *)(tables[t].at + at);
			size_t symbol = ELF64_R_SYM(r->r_info);
			void **slot = (void **)(map->l_addr + r->r_offset);
			char *start = (char *)((uintptr_t)slot & ~(uintptr_t)(page - 1));
			char *instead = symbol != 0 ? instead_of(names + symbols[symbol].st_name) : NULL;

			if (instead == NULL)
				continue;
			if (tables[t].step == sizeof(ElfW(Rela)))
				instead += r->r_addend;
			/* with full RELRO the page is read-only by now. It stays writable, since it may contain data too */
			if (mprotect(start, page, PROT_READ | PROT_WRITE) == 0)
				*slot = instead;
		}
	}
}

int shim_load(const char *path, shim_registered callback)
{
	struct link_map *map;
	void *handle;

	message[0] = '\0';
	refused = 0;
	collect = callback;
	handle = dlopen(path, RTLD_NOW);
	collect = NULL;
	if (handle == NULL) {
		const char *why = dlerror();

		snprintf(message, sizeof(message), "%s", why ? why : "dlopen failed");
		return -1;
	}
	if (refused)
		return -1;
	if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0)
		redirect(map);
	return 0;
}

/* ------------------------------------------------------------------- init */

/* Our registry asks the kernel for revisions, so libxtables need not. */
static int any_revision(const char *name, uint8_t revision, int option)
{
	return 1;
}

static struct option no_options[] = {{NULL}};

static struct {
	struct xtables_globals ours;
	void *more[16]; /* members that a later release may have */
} globals = {.ours = {
	.program_name = "iptables",
	.program_version = "iptc",
	.orig_opts = no_options,
	.opts = NULL, /* libxtables frees this pointer */
	.exit_err = exit_err,
	.compat_rev = any_revision,
}};

static void call_init(void *unused)
{
	libxtables.init();
}

int shim_init(void)
{
	Dl_info self;
	int failed;

	/* xtables_init() would end the process */
	if (getuid() != geteuid())
		return SHIM_IDS_DIFFER;
	message[0] = '\0';
	/* our functions that register extensions must be found before those of libxtables */
	if (dladdr((void *)shim_init, &self) == 0
	    || dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL) == NULL)
		return -1;
	plugin_stdout = stdout;
	plugin_stderr = stderr;
	failed = libxtables_open();
	if (failed)
		return failed;
	/* redirect first, before any code of the library runs */
	redirect(libxtables_map());
	failed = libxtables_examine(&globals.ours);
	if (failed)
		return failed;
	libxtables.set_nfproto(NFPROTO_IPV4);
	return shim_capture(call_init, NULL);
}

void shim_set_getopt(char *arg, int index)
{
	optarg = arg;
	optind = index;
}

int shim_get_optind(void)
{
	return optind;
}
