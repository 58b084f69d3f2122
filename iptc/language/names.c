#define _GNU_SOURCE
#include "names.h"
#include "shim.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* All state below belongs to the thread that holds the GIL. */

enum kind {
	ADDRESSES, /* getaddrinfo of a host */
	SERVICE, /* getaddrinfo of a service only */
	NAME_OF_ADDRESS, NETWORK, NETWORK_OF_NUMBER, SERVICE_NAMED, SERVICE_OF_PORT, PROTOCOL, PROTOCOL_OF_NUMBER,
	USER, USER_OF_NUMBER, GROUP, GROUP_OF_NUMBER,
};

struct answer {
	struct answer *next;
	uint64_t serial; /* counts all answers of this process */
	time_t at;
	struct question *question;
	int status, error; /* the result of the call, and the errno that it left */
	union {
		struct addrinfo *addresses;
		struct netent network;
		struct servent service;
		struct protoent protocol;
		struct passwd user;
		struct group group;
		struct { char host[NI_MAXHOST], service[NI_MAXSERV]; } name;
	} found;
	char *buffer; /* the memory that the members of `found` point into */
};

static struct names *current;

/* Names of services and protocols seldom change, and nearly every rule has one: these answers are kept for a second. */
static struct names shared;
static uint64_t serial;

#define MOST_SHARED 1024

static int is_shared(int kind)
{
	return kind == SERVICE || kind == SERVICE_NAMED || kind == SERVICE_OF_PORT || kind == PROTOCOL || kind == PROTOCOL_OF_NUMBER;
}

static time_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
	return time.tv_sec;
}

static void forget(struct answer *answer)
{
	if ((answer->question->kind == ADDRESSES || answer->question->kind == SERVICE) && answer->found.addresses != NULL)
		freeaddrinfo(answer->found.addresses);
	free(answer->buffer);
	free(answer->question);
	free(answer);
}

static size_t hash_of(const struct question *question)
{
	size_t hash = 14695981039346656037u + question->kind;

	for (size_t i = 0; i < question->size; i++)
		hash = (hash ^ (unsigned char)question->key[i]) * 1099511628211u;
	return hash;
}

static struct answer **place_of(struct names *names, const struct question *question)
{
	struct answer **at = &names->slots[hash_of(question) & (names->room - 1)];

	while (*at != NULL && ((*at)->question->kind != question->kind || (*at)->question->size != question->size
			       || memcmp((*at)->question->key, question->key, question->size) != 0))
		at = &(*at)->next;
	return at;
}

static void forget_all(struct names *names)
{
	for (size_t i = 0; i < names->room; i++) {
		while (names->slots[i] != NULL) {
			struct answer *next = names->slots[i]->next;

			forget(names->slots[i]);
			names->slots[i] = next;
		}
	}
	names->count = 0;
}

void names_begin(struct names *names)
{
	names->slots = NULL;
	names->room = names->count = 0;
	names->since = serial;
	names->wanted = 0;
}

void names_end(struct names *names)
{
	if (names->slots == NULL)
		return;
	forget_all(names);
	free(names->slots);
	names->slots = NULL;
	names->room = 0;
}

void names_use(struct names *names)
{
	current = names;
	if (names != NULL)
		names->wanted = 0;
}

static int grow(struct names *names)
{
	size_t room = names->room ? 2 * names->room : 16;
	struct answer **old = names->slots;
	struct names grown = {.slots = calloc(room, sizeof(*old)), .room = room};

	if (grown.slots == NULL)
		return names->room ? 0 : -1;
	for (size_t i = 0; i < names->room; i++) {
		while (old[i] != NULL) {
			struct answer *answer = old[i], **at;

			old[i] = answer->next;
			answer->next = NULL;
			at = place_of(&grown, answer->question);
			*at = answer;
		}
	}
	free(old);
	names->slots = grown.slots;
	names->room = room;
	return 0;
}

int names_keep(struct names *names, struct answer *answer)
{
	struct answer **at, *old;

	if (is_shared(answer->question->kind)) {
		names = &shared;
		if (names->count >= MOST_SHARED)
			forget_all(names);
	}
	if (names->count >= names->room && grow(names) < 0) {
		forget(answer);
		return -1;
	}
	answer->serial = ++serial;
	answer->at = now();
	at = place_of(names, answer->question);
	old = *at;
	answer->next = old != NULL ? old->next : NULL;
	*at = answer;
	if (old != NULL)
		forget(old);
	else
		names->count++;
	return 0;
}

