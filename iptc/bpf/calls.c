/* bpf(2): see calls.h. The structures here are the parts of union bpf_attr that are used, as in Linux 5.18. Newer
   kernels accept them too: they take a union that is shorter than their own. */
#include "calls.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>

enum {
	MAP_CREATE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, PROG_LOAD = 5, PROG_TEST_RUN = 10, OBJ_GET_INFO_BY_FD = 15,
	RAW_TRACEPOINT_OPEN = 17, BTF_LOAD = 18,
};

#define AS_NUMBER(pointer) ((uint64_t)(uintptr_t)(pointer))

static int call(int command, void *attributes, uint32_t size)
{
	long answer = syscall(SYS_bpf, command, attributes, size);
	return answer < 0 ? -errno : (int)answer;
}

/* Set a name in the kernel: at most 15 letters, digits, '_' and '.'. */
static void set_name(char *its, const char *name)
{
	size_t i;
	for (i = 0; i < 15 && name[i]; i++)
		its[i] = name[i];
}

int bpf_call_map(uint32_t kind, uint32_t value_size, uint32_t entries, uint32_t flags, const char *name)
{
	struct {
		uint32_t kind, key_size, value_size, entries, flags, inner, node;
		char name[16];
	} a;

	memset(&a, 0, sizeof(a));
	a.kind = kind;
	a.key_size = sizeof(uint32_t);
	a.value_size = value_size;
	a.entries = entries;
	a.flags = flags;
	set_name(a.name, name);
	return call(MAP_CREATE, &a, sizeof(a));
}

struct element {
	uint32_t map, padding;
	uint64_t key, value, flags;
};

int bpf_call_get(int map, uint32_t key, void *value)
{
	struct element a = { .map = map, .key = AS_NUMBER(&key), .value = AS_NUMBER(value) };
	return call(MAP_LOOKUP_ELEM, &a, sizeof(a));
}

int bpf_call_put(int map, uint32_t key, const void *value)
{
	struct element a = { .map = map, .key = AS_NUMBER(&key), .value = AS_NUMBER(value) };
	return call(MAP_UPDATE_ELEM, &a, sizeof(a));
}

int bpf_call_facts(int map, struct bpf_map_facts *facts)
{
	struct { uint32_t kind, id, key_size, value_size, entries, flags; } info = { 0 };
	struct { uint32_t fd, length; uint64_t info; } a = { map, sizeof(info), AS_NUMBER(&info) };
	int failed = call(OBJ_GET_INFO_BY_FD, &a, sizeof(a));

	facts->kind = info.kind;
	facts->key_size = info.key_size;
	facts->value_size = info.value_size;
	facts->entries = info.entries;
	facts->flags = info.flags;
	return failed;
}

int bpf_call_identity(int fd, uint64_t *identity)
{
	struct { uint32_t fd, length; uint64_t info; } a = { fd, sizeof(*identity), AS_NUMBER(identity) };

	*identity = 0;
	return call(OBJ_GET_INFO_BY_FD, &a, sizeof(a));
}

int bpf_call_link(int link, struct bpf_link_facts *facts)
{
	struct { uint32_t fd, length; uint64_t info; } a = { link, sizeof(*facts), AS_NUMBER(facts) };

	memset(facts, 0, sizeof(*facts));
	return call(OBJ_GET_INFO_BY_FD, &a, sizeof(a));
}

int bpf_call_names(int descriptor, struct bpf_names *names)
{
	/* the kernel answers with a struct bpf_map_info for a map, and a struct bpf_prog_info for a program */
	union {
		struct { uint32_t kind; char before[20]; char name[16]; } map;
		struct { uint32_t kind; char before[60]; char name[16]; } program;
	} info;
	struct { uint32_t fd, length; uint64_t info; } a = { descriptor, sizeof(info), AS_NUMBER(&info) };
	int failed;

	memset(&info, 0, sizeof(info));
	failed = call(OBJ_GET_INFO_BY_FD, &a, sizeof(a));
	names->kind = info.map.kind;
	memcpy(names->of_map, info.map.name, sizeof(names->of_map));
	memcpy(names->of_program, info.program.name, sizeof(names->of_program));
	return failed;
}

int bpf_call_types(const void *types, uint32_t length, char *log, uint32_t log_size)
{
	struct {
		uint64_t types, log;
		uint32_t length, log_size, log_level, padding;
	} a = { AS_NUMBER(types), AS_NUMBER(log), length, log_size, log != NULL, 0 };

	return call(BTF_LOAD, &a, sizeof(a));
}

int bpf_call_program(const struct bpf_program_text *text)
{
	struct {
		uint32_t kind, count;
		uint64_t instructions, license;
		uint32_t log_level, log_size;
		uint64_t log;
		uint32_t version, flags;
		char name[16];
		uint32_t device, attach_type, types, function_size;
		uint64_t functions;
		uint32_t function_count, line_size;
		uint64_t lines;
		uint32_t line_count, attach_type_number;
	} a;
	sigset_t every, usual;
	int answer;

	memset(&a, 0, sizeof(a));
	a.kind = text->kind;
	a.count = text->instruction_count;
	a.instructions = AS_NUMBER(text->instructions);
	/* with this license a program may call all of the kernel's functions for programs, also those for the GPL only */
	a.license = AS_NUMBER("Dual MIT/GPL");
	a.log = AS_NUMBER(text->log);
	a.log_size = text->log != NULL ? text->log_size : 0;
	a.log_level = text->log != NULL;
	a.flags = text->flags;
	set_name(a.name, text->name);
	a.types = text->types;
	a.function_size = text->function_count ? 8 : 0;
	a.functions = AS_NUMBER(text->functions);
	a.function_count = text->function_count;
	/* the kernel stops checking a program as soon as a signal arrives; with a timer it would never come to an end */
	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, &usual);
	answer = call(PROG_LOAD, &a, sizeof(a));
	pthread_sigmask(SIG_SETMASK, &usual, NULL);
	return answer;
}

int bpf_call_run(int program, void *context, uint32_t length, uint32_t *result)
{
	struct {
		uint32_t program, result, data_in, data_out;
		uint64_t data, data_back;
		uint32_t repeat, duration, context_length, context_back_length;
		uint64_t context, context_back;
	} a;
	int failed;

	memset(&a, 0, sizeof(a));
	a.program = program;
	a.context = AS_NUMBER(context);
	a.context_length = length;
	failed = call(PROG_TEST_RUN, &a, sizeof(a));
	*result = a.result;
	return failed;
}

int bpf_call_trace(int program, const char *tracepoint)
{
	struct { uint64_t name; uint32_t program, padding; } a = { AS_NUMBER(tracepoint), program, 0 };
	return call(RAW_TRACEPOINT_OPEN, &a, sizeof(a));
}
