#define _GNU_SOURCE
#include "libxtables.h"
#include "library.h"

#include <limits.h>
#include <link.h>
#include <stdlib.h>

/* All state below belongs to the thread that holds the GIL. */

#define FILE_NAME XTABLES_VERSION

/* The protocols whose names libxtables knows by itself (1.8.13). They are used if libxtables is not installed. */
static const struct xtables_pprot protocols[] = {
	{"tcp", IPPROTO_TCP}, {"sctp", IPPROTO_SCTP}, {"udp", IPPROTO_UDP}, {"udplite", IPPROTO_UDPLITE}, {"icmp", IPPROTO_ICMP},
	{"ipv6-icmp", IPPROTO_ICMPV6}, {"esp", IPPROTO_ESP}, {"ah", IPPROTO_AH}, {"mobility-header", IPPROTO_MH},
	{"dccp", IPPROTO_DCCP}, {"ipcomp", IPPROTO_COMP}, {NULL, 0},
};

struct libxtables libxtables = {.chain_protos = protocols};

static void *handle;
static char path[PATH_MAX];
static char why[PATH_MAX + 500];
static char folders[PATH_MAX];
static int error;

int libxtables_error(void)
{
	return error;
}

const char *libxtables_path(void)
{
	return path;
}

const char *libxtables_why(void)
{
	return why;
}

const char *libxtables_folders(void)
{
	return folders;
}

/* ------------------------------------------------------------------- loading */

static const struct library_symbol symbols[] = {
#define SYMBOL(name) {#name, offsetof(struct libxtables, name), 0}
	SYMBOL(init), SYMBOL(set_params), SYMBOL(set_nfproto), SYMBOL(register_match), SYMBOL(register_target), SYMBOL(find_match),
	SYMBOL(option_mpcall), SYMBOL(option_tpcall), SYMBOL(option_mfcall), SYMBOL(option_tfcall), SYMBOL(options_xfrm),
	SYMBOL(options_fcheck), SYMBOL(parse_protocol), SYMBOL(strtoui), SYMBOL(ipparse_multiple), SYMBOL(ip6parse_multiple),
	SYMBOL(lmap_init), SYMBOL(chain_protos),
#undef SYMBOL
	{"strdup", offsetof(struct libxtables, strdup), 1},
	{"strtoul_base", offsetof(struct libxtables, strtoul_base), 1},
};

static struct link_map *map_of(void *library)
{
	struct link_map *map;

	return dlinfo(library, RTLD_DI_LINKMAP, &map) == 0 ? map : NULL;
}

struct link_map *libxtables_map(void)
{
	return map_of(handle);
}

/* Store the path of a library that is loaded. */
static void find_path(void *library)
{
	struct link_map *map = map_of(library);

	if (map == NULL)
		snprintf(path, sizeof(path), "%s", FILE_NAME);
	else if (realpath(map->l_name, path) == NULL)
		snprintf(path, sizeof(path), "%s", map->l_name);
}

static int foreign(const char *reason)
{
	snprintf(why, sizeof(why), "%s", reason);
	return LIBXTABLES_FOREIGN;
}

/* The file is libxtables.so.12.MINOR.REVISION. MINOR is 4 since iptables 1.8.7, and 7 from 1.8.9 to 1.8.13. */
#define LEAST_MINOR 4
#define MOST_MINOR 7
#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

/* Return the end of the file's name, after "libxtables.so.": such as 12.7.0, or 12. */
static const char *file_number(void)
{
	const char *name = strrchr(path, '/');
	const char *number = strstr(name != NULL ? name : path, ".so.");

	return number != NULL ? number + strlen(".so.") : "none";
}

/* Report that the library at `path` is of a release that we do not know. */
static int another_number(void)
{
	char reason[PATH_MAX + 100];

	snprintf(reason, sizeof(reason), "its number is %s, and theirs are 12." TEXT(LEAST_MINOR) " to 12." TEXT(MOST_MINOR), file_number());
	return foreign(reason);
}