/* ------------------------------------------------------- inside the guard */

/* Return the answer to the question in `current`. If there is none yet, end the guarded body here. */
static struct answer *answer_now(void)
{
	struct question *question = &current->question;
	struct names *names = is_shared(question->kind) ? &shared : current;
	struct answer *answer = names->room ? *place_of(names, question) : NULL;

	if (answer != NULL && (answer->serial > current->since || (answer->status == 0 && now() - answer->at <= 1))) {
		errno = answer->error;
		return answer;
	}
	current->wanted = 1;
	shim_leave("a name has to be looked up");
}

/* Whether we answer. For another user of libxtables in this process, the real function is called. */
static int ours(void)
{
	return shim_guarded() && current != NULL;
}

static void begin(enum kind kind)
{
	current->question.kind = kind;
	current->question.size = 0;
}

static int give(const void *value, size_t size)
{
	struct question *question = &current->question;

	if (size > sizeof(question->key) - question->size)
		return -1;
	memcpy(question->key + question->size, value, size);
	question->size += size;
	return 0;
}

/* Add a string, or NULL, to the question. Each of these strings fits, however long the name. */
static int give_text(const char *text)
{
	return text == NULL ? give("\1", 2) : give("\2", 1) < 0 ? -1 : give(text, strlen(text) + 1);
}

static const char *take_text(const char **at)
{
	const char *text = *at;

	*at += strlen(text) + 1;
	return text[0] == 1 ? NULL : text + 1;
}

/* libxtables calls getaddrinfo() for every port, which then asks the kernel for network interfaces. Plain numbers need
 * no call. */
static struct {
	struct addrinfo info;
	struct sockaddr_in address;
} plain_port;

static int is_plain_port(const char *node, const char *service, const struct addrinfo *hints)
{
	size_t digits = service ? strspn(service, "0123456789") : 0;

	return node == NULL && hints == NULL && digits > 0 && digits <= 5 && service[digits] == '\0' && atoi(service) <= 65535;
}

static int names_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	static const struct addrinfo none;
	int given[5];
	struct answer *answer;

	if (is_plain_port(node, service, hints)) {
		plain_port.address.sin_family = plain_port.info.ai_family = AF_INET;
		plain_port.address.sin_port = htons(atoi(service));
		plain_port.info.ai_addr = (struct sockaddr *)&plain_port.address;
		plain_port.info.ai_addrlen = sizeof(plain_port.address);
		*found = &plain_port.info;
		return 0;
	}
	if (!ours())
		return getaddrinfo(node, service, hints, found);
	given[0] = hints != NULL;
	hints = hints != NULL ? hints : &none;
	given[1] = hints->ai_flags;
	given[2] = hints->ai_family;
	given[3] = hints->ai_socktype;
	given[4] = hints->ai_protocol;
	begin(node == NULL ? SERVICE : ADDRESSES);
	if (give(given, sizeof(given)) < 0 || give_text(node) < 0 || give_text(service) < 0)
		return EAI_NONAME;
	answer = answer_now();
	*found = answer->found.addresses;
	return answer->status;
}

/* Answers that were given inside the guard are freed by us, and not by plugins. */
static void names_freeaddrinfo(struct addrinfo *found)
{
	if (found != &plain_port.info && !ours())
		freeaddrinfo(found);
}

static int names_getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_room, char *service,
			     socklen_t service_room, int flags)
{
	struct answer *answer;

	if (!ours())
		return getnameinfo(address, length, host, host_room, service, service_room, flags);
	begin(NAME_OF_ADDRESS);
	if (give(&flags, sizeof(flags)) < 0 || give(address, length) < 0)
		return EAI_FAMILY;
	answer = answer_now();
	if (answer->status == 0 && ((host != NULL && strlen(answer->found.name.host) >= host_room)
				    || (service != NULL && strlen(answer->found.name.service) >= service_room)))
		return EAI_OVERFLOW;
	if (answer->status == 0 && host != NULL)
		strcpy(host, answer->found.name.host);
	if (answer->status == 0 && service != NULL)
		strcpy(service, answer->found.name.service);
	return answer->status;
}

