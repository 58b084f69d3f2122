/* BTF: see types.h. */
#include "types.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
	INT = 1, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC,
	FLOAT, DECL_TAG, TYPE_TAG, ENUM64,
};

/* The form of BTF is fixed by the kernel's uapi, linux/btf.h. Its header may grow at the end. */
enum {
	MAGIC = 0xeb9f,
	OTHER_ORDER = 0x9feb,           /* the magic number, written in the other byte order */
	VERSION = 1,
	HEADER = 24,
	RECORD = 12,
	MEMBER = 12,
	DEEPEST = 32,                   /* how deep types may be nested; more means that a type contains itself */
	MOST_MEMBERS = 1 << 16,         /* how many members are read at most to follow one path */
	LARGEST = 1 << 28,              /* bytes of the largest structure: fits into 32 bits as a number of bits too */
};

static uint32_t u32(const unsigned char *at)
{
	uint32_t number;
	memcpy(&number, at, sizeof(number));
	return number;
}

/* One type: what its record says. */
struct type {
	const unsigned char *record;
	const unsigned char *more;      /* what follows the record */
	uint32_t name;
	uint32_t kind;
	uint32_t members;
	bool flag;
	uint32_t size_or_type;
};

static void read_type(struct type *type, const unsigned char *record)
{
	/* until now, a kernel uses 16 bits for the number of members and 5 for the kind; the bits beside them are 0 */
	uint32_t info = u32(record + 4);

	type->record = record;
	type->more = record + RECORD;
	type->name = u32(record);
	type->kind = info >> 24 & 0x7f;
	type->members = info & 0xffffff;
	type->flag = info >> 31;
	type->size_or_type = u32(record + 8);
}

/* Return how many bytes follow the record of a type, or a negative number if its kind is unknown. */
static long follows(const struct type *type)
{
	switch (type->kind) {
	case INT: case VAR: case DECL_TAG:
		return 4;
	case ARRAY:
		return 12;
	case STRUCT: case UNION: case DATASEC: case ENUM64:
		return 12L * type->members;
	case ENUM: case FUNC_PROTO:
		return 8L * type->members;
	case PTR: case FWD: case TYPEDEF: case VOLATILE: case CONST: case RESTRICT: case FUNC: case FLOAT: case TYPE_TAG:
		return 0;
	}
	return -1;
}

/* Return the string at an offset, or NULL if the offset is outside. Each string ends inside: the last byte is 0. */
static const char *string_at(const struct types *types, uint32_t offset)
{
	while (types != NULL && offset < types->first_string)
		types = types->base;
	if (types == NULL || offset - types->first_string >= types->strings_length)
		return NULL;
	return types->strings + (offset - types->first_string);
}

static bool is_named(const struct types *types, uint32_t offset, const char *name)
{
	const char *its = offset ? string_at(types, offset) : NULL;
	return its != NULL && strcmp(its, name) == 0;
}

/* Find a type by its number. Return false if there is none. The number 0 is void. */
static bool find_type(struct type *type, const struct types *types, uint32_t number)
{
	while (types != NULL && number < types->first_type)
		types = types->base;
	if (types == NULL || number == 0 || number - types->first_type >= types->count)
		return false;
	read_type(type, types->records + types->places[number - types->first_type]);
	return true;
}

static bool is_looked_for(uint32_t kind)
{
	return kind == STRUCT || kind == UNION || kind == TYPEDEF || kind == FUNC || kind == DATASEC;
}

/* Walk over all types and count them. With note, also record where each begins, and which have a name to look for. */
static int walk(struct types *types, bool note)
{
	size_t at = 0;
	struct type type;
	long more;

	types->count = types->named_count = 0;
	while (at < types->records_length) {
		if (types->records_length - at < RECORD)
			return TYPES_BROKEN;
		read_type(&type, types->records + at);
		more = follows(&type);
		if (more < 0)
			return TYPES_UNKNOWN_KIND;
		if (types->records_length - at - RECORD < (size_t)more)
			return TYPES_BROKEN;
		if (note)
			types->places[types->count] = at;
		if (type.name && is_looked_for(type.kind)) {
			if (note)
				types->named[types->named_count] = types->first_type + types->count;
			types->named_count++;
		}
		types->count++;
		at += RECORD + more;
	}
	return 0;
}