static int is_known_number(void)
{
	const char *number = file_number();
	char *end;
	long minor;

	/* the name has no number: only the layouts can tell */
	if (strncmp(number, "12.", strlen("12.")) != 0)
		return 1;
	minor = strtol(number + strlen("12."), &end, 10);
	return end == number + strlen("12.") || (minor >= LEAST_MINOR && minor <= MOST_MINOR);
}

/* Whether another release of libxtables is installed, whose plugins we do not know. */
static int find_another(void)
{
	for (int major = 9; major < 20; major++) {
		char name[32];
		void *other;

		snprintf(name, sizeof(name), "libxtables.so.%d", major);
		if (strcmp(name, FILE_NAME) == 0)
			continue;
		other = dlopen(name, RTLD_LAZY | RTLD_LOCAL);
		if (other != NULL) {
			find_path(other);
			dlclose(other);
			return 1;
		}
	}
	return 0;
}

int libxtables_open(void)
{
	static struct libxtables found;
	struct library_failure failure;

	path[0] = why[0] = folders[0] = '\0';
	if (handle == NULL) {
		handle = library_load(FILE_NAME, RTLD_NOW | RTLD_GLOBAL, "xtables_", symbols, sizeof(symbols) / sizeof(symbols[0]), &found,
				      &failure);
		if (handle != NULL) {
			libxtables = found;
		} else if (failure.error == 0) {
			void *lacking = dlopen(FILE_NAME, RTLD_NOW);

			if (lacking != NULL) {
				find_path(lacking);
				dlclose(lacking);
			}
			snprintf(why, sizeof(why), "it has no %s", failure.text);
			return LIBXTABLES_FOREIGN;
		} else if (failure.text[0] == '\0') {
			return find_another() ? another_number() : LIBXTABLES_ABSENT;
		} else {
			error = failure.error;
			snprintf(why, sizeof(why), "%s", failure.text);
			return LIBXTABLES_FAILED;
		}
	}
	find_path(handle);
	if (!is_known_number())
		return another_number();
	return LIBXTABLES_READY;
}

/* --------------------------------------------------------------- its layouts */

/* To find out which fields libxtables reads, it is called with a match and a target of ours. All other pointers in them
 * lead to `stray`. So if a layout differs, libxtables calls `stray`, which ends the call. */

#define PROBE_ID 7
#define PROBE_FLAGS 0x40

_Static_assert(offsetof(struct xtables_match, udata_size) == offsetof(struct xtables_target, udata_size)
	       && offsetof(struct xtables_match, name) == offsetof(struct xtables_target, name)
	       && offsetof(struct xtables_match, size) == offsetof(struct xtables_target, size)
	       && offsetof(struct xtables_match, save) == offsetof(struct xtables_target, save)
	       && offsetof(struct xtables_match, x6_parse) == offsetof(struct xtables_target, x6_parse),
	       "a target is laid out as a match");

static void __attribute__((noreturn)) stray(void)
{
	shim_leave("stray");
}

/* Fill *room* bytes with the address of `stray`. */
static void *filled(void *words, size_t room)
{
	void *(*word) = words;

	for (size_t i = 0; i < room / sizeof(*word); i++)
		word[i] = (void *)stray;
	return words;
}

static union {
	struct xtables_match match;
	struct xtables_target target;
	void *words[80];
} probe;
static union {
	struct xtables_globals globals;
	void *words[40];
} probe_globals;
/* the other rows have no name, so the end of the table is found whatever the size of a row */
static union {
	struct xt_option_entry first;
	void *words[80];
} probe_options;
static struct xt_entry_match *probe_payload;
static union {
	struct xt_entry_match match;
	char bytes[256];
} probe_data;
static char probe_value[] = "value", probe_entry[8], probe_udata[8];
static char *probe_argv[] = {probe_value, NULL};
static const char probe_name[] = "probe";
static int probed;
static int probing_target;

enum { READ = 1, CHECKED = 2, OLD_READ = 4, OLD_CHECKED = 8, REFUSED = 16 };

