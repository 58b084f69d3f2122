/* Names of hosts, services, protocols, networks, users and groups, as libxtables and its plugins ask for them.
 *
 * They are looked up where no other thread waits: inside a guard only what was looked up before is answered. A name that
 * was not ends the guarded body; its caller looks it up without the GIL, and runs the body again. */
#ifndef IPTC_NAMES_H
#define IPTC_NAMES_H

#include <stddef.h>
#include <stdint.h>

#define NAMES_KEY 1100

/* One question: which function, and what it was given. */
struct question {
	int kind;
	size_t size;
	char key[NAMES_KEY];
};

struct answer;

/* What was looked up for one operation, a line or a text. It begins with names_begin and ends with names_end. */
struct names {
	struct answer **slots;
	size_t room, count;
	uint64_t since;
	int wanted;		/* whether a question ended the last body */
	struct question question;
};

void names_begin(struct names *names);
void names_end(struct names *names);

/* From now on guarded bodies are answered from these; NULL: nobody looks anything up for them, and they wait themselves. */
void names_use(struct names *names);

/* Make the call that names->question stands for; without the GIL, it may take long. NULL: no memory. */
struct answer *names_ask(const struct question *question);

/* Keep an answer, for these or for all where it is of services and protocols: 0, or -1 without memory. */
int names_keep(struct names *names, struct answer *answer);

/* getprotobynumber() for what we print ourselves. */
struct protoent *names_protocol(int number);

/* What stands in for the function of that name in libxtables and its plugins, or NULL. */
void *names_instead_of(const char *function);

#endif
