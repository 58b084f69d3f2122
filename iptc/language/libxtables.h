/* libxtables, which is loaded when a rule is first read or printed: its functions, and whether it is laid out as we know it. */
#ifndef IPTC_LIBXTABLES_H
#define IPTC_LIBXTABLES_H

#include "shim.h"

#pragma GCC visibility push(hidden)

/* Filled by libxtables_open; before it only chain_protos is not NULL. */
struct libxtables {
	void (*init)(void);
	int (*set_params)(struct xtables_globals *globals);
	void (*set_nfproto)(uint8_t family);
	void (*register_match)(struct xtables_match *match);
	void (*register_target)(struct xtables_target *target);
	struct xtables_match *(*find_match)(const char *name, enum xtables_tryload load, struct xtables_rule_match **matches);
	void (*option_mpcall)(unsigned int c, char **argv, bool invert, struct xtables_match *match, void *entry);
	void (*option_tpcall)(unsigned int c, char **argv, bool invert, struct xtables_target *target, void *entry);
	void (*option_mfcall)(struct xtables_match *match);
	void (*option_tfcall)(struct xtables_target *target);
	struct option *(*options_xfrm)(struct option *original, struct option *old, const struct xt_option_entry *table,
				       unsigned int *offset);
	void (*options_fcheck)(const char *name, unsigned int given, const struct xt_option_entry *table);
	uint16_t (*parse_protocol)(const char *name);
	bool (*strtoui)(const char *text, char **end, unsigned int *value, unsigned int least, unsigned int most);
	void (*ipparse_multiple)(const char *text, struct in_addr **addresses, struct in_addr **masks, unsigned int *count);
	void (*ip6parse_multiple)(const char *text, struct in6_addr **addresses, struct in6_addr **masks, unsigned int *count);
	struct xtables_lmap *(*lmap_init)(const char *file);
	const struct xtables_pprot *chain_protos;
	/* since 1.8.8, and since 1.8.11 */
	char *(*strdup)(const char *text);
	void *strtoul_base;
};
extern struct libxtables libxtables;

/* Why it cannot be used. */
enum {
	LIBXTABLES_READY,
	LIBXTABLES_ABSENT,	/* it is not there */
	LIBXTABLES_FAILED,	/* it could not be loaded: libxtables_error() is the errno */
	LIBXTABLES_FOREIGN,	/* it is none that we know */
};

/* Load it and fill the table: LIBXTABLES_READY, or why not. */
int libxtables_open(void);
struct link_map *libxtables_map(void);

/* The size of a row of the options of its plugins; releases differ in that. */
size_t libxtables_option_size(void);

/* Whether it has the layouts that we have; it must be redirected by now. What it has of us then is *globals*. */
int libxtables_examine(struct xtables_globals *globals);

int libxtables_error(void);

/* What is there, by its real path, or ""; and what is wrong with it. */
const char *libxtables_path(void);
const char *libxtables_why(void);

/* The folders that it was built to look for plugins in, with ':' between them; "": it did not say. */
const char *libxtables_folders(void);

/* What stands in for the function of that name in libxtables, or NULL. */
void *libxtables_instead_of(const char *function);

#pragma GCC visibility pop

#endif