int types_open(struct types *types, const void *data, size_t length, const struct types *base)
{
	const unsigned char *bytes = data;
	uint64_t header, types_at, types_length, strings_at, strings_length, first_type, first_string;
	uint16_t magic;
	int failed;

	memset(types, 0, sizeof(*types));
	if (length < HEADER || length > UINT32_MAX)
		return TYPES_BROKEN;
	memcpy(&magic, bytes, sizeof(magic));
	if (magic == OTHER_ORDER || (magic == MAGIC && bytes[2] != VERSION))
		return TYPES_UNKNOWN_FORM;
	if (magic != MAGIC)
		return TYPES_BROKEN;
	header = u32(bytes + 4);
	types_at = header + u32(bytes + 8);
	types_length = u32(bytes + 12);
	strings_at = header + u32(bytes + 16);
	strings_length = u32(bytes + 20);
	if (header < HEADER || types_at + types_length > length || strings_at + strings_length > length)
		return TYPES_BROKEN;
	if (strings_length == 0 || bytes[strings_at + strings_length - 1] != 0)
		return TYPES_BROKEN;
	first_type = base ? (uint64_t)base->first_type + base->count : 1;
	first_string = base ? (uint64_t)base->first_string + base->strings_length : 0;
	if (first_type + types_length / RECORD > UINT32_MAX || first_string + strings_length > UINT32_MAX)
		return TYPES_BROKEN;
	types->base = base;
	types->records = bytes + types_at;
	types->records_length = types_length;
	types->strings = (const char *)bytes + strings_at;
	types->strings_length = strings_length;
	types->first_type = first_type;
	types->first_string = first_string;
	failed = walk(types, false);
	if (failed)
		return failed;
	types->places = malloc(((size_t)types->count + types->named_count + 1) * sizeof(*types->places));
	if (types->places == NULL)
		return TYPES_NO_MEMORY;
	types->named = types->places + types->count;
	return walk(types, true);
}

void types_close(struct types *types)
{
	free(types->places);
	memset(types, 0, sizeof(*types));
}

/* Follow typedefs and qualifiers (const, volatile, restrict) to the type that they stand for. */
static int bare(struct type *type, const struct types *types, uint32_t number)
{
	int depth;

	for (depth = 0; depth < DEEPEST; depth++) {
		if (!find_type(type, types, number))
			return TYPES_BROKEN;
		switch (type->kind) {
		case TYPEDEF: case VOLATILE: case CONST: case RESTRICT: case TYPE_TAG:
			number = type->size_or_type;
			continue;
		}
		return 0;
	}
	return TYPES_BROKEN;
}

static int size_of(const struct types *types, uint32_t number, uint64_t *size)
{
	uint64_t times = 1;
	struct type type;
	int depth, failed;

	for (depth = 0; depth < DEEPEST; depth++) {
		failed = bare(&type, types, number);
		if (failed)
			return failed;
		switch (type.kind) {
		case ARRAY:
			times *= u32(type.more + 8);
			if (times > UINT32_MAX)
				return TYPES_BROKEN;
			number = u32(type.more);
			continue;
		case PTR:
			*size = times * sizeof(void *);
			break;
		case INT: case STRUCT: case UNION: case ENUM: case FLOAT: case ENUM64:
			*size = times * type.size_or_type;
			break;
		default:
			return TYPES_BROKEN;
		}
		return *size > LARGEST ? TYPES_BROKEN : 0;
	}
	return TYPES_BROKEN;
}

/* One step of a path: the member that is looked for in a structure, and what was found. */
struct step {
	const struct types *types;
	const char *name;
	size_t name_length;
	unsigned budget;                /* how many members may still be looked at */
	uint64_t bits;
	uint32_t type;
	uint32_t width;                 /* bits of a bit-field; 0 for a member of whole bytes */
};

/* Return how many bits a bit-field has, or 0 for a member of whole bytes, and add to bits where they begin. This is for
   the older form of BTF, in which the type of a bit-field says that. */
static uint32_t narrow_width(const struct types *types, uint32_t number, uint64_t *bits)
{
	struct type type;
	uint32_t encoding;

	if (bare(&type, types, number) || type.kind != INT)
		return 0;
	encoding = u32(type.more);
	if ((encoding & 0xff) == type.size_or_type * 8 && !(encoding >> 16 & 0xff))
		return 0;
	*bits += encoding >> 16 & 0xff;
	return encoding & 0xff;
}

/* Return whether a member of a structure lies within it. *width*: its bits, or 0 for the size of its type. */
static bool is_within(const struct types *types, const struct type *structure, uint32_t offset, uint32_t number,
		      uint32_t width)
{
	uint64_t size, first = offset;

	if (!width)
		width = narrow_width(types, number, &first);
	if (!width) {
		if (size_of(types, number, &size))
			return false;
		size *= 8;
	} else {
		size = width;
	}
	return first + size <= (uint64_t)structure->size_or_type * 8;
}

