/* A library to preload: the n-th call of a function fails with an errno, once or from then on. All other calls go to
 * the real kernel. The bytes that recv returns can be changed. With FAULTS_STOP in the environment, a writer stops
 * itself between the two steps of a commit until it gets SIGCONT. Libraries whose names begin with FAULTS_MISSING
 * cannot be loaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static char armed[32];
static int at, count, error, always;

/* name: of the function; nth: 0 is the next call; number: an errno, or a negative signal that is sent instead */
void fault_arm(const char *name, int nth, int number, int for_ever)
{
	strncpy(armed, name, sizeof(armed) - 1);
	at = nth;
	count = 0;
	error = number;
	always = for_ever;
}

/* Return how many calls of that function there were. */
int fault_disarm(void)
{
	armed[0] = 0;
	return count;
}

static unsigned long long chance;

/* seed: 0 leaves messages unchanged */
void fault_spoil(unsigned int seed)
{
	chance = seed ? seed * 2862933555777941757ULL + 1 : 0;
}

static unsigned int draw(unsigned int below)
{
	chance = chance * 6364136223846793005ULL + 1442695040888963407ULL;
	return (chance >> 33) % below;
}

/* Change some bytes of a message, mostly lengths and types, or cut it. */
static ssize_t spoilt(unsigned char *data, ssize_t length)
{
	static const unsigned short sizes[] = {0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 19, 20, 21, 36, 0x7fff, 0x8000, 0xfffc, 0xffff};
	unsigned int changes, at;
	unsigned short value;

	if (!chance)
		return length;
	changes = draw(10) ? 0 : 1 + draw(3);
	while (length > 0 && changes--) {
		at = draw(draw(2) ? length : length < 64 ? length : 64);
		switch (draw(6)) {
		case 0:
			data[at] = draw(256);
			break;
		case 1:
			data[at] ^= 1 << draw(8);
			break;
		case 2:
			if (draw(4) == 0)
				length = at + 1;
			break;
		case 3:
			if ((at & ~3) + 8 < length)
				memmove(data + (at & ~3), data + (at & ~3) + 4, length - (at & ~3) - 4), length -= 4;
			break;
		default:
			value = draw(3) ? sizes[draw(sizeof(sizes) / sizeof(*sizes))] : draw(40);
			at &= draw(3) ? ~3 : ~1;
			if (at + 2 <= length)
				memcpy(data + at, &value, 2);
		}
	}
	return length;
}

static int fails(const char *name)
{
	int number;

	if (strcmp(armed, name) != 0)
		return 0;
	number = count++;
	if (number != at && !(always && number > at))
		return 0;
	if (error < 0) {
		/* the call does not fail: a signal arrives during it */
		kill(getpid(), -error);
		return 0;
	}
	errno = error;
	return 1;
}

#define REAL(type, name) static __typeof__(type) real; if (!real) real = (__typeof__(type))dlsym(RTLD_NEXT, name)

int socket(int domain, int kind, int protocol)
{
	REAL(int (*)(int, int, int), "socket");
	return fails("socket") ? -1 : real(domain, kind, protocol);
}

int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
	REAL(int (*)(int, int, int, void *, socklen_t *), "getsockopt");
	if (level == SOL_SOCKET)
		return fails("cookie") ? -1 : real(fd, level, option, value, length);
	return fails(option == 64 ? "info" : "entries") ? -1 : real(fd, level, option, value, length);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length)
{
	REAL(int (*)(int, int, int, const void *, socklen_t), "setsockopt");
	if (level == SOL_SOCKET || level == SOL_NETLINK)
		return fails(level == SOL_SOCKET ? "buffer" : "option") ? -1 : real(fd, level, option, value, length);
	if (option == 65 && getenv("FAULTS_STOP"))
		raise(SIGSTOP);
	return fails(option == 64 ? "replace" : "add") ? -1 : real(fd, level, option, value, length);
}

