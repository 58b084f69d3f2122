/* Answers when libxtables and its plugins ask for names of hosts, services, protocols, networks, users and groups.
 * Looking up a name may take long, and must not happen while other threads wait for the GIL. So inside a guard only
 * names that were looked up before are answered. Any other name ends the guarded body. The caller looks it up without
 * the GIL, and runs the body again. */
#ifndef IPTC_NAMES_H
#define IPTC_NAMES_H

#include <stddef.h>
#include <stdint.h>

#define NAMES_KEY 1100

/* A question: which function was called, and with which arguments. */
struct question {
	int kind;
	size_t size;
	char key[NAMES_KEY];
};

struct answer;

/* The answers that were found for one operation, such as a line or a text. names_begin begins it, names_end ends it. */
struct names {
	struct answer **slots;
	size_t room, count;
	uint64_t since;
	int wanted; /* whether a question without an answer ended the last body */
	struct question question;
};

void names_begin(struct names *names);
void names_end(struct names *names);

/* Answer guarded bodies from *names* from now on. NULL: a body looks names up itself, and waits. */
void names_use(struct names *names);

/* Make the call that names->question describes. It may take long, so call this without the GIL. NULL: there is no
 * memory. */
struct answer *names_ask(const struct question *question);

/* Keep an answer in *names*; answers about services and protocols are kept for all. Return 0, or -1 without memory. */
int names_keep(struct names *names, struct answer *answer);

/* getprotobynumber() for protocols that our own code prints. */
struct protoent *names_protocol(int number);

/* Return our function that libxtables and its plugins call instead of *function*, or NULL. */
void *names_instead_of(const char *function);

#endif