static int find_member(struct step *step, const struct type *structure, uint64_t bits, int depth)
{
	uint32_t i, offset, width;
	const unsigned char *member;
	const char *name;
	struct type inner;
	int found;

	if (depth == DEEPEST)
		return TYPES_BROKEN;
	for (i = 0; i < structure->members; i++) {
		if (step->budget-- == 0)
			return TYPES_BROKEN;
		member = structure->more + (size_t)i * MEMBER;
		offset = u32(member + 8);
		width = structure->flag ? offset >> 24 : 0;
		if (structure->flag)
			offset &= 0xffffff;
		if (u32(member) == 0) {
			/* a structure without a name: its members belong to the structure around it */
			if (width || bare(&inner, step->types, u32(member + 4)) || (inner.kind != STRUCT && inner.kind != UNION))
				continue;
			if (!is_within(step->types, structure, offset, u32(member + 4), 0))
				return TYPES_BROKEN;
			found = find_member(step, &inner, bits + offset, depth + 1);
			if (found != TYPES_NO_MEMBER)
				return found;
			continue;
		}
		name = string_at(step->types, u32(member));
		if (name == NULL || strncmp(name, step->name, step->name_length) || name[step->name_length])
			continue;
		if (!is_within(step->types, structure, offset, u32(member + 4), width))
			return TYPES_BROKEN;
		step->bits = bits + offset;
		step->type = u32(member + 4);
		step->width = width;
		return 0;
	}
	return TYPES_NO_MEMBER;
}

/* Apply the index with which *path* begins, such as "[3]". */
static int index_array(const struct types *types, const char **path, uint64_t *bits, uint32_t *number)
{
	uint64_t index = 0, size;
	struct type type;
	const char *at = *path + 1;

	if (*at < '0' || *at > '9')
		return TYPES_NO_MEMBER;
	for (; *at >= '0' && *at <= '9'; at++) {
		index = index * 10 + (*at - '0');
		if (index > UINT32_MAX)
			return TYPES_NO_MEMBER;
	}
	if (*at != ']' || bare(&type, types, *number) || type.kind != ARRAY || size_of(types, u32(type.more), &size))
		return TYPES_NO_MEMBER;
	/* a length of 0: a flexible array, at the end of a structure */
	if ((u32(type.more + 8) && index >= u32(type.more + 8)) || index * size > LARGEST)
		return TYPES_NO_MEMBER;
	*bits += index * size * 8;
	*number = u32(type.more);
	*path = at + 1;
	return 0;
}

/* Find where a member is, in bits. *whole: whether it consists of whole bytes. */
static int bits_of(const struct types *types, uint32_t number, const char *path, struct place *place, bool *whole)
{
	struct step step = { .types = types, .budget = MOST_MEMBERS };
	struct type type;
	uint64_t bits = 0;
	int failed;

	for (;;) {
		if (bare(&type, types, number) || (type.kind != STRUCT && type.kind != UNION))
			return TYPES_NO_MEMBER;
		step.name = path;
		step.name_length = strcspn(path, ".[");
		if (step.name_length == 0)
			return TYPES_NO_MEMBER;
		failed = find_member(&step, &type, bits, 0);
		if (failed)
			return failed;
		bits = step.bits;
		number = step.type;
		path += step.name_length;
		while (*path == '[') {
			failed = index_array(types, &path, &bits, &number);
			if (failed)
				return failed;
		}
		if (*path == 0)
			break;
		if (*path++ != '.' || step.width)
			return TYPES_NO_MEMBER;
	}
	if (!step.width)
		step.width = narrow_width(types, number, &bits);
	if (bits > 8ULL * LARGEST)
		return TYPES_BROKEN;
	*whole = !step.width && bits % 8 == 0;
	place->offset = bits;
	if (step.width) {
		place->size = step.width;
		return 0;
	}
	failed = size_of(types, number, &place->size);
	place->size *= 8;
	return failed;
}

/* What to find out about a structure. */
enum question { SIZE, MEMBER_BYTES, MEMBER_BITS };

static int answer_of(const struct types *types, uint32_t number, enum question question, const char *path,
		     struct place *place)
{
	bool whole = true;
	int failed;

	place->offset = 0;
	if (question == SIZE)
		return size_of(types, number, &place->size);
	failed = bits_of(types, number, path, place, &whole);
	if (failed || question == MEMBER_BITS)
		return failed;
	place->offset /= 8;
	place->size /= 8;
	return whole ? 0 : TYPES_BITFIELD;
}

