/* A library to preload: look-ups of names that begin with "slow", and of protocol 250, wait until the test continues
 * them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <grp.h>
#include <netdb.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int asked = -1, released = -1;

/* A look-up writes to *say* when it begins, and then reads from *wait*. */
void block_on(int say, int wait)
{
	asked = say;
	released = wait;
}

static int is_slow(const char *name)
{
	return name != NULL && strncmp(name, "slow", 4) == 0;
}

static void block(void)
{
	char byte = 'x';

	if (write(asked, &byte, 1) != 1 || read(released, &byte, 1) != 1)
		abort();
}

#define REAL(type, name) static __typeof__(type) real; if (!real) real = (__typeof__(type))dlsym(RTLD_NEXT, name)

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	REAL(int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **), "getaddrinfo");
	if (is_slow(node)) {
		block();
		node = hints != NULL && hints->ai_family == AF_INET6 ? "2001:db8::1" : "192.0.2.1";
	}
	if (is_slow(service)) {
		block();
		service = "22";
	}
	return real(node, service, hints, found);
}

/* All members of an entry are filled in, since a sanitizer checks them. */
static char *no_aliases[] = {NULL};

int getservbyname_r(const char *name, const char *protocol, struct servent *entry, char *buffer, size_t room, struct servent **found)
{
	REAL(int (*)(const char *, const char *, struct servent *, char *, size_t, struct servent **), "getservbyname_r");
	if (is_slow(name)) {
		block();
		*entry = (struct servent){.s_name = "ssh", .s_aliases = no_aliases, .s_port = 22 << 8, .s_proto = "tcp"};
		*found = entry;
		return 0;
	}
	return real(name, protocol, entry, buffer, room, found);
}

int getprotobyname_r(const char *name, struct protoent *entry, char *buffer, size_t room, struct protoent **found)
{
	REAL(int (*)(const char *, struct protoent *, char *, size_t, struct protoent **), "getprotobyname_r");
	if (is_slow(name)) {
		block();
		*entry = (struct protoent){.p_name = "tcp", .p_aliases = no_aliases, .p_proto = 6};
		*found = entry;
		return 0;
	}
	return real(name, entry, buffer, room, found);
}

int getprotobynumber_r(int number, struct protoent *entry, char *buffer, size_t room, struct protoent **found)
{
	REAL(int (*)(int, struct protoent *, char *, size_t, struct protoent **), "getprotobynumber_r");
	if (number == 250)
		block();
	return real(number, entry, buffer, room, found);
}

int getpwnam_r(const char *name, struct passwd *entry, char *buffer, size_t room, struct passwd **found)
{
	REAL(int (*)(const char *, struct passwd *, char *, size_t, struct passwd **), "getpwnam_r");
	if (is_slow(name)) {
		block();
		name = "root";
	}
	return real(name, entry, buffer, room, found);
}

int getgrnam_r(const char *name, struct group *entry, char *buffer, size_t room, struct group **found)
{
	REAL(int (*)(const char *, struct group *, char *, size_t, struct group **), "getgrnam_r");
	if (is_slow(name)) {
		block();
		name = "root";
	}
	return real(name, entry, buffer, room, found);
}
