/* Loads libxtables when a rule is first read or printed, and checks that its structures are laid out as we know them.
 * */
#ifndef IPTC_LIBXTABLES_H
#define IPTC_LIBXTABLES_H

#include "shim.h"

#pragma GCC visibility push(hidden)

/* The functions of libxtables. libxtables_open fills the table; before that only chain_protos is not NULL. */
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
	/* NULL before 1.8.8, and NULL before 1.8.11 */
	char *(*strdup)(const char *text);
	void *strtoul_base;
};
extern struct libxtables libxtables;

/* The results of libxtables_open and libxtables_examine. */
enum {
	LIBXTABLES_READY,
	LIBXTABLES_ABSENT, /* libxtables is not installed */
	LIBXTABLES_FAILED, /* it could not be loaded; libxtables_error() is the errno */
	LIBXTABLES_FOREIGN, /* it is a release that we do not know */
};

/* Load libxtables and fill the table. Return LIBXTABLES_READY or another of these results. */
int libxtables_open(void);
struct link_map *libxtables_map(void);

/* The size of a row in the table of options of a plugin. It differs between releases. */
size_t libxtables_option_size(void);

/* Check that libxtables has the layouts that we expect. Its references must be redirected before. It is given globals*.
 * */
int libxtables_examine(struct xtables_globals *globals);

int libxtables_error(void);

/* The real path of libxtables, or "", and the reason why it cannot be used. */
const char *libxtables_path(void);
const char *libxtables_why(void);

/* The folders in which libxtables looks for plugins by default, with ':' between them; "" if that is not known. */
const char *libxtables_folders(void);

/* Return our function that libxtables calls instead of *function*, or NULL. */
void *libxtables_instead_of(const char *function);

#pragma GCC visibility pop

#endif