/* bpf(2) is called by syscall(). Command 15 asks what a descriptor stands for (BPF_OBJ_GET_INFO_BY_FD). */
long syscall(long number, ...)
{
	long a, b, c, d, e, f;
	va_list rest;

	REAL(long (*)(long, ...), "syscall");
	va_start(rest, number);
	a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
	d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
	va_end(rest);
	return number == SYS_bpf && fails(a == 15 ? "bpf info" : "bpf") ? -1 : real(number, a, b, c, d, e, f);
}

/* Only shared memory is counted, which the memory of a map is. */
void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
	REAL(void *(*)(void *, size_t, int, int, int, off_t), "mmap");
	if (flags & MAP_SHARED && !(flags & MAP_ANONYMOUS) && fails("mmap"))
		return MAP_FAILED;
	return real(at, length, protection, flags, fd, offset);
}

#if __SIZEOF_POINTER__ == 8 && defined(__GLIBC__)
/* The name of this function in programs with 64-bit file offsets. */
void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) __attribute__((alias("mmap")));
#endif

int memfd_create(const char *name, unsigned int flags)
{
	REAL(int (*)(const char *, unsigned int), "memfd_create");
	return fails("memfd_create") ? -1 : real(name, flags);
}

ssize_t write(int fd, const void *data, size_t length)
{
	REAL(ssize_t (*)(int, const void *, size_t), "write");
	return fails("write") ? -1 : real(fd, data, length);
}

int fcntl(int fd, int command, ...)
{
	long argument;
	va_list rest;

	REAL(int (*)(int, int, ...), "fcntl");
	va_start(rest, command);
	argument = va_arg(rest, long);
	va_end(rest);
	return fails("fcntl") ? -1 : real(fd, command, argument);
}

#if defined(__GLIBC__) && defined(F_GETLK64)
/* The name of this function in programs with 64-bit file offsets. */
int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));
#endif

ssize_t send(int fd, const void *data, size_t length, int flags)
{
	REAL(ssize_t (*)(int, const void *, size_t, int), "send");
	return fails("send") ? -1 : real(fd, data, length, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	REAL(ssize_t (*)(int, const struct msghdr *, int), "sendmsg");
	return fails("sendmsg") ? -1 : real(fd, message, flags);
}

ssize_t recv(int fd, void *data, size_t length, int flags)
{
	REAL(ssize_t (*)(int, void *, size_t, int), "recv");
	if (fails("recv"))
		return -1;
	if (fails("lost")) {
		/* the message is lost */
		int number = errno;

		real(fd, data, length, flags);
		errno = number;
		return -1;
	}
	return spoilt(data, real(fd, data, length, flags));
}

int flock(int fd, int operation)
{
	REAL(int (*)(int, int), "flock");
	return fails(operation & 8 ? "unlock" : "flock") ? -1 : real(fd, operation);
}

/* Whether starting a thread fails, independently of the armed function. */
static int no_threads;

void fault_threads(int refused)
{
	no_threads = refused;
}

int setns(int fd, int kind)
{
	REAL(int (*)(int, int), "setns");
	return fails("setns") ? -1 : real(fd, kind);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*work)(void *), void *context)
{
	REAL(int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *), "pthread_create");
	return no_threads ? EAGAIN : real(thread, attributes, work, context);
}

static int opened(const char *path, int flags, mode_t mode)
{
	REAL(int (*)(const char *, int, ...), "open64");
	if ((strstr(path, "xtables.lock") && fails("open lock")) || (strstr(path, "/ns/net") && fails("open namespace"))
	    || (strstr(path, "_tables_names") && fails("open names")))
		return -1;
	return real(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list rest;
	mode_t mode;

	va_start(rest, flags);
	mode = va_arg(rest, mode_t);
	va_end(rest);
	return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	va_list rest;
	mode_t mode;

	va_start(rest, flags);
	mode = va_arg(rest, mode_t);
	va_end(rest);
	return opened(path, flags, mode);
}

void *dlopen(const char *name, int flags)
{
	static void *(*real)(const char *, int);
	const char *missing = getenv("FAULTS_MISSING");
	char nowhere[128];

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "dlopen");
	if (missing && name && strncmp(name, missing, strlen(missing)) == 0)
		name = strncat(strcpy(nowhere, "/nonexistent/"), name, 100);
	return real(name, flags);
}