static void probe_parse(struct xt_option_call *call)
{
	void *payload = probing_target ? (void *)&probe.target.t : (void *)&probe.match.m;

	if (call->arg == probe_value && call->ext_name == probe_name && call->entry == &probe_options.first
	    && call->data == probe_payload->data && call->xflags == PROBE_FLAGS && call->invert == 1 && (void *)call->match == payload
	    && call->xt_entry == probe_entry && call->udata == probe_udata)
		probed |= READ;
}

static void probe_fcheck(struct xt_fcheck_call *call)
{
	if (call->ext_name == probe_name && call->data == probe_payload->data && call->udata == probe_udata
	    && call->xflags == PROBE_FLAGS)
		probed |= CHECKED;
}

static int probe_old_parse(int c, char **argv, int invert, unsigned int *flags, const void *entry, struct xt_entry_match **payload)
{
	if (c == PROBE_ID && argv == probe_argv && invert == 1 && *flags == PROBE_FLAGS && entry == probe_entry && *payload == probe_payload)
		probed |= OLD_READ;
	return 1;
}

static void probe_old_check(unsigned int flags)
{
	if (flags == PROBE_FLAGS)
		probed |= OLD_CHECKED;
}

static void __attribute__((noreturn)) probe_refuse(enum xtables_exittype status, const char *format, ...)
{
	probed |= REFUSED;
	shim_leave("refused");
}

/* Make a match or target, with new functions (x6_parse, x6_fcheck) if *guided*, and otherwise with old ones. */
static void lay_out(int guided)
{
	filled(&probe, sizeof(probe));
	/* a target has the same layout as a match, up to udata_size */
	probe.match.name = probe_name;
	probe.match.x6_parse = guided ? probe_parse : NULL;
	probe.match.x6_fcheck = guided ? probe_fcheck : NULL;
	probe.match.x6_options = guided ? &probe_options.first : NULL;
	probe.match.parse = probe_old_parse;
	probe.match.final_check = probe_old_check;
	if (probing_target) {
		probe.target.udata = probe_udata;
		probe.target.option_offset = 0;
		probe.target.t = (void *)probe_payload;
		probe.target.tflags = PROBE_FLAGS;
	} else {
		probe.match.udata = probe_udata;
		probe.match.option_offset = 0;
		probe.match.m = probe_payload;
		probe.match.mflags = PROBE_FLAGS;
	}
}

static void call_parse(unsigned int id)
{
	if (probing_target)
		libxtables.option_tpcall(id, probe_argv, true, &probe.target, probe_entry);
	else
		libxtables.option_mpcall(id, probe_argv, true, &probe.match, probe_entry);
}

static void call_check(void)
{
	if (probing_target)
		libxtables.option_tfcall(&probe.target);
	else
		libxtables.option_mfcall(&probe.match);
}

static void probe_calls(void *unused)
{
	for (int guided = 0; guided < 2; guided++) {
		lay_out(guided);
		call_parse(PROBE_ID);
		lay_out(guided);
		call_check();
	}
}

static void probe_refusal(void *unused)
{
	lay_out(1);
	call_parse(PROBE_ID + 1);
}

static int has_our_layouts(void)
{
	char *value = optarg;
	int index = optind;

	filled(&probe_globals, sizeof(probe_globals));
	probe_globals.globals.exit_err = probe_refuse;
	libxtables.set_params(&probe_globals.globals);
	memset(&probe_options, 0, sizeof(probe_options));
	probe_options.first.name = probe_name;
	probe_options.first.id = PROBE_ID;
	/* the table has the option that is given, and requires no other */
	probe_options.first.type = XTTYPE_NONE;
	probe_payload = &probe_data.match;
	for (probing_target = 0; probing_target < 2; probing_target++) {
		probed = 0;
		shim_set_getopt(probe_value, 1);
		shim_guard(probe_calls, NULL);
		shim_guard(probe_refusal, NULL);
		shim_set_getopt(value, index);
		if (probed != (READ | CHECKED | OLD_READ | OLD_CHECKED | REFUSED))
			return 0;
	}
	return 1;
}

