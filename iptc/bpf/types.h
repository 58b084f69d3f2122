/* BTF, the kernel's description of its own structures, as a program reads it from /sys/kernel/btf: where members of
   structures are. What it is given may be anything: nothing outside of it is read. */
#ifndef IPTC_BPF_TYPES_H
#define IPTC_BPF_TYPES_H

#include <stddef.h>
#include <stdint.h>

struct types {
	const struct types *base;       /* of a module: what its numbers go on after */
	const unsigned char *records;   /* the types, one after the other */
	size_t records_length;
	const char *strings;
	size_t strings_length;
	uint32_t first_type;            /* the number of its first type */
	uint32_t first_string;          /* the offset of its first string */
	uint32_t count;
	uint32_t *places;               /* where each of its types begins in records */
	uint32_t *named;                /* the numbers of what can be looked for by its name */
	uint32_t named_count;
};

/* What a function found out: 0 or more is an answer. */
enum {
	TYPES_BROKEN = -1,              /* not BTF, or not what BTF can be */
	TYPES_UNKNOWN_KIND = -2,        /* of a kernel newer than this code */
	TYPES_NO_TYPE = -3,
	TYPES_NO_MEMBER = -4,
	TYPES_BITFIELD = -5,            /* the member is not of whole bytes */
	TYPES_AMBIGUOUS = -6,           /* several types of that name, and they differ */
	TYPES_NO_MEMORY = -7,
};

struct place {
	uint64_t offset;                /* bytes */
	uint64_t size;
};

/* data has to stay where it is for as long as types is in use; what base says, too. */
int types_open(struct types *types, const void *data, size_t length, const struct types *base);
void types_close(struct types *types);

/* The size of a structure, union or typedef. */
int types_size(const struct types *types, const char *name, uint64_t *size);
/* A member by its path: "skb", "table.name", "ptr[3]"; it may stand in structures and unions without a name. */
int types_member(const struct types *types, const char *name, const char *path, struct place *place);
/* The same in bits, also for a bit-field. */
int types_bits(const struct types *types, const char *name, const char *path, struct place *bits);
/* A variable of a section: its offset there, and its size. */
int types_variable(const struct types *types, const char *section, const char *name, struct place *place);
/* The number of the function of that name: for calls of kernel functions. */
int types_function(const struct types *types, const char *name, uint32_t *number);
/* Whether there is a typedef of that name. Each tracepoint has one: btf_trace_NAME. */
int types_typedef(const struct types *types, const char *name);
/* Which argument of a function has that name, counted from 0, and how many it has. */
int types_argument(const struct types *types, const char *function, const char *name, struct place *which);

#endif