/* Functions that return a record. Their arguments are the question. */
#define RECORD(type, member, function, kind, parameters, call, keep)		\
	static struct type *names_##function parameters				\
	{									\
		struct answer *answer;						\
										\
		if (!ours())							\
			return function call;					\
		begin(kind);							\
		if (keep)							\
			return NULL;						\
		answer = answer_now();						\
		return answer->status == 0 ? &answer->found.member : NULL;	\
	}

RECORD(netent, network, getnetbyname, NETWORK, (const char *name), (name), give_text(name) < 0)
RECORD(netent, network, getnetbyaddr, NETWORK_OF_NUMBER, (uint32_t net, int type), (net, type),
       give(&net, sizeof(net)) < 0 || give(&type, sizeof(type)) < 0)
RECORD(servent, service, getservbyname, SERVICE_NAMED, (const char *name, const char *protocol), (name, protocol),
       give_text(name) < 0 || give_text(protocol) < 0)
RECORD(servent, service, getservbyport, SERVICE_OF_PORT, (int port, const char *protocol), (port, protocol),
       give(&port, sizeof(port)) < 0 || give_text(protocol) < 0)
RECORD(protoent, protocol, getprotobyname, PROTOCOL, (const char *name), (name), give_text(name) < 0)
RECORD(protoent, protocol, getprotobynumber, PROTOCOL_OF_NUMBER, (int number), (number), give(&number, sizeof(number)) < 0)
RECORD(passwd, user, getpwnam, USER, (const char *name), (name), give_text(name) < 0)
RECORD(passwd, user, getpwuid, USER_OF_NUMBER, (uid_t number), (number), give(&number, sizeof(number)) < 0)
RECORD(group, group, getgrnam, GROUP, (const char *name), (name), give_text(name) < 0)
RECORD(group, group, getgrgid, GROUP_OF_NUMBER, (gid_t number), (number), give(&number, sizeof(number)) < 0)

struct protoent *names_protocol(int number)
{
	return names_getprotobynumber(number);
}

static const struct stand_in functions[] = {
	{"getaddrinfo", (void *)names_getaddrinfo},
	{"freeaddrinfo", (void *)names_freeaddrinfo},
	{"getnameinfo", (void *)names_getnameinfo},
	{"getnetbyname", (void *)names_getnetbyname},
	{"getnetbyaddr", (void *)names_getnetbyaddr},
	{"getservbyname", (void *)names_getservbyname},
	{"getservbyport", (void *)names_getservbyport},
	{"getprotobyname", (void *)names_getprotobyname},
	{"getprotobynumber", (void *)names_getprotobynumber},
	{"getpwnam", (void *)names_getpwnam},
	{"getpwuid", (void *)names_getpwuid},
	{"getgrnam", (void *)names_getgrnam},
	{"getgrgid", (void *)names_getgrgid},
	{NULL, NULL},
};

void *names_instead_of(const char *function)
{
	return find_stand_in(functions, function);
}

/* ------------------------------------------------------ outside of all locks */

static void ask_addresses(struct answer *answer, const char *key)
{
	struct addrinfo hints = {0};
	int given[5];
	const char *node, *service;

	memcpy(given, key, sizeof(given));
	key += sizeof(given);
	node = take_text(&key);
	service = take_text(&key);
	hints.ai_flags = given[1];
	hints.ai_family = given[2];
	hints.ai_socktype = given[3];
	hints.ai_protocol = given[4];
	answer->status = getaddrinfo(node, service, given[0] ? &hints : NULL, &answer->found.addresses);
	answer->error = errno;
	if (answer->status != 0)
		answer->found.addresses = NULL;
}

static void ask_name(struct answer *answer, const char *key, size_t size)
{
	int flags;

	memcpy(&flags, key, sizeof(flags));
	answer->status = getnameinfo((const void *)(key + sizeof(flags)), size - sizeof(flags), answer->found.name.host,
				     sizeof(answer->found.name.host), answer->found.name.service, sizeof(answer->found.name.service), flags);
	answer->error = errno;
}

#ifndef __GLIBC__
/* musl does not know names of networks. Its functions for protocols walk over a table with one position for all
 * threads, so `walking` is a lock: the process whose thread is walking. A lock that a fork has copied from the parent
 * is ignored. */
static _Atomic pid_t walking;