/* Later releases have more fields at the end of a row of options. This table has a second row with another name for
 * each size that a row may have. The name that libxtables finds tells the size. */
static size_t option_size;

size_t libxtables_option_size(void)
{
	return option_size;
}

static void list_options(void *result)
{
	static struct option none;
	unsigned int offset = 0;

	*(struct option **)result = libxtables.options_xfrm(&none, NULL, &probe_options.first, &offset);
}

static int find_option_size(void)
{
	static const char names[] = "............";
	const size_t step = sizeof(void *), least = (offsetof(struct xt_option_entry, max) + sizeof(int) + step - 1) / step;
	struct option *list = NULL;

	option_size = 0;
	memset(&probe_options, 0, sizeof(probe_options));
	probe_options.first.name = probe_name;
	for (size_t word = least; word < 2 * least && word - least < sizeof(names); word++)
		probe_options.words[word] = (void *)(names + (word - least));
	if (shim_guard(list_options, &list) != 0 || list == NULL)
		return 0;
	if (list[0].name == probe_name && list[1].name >= names && list[1].name < names + sizeof(names))
		option_size = (least + (list[1].name - names)) * step;
	free(list);
	return option_size != 0;
}

/* ------------------------------------------------------ where its plugins are */

/* Only libxtables knows in which folders it looks for plugins. It is made to look for one, and the paths it tries are
 * noted. */
static int noting;

static int note(const char *file)
{
	const char *end = strrchr(file, '/');
	size_t length = end != NULL ? (size_t)(end - file) : 0, have = strlen(folders);

	if (!noting)
		return 0;
	errno = ENOENT;
	/* in each folder it tries several names, one after the other */
	if (length == 0 || (have >= length && strncmp(folders + have - length, file, length) == 0)
	    || have + length + 2 > sizeof(folders))
		return 1;
	snprintf(folders + have, sizeof(folders) - have, "%s%.*s", have ? ":" : "", (int)length, file);
	return 1;
}

static void look_for_plugin(void *unused)
{
	noting = 1;
	libxtables.set_nfproto(NFPROTO_IPV4);
	libxtables.init();
	libxtables.find_match("iptc-probe", XTF_TRY_LOAD, NULL);
}

/* During that search, the variables that name other folders are hidden. */
static char *noting_getenv(const char *name)
{
	return noting ? NULL : secure_getenv(name);
}

#define STAT(name)									\
	static int noting_##name(const char *file, void *state)				\
	{										\
		if (note(file))								\
			return -1;							\
		return ((int (*)(const char *, void *))dlsym(RTLD_DEFAULT, #name))(file, state);	\
	}
#define XSTAT(name)									\
	static int noting_##name(int version, const char *file, void *state)		\
	{										\
		if (note(file))								\
			return -1;							\
		return ((int (*)(int, const char *, void *))dlsym(RTLD_DEFAULT, #name))(version, file, state);	\
	}
STAT(stat)
STAT(stat64)
STAT(__stat_time64)
STAT(__stat64_time64)
XSTAT(__xstat)
XSTAT(__xstat64)

static const struct stand_in functions[] = {
	{"getenv", (void *)noting_getenv},
	{"stat", (void *)noting_stat},
	{"stat64", (void *)noting_stat64},
	{"__stat_time64", (void *)noting___stat_time64},
	{"__stat64_time64", (void *)noting___stat64_time64},
	{"__xstat", (void *)noting___xstat},
	{"__xstat64", (void *)noting___xstat64},
	{NULL, NULL},
};

void *libxtables_instead_of(const char *function)
{
	return find_stand_in(functions, function);
}

int libxtables_examine(struct xtables_globals *globals)
{
	int known = has_our_layouts();

	libxtables.set_params(globals);
	if (!known || !find_option_size())
		return foreign("its structures are laid out in another way");
	folders[0] = '\0';
	shim_capture(look_for_plugin, NULL);
	noting = 0;
	return LIBXTABLES_READY;
}