/* Return the next type with this name and one of these kinds, after *at in the list of names, or 0 if there is none. */
static uint32_t next_named(const struct types *types, const char *name, uint32_t kinds, uint32_t *at)
{
	struct type type;
	uint32_t number;

	while (*at < types->named_count) {
		number = types->named[(*at)++];
		if (find_type(&type, types, number) && kinds >> type.kind & 1 && is_named(types, type.name, name))
			return number;
	}
	return 0;
}

enum {
	STRUCTURES = 1 << STRUCT | 1 << UNION,
	TYPEDEFS = 1 << TYPEDEF,
};

/* Find out the same about every structure with that name. The structures of the module come first; if there is none,
   those of the kernel; if there is none, typedefs with that name. All that are found must give the same answer. */
static int ask_structures(const struct types *types, const char *name, enum question question, const char *path,
			  struct place *place)
{
	const struct types *asked;
	uint32_t at, number, kinds;
	struct place answer;
	int failed, result = TYPES_NO_TYPE;

	for (kinds = STRUCTURES; ; kinds = TYPEDEFS) {
		for (asked = types; asked != NULL; asked = asked->base) {
			for (at = 0; (number = next_named(asked, name, kinds, &at)) != 0; ) {
				failed = answer_of(asked, number, question, path, &answer);
				if (result == TYPES_NO_TYPE) {
					result = failed;
					*place = answer;
				} else if (failed != result || (!failed && memcmp(&answer, place, sizeof(answer)))) {
					return TYPES_AMBIGUOUS;
				}
			}
			if (result != TYPES_NO_TYPE)
				return result;
		}
		if (kinds == TYPEDEFS)
			return TYPES_NO_TYPE;
	}
}

int types_size(const struct types *types, const char *name, uint64_t *size)
{
	struct place place = { 0 };
	int failed = ask_structures(types, name, SIZE, NULL, &place);

	*size = place.size;
	return failed;
}

int types_member(const struct types *types, const char *name, const char *path, struct place *place)
{
	memset(place, 0, sizeof(*place));
	return ask_structures(types, name, MEMBER_BYTES, path, place);
}

int types_bits(const struct types *types, const char *name, const char *path, struct place *bits)
{
	memset(bits, 0, sizeof(*bits));
	return ask_structures(types, name, MEMBER_BITS, path, bits);
}

int types_variable(const struct types *types, const char *section, const char *name, struct place *place)
{
	struct type type, variable;
	uint32_t at = 0, number, i;

	for (; types != NULL; types = types->base) {
		for (at = 0; (number = next_named(types, section, 1 << DATASEC, &at)) != 0; ) {
			if (!find_type(&type, types, number))
				return TYPES_BROKEN;
			for (i = 0; i < type.members; i++) {
				const unsigned char *info = type.more + (size_t)i * MEMBER;
				if (!find_type(&variable, types, u32(info)) || variable.kind != VAR)
					continue;
				if (is_named(types, variable.name, name)) {
					place->offset = u32(info + 4);
					place->size = u32(info + 8);
					return 0;
				}
			}
		}
	}
	return TYPES_NO_MEMBER;
}

int types_function(const struct types *types, const char *name, uint32_t *number)
{
	uint32_t at;

	for (; types != NULL; types = types->base) {
		at = 0;
		*number = next_named(types, name, 1 << FUNC, &at);
		if (*number)
			return next_named(types, name, 1 << FUNC, &at) ? TYPES_AMBIGUOUS : 0;
	}
	return TYPES_NO_TYPE;
}

int types_typedef(const struct types *types, const char *name)
{
	uint32_t at;

	for (; types != NULL; types = types->base) {
		at = 0;
		if (next_named(types, name, TYPEDEFS, &at))
			return 1;
	}
	return 0;
}

int types_argument(const struct types *types, const char *function, const char *name, struct place *which)
{
	struct type type;
	uint32_t at, number, i;

	for (; types != NULL; types = types->base) {
		at = 0;
		number = next_named(types, function, 1 << FUNC, &at);
		if (!number)
			continue;
		if (!find_type(&type, types, number) || !find_type(&type, types, type.size_or_type) ||
		    type.kind != FUNC_PROTO)
			return TYPES_BROKEN;
		for (i = 0; i < type.members; i++)
			if (is_named(types, u32(type.more + 8 * (size_t)i), name)) {
				which->offset = i;
				which->size = type.members;
				return 0;
			}
		return TYPES_NO_MEMBER;
	}
	return TYPES_NO_TYPE;
}
