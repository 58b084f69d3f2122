/* The calls of bpf(2) that iptc makes. Each returns a descriptor, 0, or a negative errno. */
#ifndef IPTC_BPF_CALLS_H
#define IPTC_BPF_CALLS_H

#include <stddef.h>
#include <stdint.h>

/* Numbers of the kernel's interface. They never change, but old headers do not have all of them. */
enum {
	BPF_KIND_ARRAY = 2,
	BPF_KIND_PERCPU_ARRAY = 6,
	BPF_MAP_MMAPABLE = 1 << 10,
	BPF_MAP_READ_ONLY = 1 << 3,
	BPF_PROGRAM_RAW_TRACEPOINT = 17,
	BPF_PROGRAM_SYSCALL = 31,
	BPF_PROGRAM_SLEEPABLE = 1 << 4,
};

struct bpf_program_text {
	uint32_t kind;
	uint32_t flags;
	const void *instructions;       /* 8 bytes each */
	uint32_t instruction_count;
	int types;                      /* the descriptor of its BTF; 0 for none */
	const void *functions;          /* struct bpf_func_info: 8 bytes each */
	uint32_t function_count;
	const char *name;
	char *log;                      /* NULL: none */
	uint32_t log_size;
};

struct bpf_map_facts {
	uint32_t kind;
	uint32_t key_size;
	uint32_t value_size;
	uint32_t entries;
	uint32_t flags;
};

struct bpf_link_facts {
	uint32_t kind;
	uint32_t id;                    /* unique since the machine started */
	uint32_t program;
};

/* The kind and the name of the object behind a descriptor. The kernel does not say whether it is a map or a program:
   of_map and kind are right if it is a map, of_program and kind if it is a program. */
struct bpf_names {
	uint32_t kind;
	char of_map[16];
	char of_program[16];
};

/* Find out which object a descriptor stands for: its type and its number. They are the first eight bytes of what the
   kernel answers about a map, a program or a link. */
int bpf_call_identity(int fd, uint64_t *identity);
int bpf_call_map(uint32_t kind, uint32_t value_size, uint32_t entries, uint32_t flags, const char *name);
int bpf_call_get(int map, uint32_t key, void *value);
int bpf_call_put(int map, uint32_t key, const void *value);
int bpf_call_facts(int map, struct bpf_map_facts *facts);
int bpf_call_names(int descriptor, struct bpf_names *names);
int bpf_call_types(const void *types, uint32_t length, char *log, uint32_t log_size);
/* Load a program. Signals for this thread wait until that has ended. */
int bpf_call_program(const struct bpf_program_text *text);
/* Run a program of the kind SYSCALL. It reads its context, and writes its results into it. */
int bpf_call_run(int program, void *context, uint32_t length, uint32_t *result);
int bpf_call_trace(int program, const char *tracepoint);
/* Find out what a link is that bpf_call_trace has made. It fails if the descriptor is not a link. */
int bpf_call_link(int link, struct bpf_link_facts *facts);

#endif