static int one_protocol(const char *name, int number, struct protoent *found, struct protoent **result)
{
	pid_t seen = 0, here = getpid();
	struct protoent *known;

	while (!atomic_compare_exchange_strong(&walking, &seen, here)) {
		if (seen == here) {
			sched_yield();
			seen = 0;
		}
	}
	known = name != NULL ? getprotobyname(name) : getprotobynumber(number);
	if (known != NULL) {
		*found = *known;
		*result = found;
	}
	atomic_store(&walking, 0);
	return 0;
}

#define getprotobyname_r(name, found, buffer, room, result) one_protocol(name, 0, found, result)
#define getprotobynumber_r(number, found, buffer, room, result) one_protocol(NULL, number, found, result)
#define getnetbyname_r(name, found, buffer, room, result, why) ((void)(why), 0)
#define getnetbyaddr_r(number, family, found, buffer, room, result, why) ((void)(why), 0)
#endif

/* Call a function that stores what its record points to in a buffer. Return 0, ERANGE if the buffer is too small, or an
 * errno. */
static int ask_record(struct answer *answer, const char *key, char *buffer, size_t room, int *found)
{
	const char *name = NULL, *protocol = NULL;
	int numbers[2] = {0, 0}, failed = EINVAL, why;
	void *result = NULL;

	switch (answer->question->kind) {
	case NETWORK_OF_NUMBER:
		memcpy(numbers, key, 2 * sizeof(int));
		break;
	case SERVICE_OF_PORT: case PROTOCOL_OF_NUMBER: case USER_OF_NUMBER: case GROUP_OF_NUMBER:
		memcpy(numbers, key, sizeof(int));
		key += sizeof(int);
		if (answer->question->kind == SERVICE_OF_PORT)
			protocol = take_text(&key);
		break;
	default:
		name = take_text(&key);
		if (answer->question->kind == SERVICE_NAMED)
			protocol = take_text(&key);
	}
	switch (answer->question->kind) {
	case NETWORK:
		failed = getnetbyname_r(name, &answer->found.network, buffer, room, (struct netent **)&result, &why);
		break;
	case NETWORK_OF_NUMBER:
		failed = getnetbyaddr_r(numbers[0], numbers[1], &answer->found.network, buffer, room, (struct netent **)&result, &why);
		break;
	case SERVICE_NAMED:
		failed = getservbyname_r(name, protocol, &answer->found.service, buffer, room, (struct servent **)&result);
		break;
	case SERVICE_OF_PORT:
		failed = getservbyport_r(numbers[0], protocol, &answer->found.service, buffer, room, (struct servent **)&result);
		break;
	case PROTOCOL:
		failed = getprotobyname_r(name, &answer->found.protocol, buffer, room, (struct protoent **)&result);
		break;
	case PROTOCOL_OF_NUMBER:
		failed = getprotobynumber_r(numbers[0], &answer->found.protocol, buffer, room, (struct protoent **)&result);
		break;
	case USER:
		failed = getpwnam_r(name, &answer->found.user, buffer, room, (struct passwd **)&result);
		break;
	case USER_OF_NUMBER:
		failed = getpwuid_r(numbers[0], &answer->found.user, buffer, room, (struct passwd **)&result);
		break;
	case GROUP:
		failed = getgrnam_r(name, &answer->found.group, buffer, room, (struct group **)&result);
		break;
	case GROUP_OF_NUMBER:
		failed = getgrgid_r(numbers[0], &answer->found.group, buffer, room, (struct group **)&result);
		break;
	}
	*found = result != NULL;
	return failed;
}

struct answer *names_ask(const struct question *question)
{
	struct answer *answer = calloc(1, sizeof(*answer));
	size_t room = 1024;
	int found = 0;

	if (answer == NULL)
		return NULL;
	answer->question = malloc(offsetof(struct question, key) + question->size);
	if (answer->question == NULL) {
		free(answer);
		return NULL;
	}
	memcpy(answer->question, question, offsetof(struct question, key) + question->size);
	if (question->kind == ADDRESSES || question->kind == SERVICE) {
		ask_addresses(answer, question->key);
		return answer;
	}
	if (question->kind == NAME_OF_ADDRESS) {
		ask_name(answer, question->key, question->size);
		return answer;
	}
	do {
		char *buffer = realloc(answer->buffer, room *= 2);

		if (buffer == NULL) {
			forget(answer);
			return NULL;
		}
		answer->buffer = buffer;
		answer->error = ask_record(answer, question->key, buffer, room, &found);
	} while (answer->error == ERANGE && room < 1 << 24);
	answer->status = found ? 0 : -1;
	return answer;
}
