/* Reads BTF, the kernel's description of its own types, to find where the members of structures are. Programs get it
   from /sys/kernel/btf. The data may be damaged in any way: nothing outside of it is read. */
#ifndef IPTC_BPF_TYPES_H
#define IPTC_BPF_TYPES_H

#include <stddef.h>
#include <stdint.h>

struct types {
	const struct types *base;       /* NULL, or the kernel's types, after which the numbers of a module's types begin */
	const unsigned char *records;   /* the records of all types, one after the other */
	size_t records_length;
	const char *strings;
	size_t strings_length;
	uint32_t first_type;            /* the number of its first type */
	uint32_t first_string;          /* the offset of its first string */
	uint32_t count;
	uint32_t *places;               /* offsets in records: where each type begins */
	uint32_t *named;                /* the numbers of the types that can be looked for by name */
	uint32_t named_count;
};

/* What a function returns: 0 or more is an answer, a negative number a reason. */
enum {
	TYPES_BROKEN = -1,              /* not BTF, or damaged */
	TYPES_UNKNOWN_KIND = -2,        /* the kernel is newer than this code */
	TYPES_NO_TYPE = -3,
	TYPES_NO_MEMBER = -4,
	TYPES_BITFIELD = -5,            /* the member does not consist of whole bytes */
	TYPES_AMBIGUOUS = -6,           /* several types have that name, and they differ */
	TYPES_NO_MEMORY = -7,
	TYPES_UNKNOWN_FORM = -8,        /* the other byte order, or another version */
};

struct place {
	uint64_t offset;                /* bytes */
	uint64_t size;
};

/* Read the BTF at data. data and base must stay where they are until types_close. */
int types_open(struct types *types, const void *data, size_t length, const struct types *base);
void types_close(struct types *types);

/* Find the size of a structure, union or typedef. */
int types_size(const struct types *types, const char *name, uint64_t *size);
/* Find a member by its path: "skb", "table.name", "ptr[3]". It may be inside structures and unions without a name. */
int types_member(const struct types *types, const char *name, const char *path, struct place *place);
/* Find a member in bits; it may be a bit-field. */
int types_bits(const struct types *types, const char *name, const char *path, struct place *bits);
/* Find a variable of a section: its offset there, and its size. */
int types_variable(const struct types *types, const char *section, const char *name, struct place *place);
/* Find the number of the function with that name. Programs call a kernel function by it. */
int types_function(const struct types *types, const char *name, uint32_t *number);
/* Return whether there is a typedef with that name. Each tracepoint has one: btf_trace_NAME. */
int types_typedef(const struct types *types, const char *name);
/* Find which argument of a function has that name, counted from 0 (offset), and how many arguments it has (size). */
int types_argument(const struct types *types, const char *function, const char *name, struct place *which);

#endif
