/* The BPF programs with which counters are read. They copy memory of the kernel into maps, and count how often a block
   of per-CPU memory is freed. They write only into maps.

   `scripts/bpf` compiles this file into program.bin, which the package loads. The programs do not know how the kernel
   lays out its structures. They find addresses and offsets in the maps. The code that fills the maps asks the kernel's
   BTF. */

#include <linux/bpf.h>
#include <linux/types.h>
#include "program.h"

#define SEC(name) __attribute__((section(name), used))
#define inline_always inline __attribute__((always_inline))

static void *(*const map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const probe_read_kernel)(void *to, __u32 size, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static long (*const loop)(__u32 times, void *body, void *context, __u64 flags) = (void *)BPF_FUNC_loop;
static __u64 (*const current_task)(void) = (void *)BPF_FUNC_get_current_task;
static void *(*const map_lookup_percpu)(void *map, const void *key, __u32 cpu) =
	(void *)BPF_FUNC_map_lookup_percpu_elem;

/* The maps. The code that loads a program replaces these names by the descriptors of its maps. */
struct map {
	int nothing;
};
struct map copies SEC("maps");   /* array of struct copy: which memory to copy */
struct map cpus SEC("maps");     /* array of struct cpu: the possible CPUs; for measure, array of u64 */
struct map pages SEC("maps");    /* array of BANK bytes: the copies */
struct map head SEC("maps");     /* array with one struct head */
struct map freed SEC("maps");    /* array with two u64: how often a per-CPU block was freed, and its address */
struct map frees SEC("maps");    /* array with one struct frees */
struct map ruler SEC("maps");    /* per-CPU array with one u64: its addresses show where each CPU's memory begins */
struct map given SEC("maps");    /* array like pages: the copies that a process without rights may see */
struct map owners SEC("maps");   /* array of struct owner: one for each copy, or empty */

/* Return the address of byte `begin` of a page of copies. It is in the first BANK_PAGES pages of a bank. The bank has
   one page more, so the verifier sees that a piece of up to PAGE bytes stays within the bank. */
static inline_always void *place(void *map, __u32 page, __u32 begin)
{
	__u32 bank = page / BANK_PAGES;
	char *to;

	begin += (page - bank * BANK_PAGES) * PAGE;
	to = map_lookup(map, &bank);
	if (!to)
		return 0;
	/* without this, the compiler adds before it compares with NULL, which the verifier does not allow */
	asm volatile("" : "+r"(to));
	if (begin >= BANK_PAGES * PAGE)
		return 0;
	return to + begin;
}

/* A memory barrier, by an atomic write to `turns`. */
static inline_always void barrier_here(struct head *what)
{
	__sync_lock_test_and_set(&what->turns, 0);
}

/* ------------------------------------------------------- for those who look for the counters */

struct peeking {
	__u64 from;
	__u32 left;
	__u32 page;
	__u32 failed;
};

static long peek_page(__u32 number, struct peeking *at)
{
	void *to = place(&pages, at->page + number, 0);
	__u32 size = at->left;

	if (size > PAGE)
		size = PAGE;
	if (!to || probe_read_kernel(to, size, (void *)at->from)) {
		at->failed = 1;
		return 1;
	}
	at->from += size;
	at->left -= size;
	return at->left == 0;
}

/* Copies any memory of the kernel, and gives the address of the calling thread's task_struct. A process that may load
   programs uses this to find the counters. It is never handed over. */
SEC("syscall")
int peek(struct peek *request)
{
	struct peeking at = { request->from, request->length, request->page, 0 };

	loop((at.left + PAGE - 1) / PAGE, peek_page, &at, 0);
	request->task = current_task();
	request->failed = at.failed;
	return 0;
}

static long measure_cpu(__u32 number, struct measure *request)
{
	__u32 zero = 0, at = number;
	__u64 *offset = map_lookup(&cpus, &at);
	void *mine;

	if (!offset)
		return 1;
	/* until now, *offset is the number of the CPU */
	mine = map_lookup_percpu(&ruler, &zero, (__u32)*offset);
	if (!mine) {
		request->failed = 1;
		return 1;
	}
	*offset = (__u64)mine;
	return 0;
}

/* Replaces each CPU's number in the map `cpus` by the address of that CPU's value of the map `ruler`. */
SEC("syscall")
int measure(struct measure *request)
{
	struct measure at = { request->cpus, 0 };

	loop(at.cpus, measure_cpu, &at, 0);
	request->failed = at.failed;
	return 0;
}

/* ------------------------------------------------------------------ reading counters */

static inline_always void read_marks(const struct head *what, __u64 *marks)
{
	int i;

#pragma unroll
	for (i = 0; i < MARKS; i++) {
		__u64 mark = 0;

		if (what->mark[i] && probe_read_kernel(&mark, sizeof(mark), (void *)what->mark[i]))
			mark = ~0ULL;
		marks[i] = mark;
	}
}

struct polling {
	__u32 copy, first, end;
	__u32 cpu;
	__u32 page;             /* added to where a copy goes */
	__u32 stride;           /* pages of one CPU */
	__u64 offset;
	__u32 stuck;
	__u32 failed;
};

/* Called before the first copy of a CPU, and after its last one (`ends`). Sets `stuck` if the CPU is in the middle of
   the same change of counters as after its last copy the time before. If it is not stuck, and two copies of a counter
   are equal, then none of them was made in the middle of a change. */
static inline_always int turn(struct polling *at, int ends)
{
	__u32 zero = 0, key = at->cpu, count = 0;
	struct cpu *cpu = map_lookup(&cpus, &key);
	struct head *what = map_lookup(&head, &zero);

	if (!cpu || !what)
		return 0;
	at->offset = cpu->offset;
	if (what->sequence) {
		barrier_here(what);
		probe_read_kernel(&count, sizeof(count), (void *)(what->sequence + at->offset));
		barrier_here(what);
		if (ends)
			cpu->seen = count;
		else
			at->stuck |= count & 1 && count == cpu->seen;
	}
	return 1;
}

static long copy_one(__u32 number, struct polling *at)
{
	__u32 index = at->copy, size;
	struct copy *copy;
	void *to;

	copy = map_lookup(&copies, &index);
	if (!copy || (index == at->first && !turn(at, 0)))
		goto failed;
	to = place(&pages, at->page + copy->page, copy->begin);
	size = copy->size;
	if (!to || size > PAGE)
		goto failed;
	if (probe_read_kernel(to, size, (void *)(copy->from + at->offset)))
		goto failed;
	if (index + 1 == at->end) {
		turn(at, 1);
		at->copy = at->first;
		at->cpu++;
		at->page += at->stride;
	} else {
		at->copy = index + 1;
	}
	return 0;
failed:
	at->failed = 1;
	return 1;
}

/* Fills `at` from a request. Returns 0 if the request is for copies that do not exist. */
static inline_always int begin_polling(const struct poll *request, const struct head *what, struct polling *at)
{
	at->copy = at->first = request->first;
	at->end = request->first + request->count;
	at->cpu = request->cpu;
	at->stride = request->stride;
	at->page = request->page;
	return at->end <= what->copies && at->end >= at->first;
}

/* Copies the counters of all CPUs. Reads the marks before and after that. */
SEC("syscall")
int poll(struct poll *request)
{
	__u32 zero = 0;
	struct head *what = map_lookup(&head, &zero);
	volatile __u64 *frees = map_lookup(&freed, &zero);
	struct polling at = {};

	request->failed = 1;
	if (!what || !frees || !begin_polling(request, what, &at))
		return 0;
	request->freed_before = *frees;
	read_marks(what, request->before);
	barrier_here(what);
	loop(request->count * request->cpus, copy_one, &at, 0);
	barrier_here(what);
	read_marks(what, request->after);
	request->freed_after = *frees;
	request->stuck = at.stuck;
	request->failed = at.failed;
	return 0;
}

struct pairing {
	__u64 one, other, sequence;     /* addresses */
	__u64 words[2];
	__u32 settled;
	__u32 failed;
};

static long read_pair(__u32 number, struct pairing *at)
{
	__u64 one = 0, other = 0, one_again = 0, other_again = 0;
	__u32 count = 0, count_again = 0, zero = 0;
	struct head *what = map_lookup(&head, &zero);

	if (!what)
		return 1;
	if (at->sequence)
		probe_read_kernel(&count, sizeof(count), (void *)at->sequence);
	barrier_here(what);
	at->failed = probe_read_kernel(&one, sizeof(one), (void *)at->one) ||
		     probe_read_kernel(&other, sizeof(other), (void *)at->other);
	barrier_here(what);
	probe_read_kernel(&one_again, sizeof(one_again), (void *)at->one);
	probe_read_kernel(&other_again, sizeof(other_again), (void *)at->other);
	barrier_here(what);
	if (at->sequence)
		probe_read_kernel(&count_again, sizeof(count_again), (void *)at->sequence);
	at->words[0] = one;
	at->words[1] = other;
	at->settled = one == one_again && other == other_again && count == count_again && !(count & 1);
	return at->settled || at->failed;
}

static inline_always void read_both(const struct pair *request, const struct head *what, struct pairing *at)
{
	__u32 index = request->copy, cpu = request->cpu;
	struct copy *copy = map_lookup(&copies, &index);
	__u64 *offset = map_lookup(&cpus, &cpu);

	at->failed = 1;
	/* a process that was handed this program may read the copied counters only */
	if (!copy || !offset || index >= what->copies || request->one > PAGE || request->other > PAGE ||
	    request->one + 8 > copy->size || request->other + 8 > copy->size)
		return;
	at->one = copy->from + *offset + request->one;
	at->other = copy->from + *offset + request->other;
	at->sequence = what->sequence ? what->sequence + *offset : 0;
	loop(PAIR_TRIES, read_pair, at, 0);
}

static inline_always void answer_pair(struct pair *request, const struct pairing *at)
{
	request->words[0] = at->words[0];
	request->words[1] = at->words[1];
	request->settled = at->settled;
	request->failed = at->failed;
}

/* Reads the packets and the bytes of one counter of one CPU, again and again until both stay the same. */
SEC("syscall")
int pair(struct pair *request)
{
	__u32 zero = 0;
	struct head *what = map_lookup(&head, &zero);
	struct pairing at = {};

	request->failed = FAILED;
	if (!what)
		return 0;
	read_both(request, what, &at);
	answer_pair(request, &at);
	return 0;
}

/* ---------------------------------------------------- for processes without any rights

   They have `hand`, `hand_pair` and the map `given`, and none of the other maps. `hand` first copies into the map
   `pages`, which they do not see. Then it checks that the ruleset has not changed, and copies those pages to the map
   `given`. */

/* Returns whether the ruleset and the network namespace are still those whose counters were handed over. */
static inline_always int is_the_same(struct head *what, const volatile __u64 *frees)
{
	__u64 cookie = 0;
	__u32 alive = 0;
	int i, same = !what->ended && (!what->counts_freed || *frees == what->freed);

#pragma unroll
	for (i = 0; i < MARKS; i++) {
		__u64 mark = 0;

		if (what->mark[i] && probe_read_kernel(&mark, sizeof(mark), (void *)what->mark[i]))
			same = 0;
		if ((mark ^ what->value[i]) & what->mask[i])
			same = 0;
	}
	/* a handed-over program does not keep the network namespace alive */
	if (probe_read_kernel(&alive, sizeof(alive), (void *)what->alive) || !alive ||
	    probe_read_kernel(&cookie, sizeof(cookie), (void *)what->cookie_at) || cookie != what->cookie)
		same = 0;
	if (!same)
		what->ended = 1;
	return same;
}

struct owning {
	__u32 first;
	__u32 failed;
};

static long check_owner(__u32 number, struct owning *at)
{
	__u32 index = at->first + number;
	struct owner *owner = map_lookup(&owners, &index);
	struct copy *copy = map_lookup(&copies, &index);
	__u64 first = 0, last = 0;

	if (owner && copy && !probe_read_kernel(&first, sizeof(first), (void *)owner->first_at) &&
	    !probe_read_kernel(&last, sizeof(last), (void *)owner->last_at) && first == copy->from && last == owner->last)
		return 0;
	at->failed = 1;
	return 1;
}

/* Returns whether the table's rules still hold the addresses of these counters. The count of freed blocks does not
   suffice: the process that got the programs can end the program that counts. Then a new table at the same address
   would not be noticed, and its counters may be elsewhere. */
static inline_always int has_them(struct head *what, __u32 first, __u32 count)
{
	struct owning at = { first, 0 };

	if (what->owned)
		loop(count, check_owner, &at, 0);
	if (at.failed)
		what->ended = 1;
	return !at.failed;
}

struct giving {
	__u32 page, next;       /* the first page of the CPU, and the first page after its pages */
	__u32 at;               /* the page that is copied next */
	__u32 stride;
	__u32 given;            /* how many pages were copied */
};

static long give_page(__u32 number, struct giving *at)
{
	void *from = place(&pages, at->at, 0), *to = place(&given, at->at, 0);

	if (!from || !to || probe_read_kernel(to, PAGE, from))
		return 1;
	at->given++;
	at->at++;
	if (at->at == at->next) {
		at->page += at->stride;
		at->next += at->stride;
		at->at = at->page;
	}
	return 0;
}

/* Copies the pages with the requested copies, of all CPUs, from `pages` to `given`. Returns whether all were copied. */
static inline_always int give_pages(const struct poll *request)
{
	__u32 first = request->first, last = first + request->count - 1, wanted;
	struct copy *begin = map_lookup(&copies, &first), *end = map_lookup(&copies, &last);
	struct giving at = {};

	if (!begin || !end)
		return 0;
	at.at = at.page = request->page + begin->page;
	at.next = request->page + end->page + 1;
	at.stride = request->stride;
	wanted = (at.next - at.page) * request->cpus;
	loop(wanted, give_page, &at, 0);
	return at.given == wanted;
}

/* Like poll, for processes without rights. */
SEC("syscall")
int hand(struct poll *request)
{
	__u32 zero = 0;
	struct head *what = map_lookup(&head, &zero);
	volatile __u64 *frees = map_lookup(&freed, &zero);
	char *bank = map_lookup(&given, &zero);
	struct polling at = {};
	int has;

	request->failed = FAILED;
	if (!what || !frees || !bank)
		return 0;
	request->set = what->set;
	request->turn = *(volatile __u64 *)(bank + TURN_AT);
	if (!begin_polling(request, what, &at))
		return 0;
	/* a second run at the same time would write into the pages that this one reads */
	if (__sync_val_compare_and_swap(&what->busy, 0, 1)) {
		request->failed = BUSY;
		return 0;
	}
	if (!is_the_same(what, frees)) {
		request->failed = ANOTHER;
		goto done;
	}
	barrier_here(what);
	loop(request->count * request->cpus, copy_one, &at, 0);
	barrier_here(what);
	has = at.failed || has_them(what, request->first, request->count);
	if (!is_the_same(what, frees) || !has) {
		request->failed = ANOTHER;
		goto done;
	}
	if (at.failed)
		goto done;
	request->stuck = at.stuck;
	if (request->count) {
		request->turn = __sync_fetch_and_add((__u64 *)(bank + TURN_AT), 1) + 1;
		if (!give_pages(request))
			goto done;
	}
	request->failed = 0;
done:
	__sync_lock_test_and_set(&what->busy, 0);
	return 0;
}

/* Like pair, for processes without rights. */
SEC("syscall")
int hand_pair(struct pair *request)
{
	__u32 zero = 0;
	struct head *what = map_lookup(&head, &zero);
	volatile __u64 *frees = map_lookup(&freed, &zero);
	struct pairing at = {};

	request->failed = FAILED;
	if (!what || !frees)
		return 0;
	request->set = what->set;
	request->failed = ANOTHER;
	if (!is_the_same(what, frees))
		return 0;
	barrier_here(what);
	read_both(request, what, &at);
	barrier_here(what);
	if ((at.failed || has_them(what, request->copy, 1)) && is_the_same(what, frees))
		answer_pair(request, &at);
	return 0;
}

/* Runs when the kernel frees a block of per-CPU memory, and counts how often the watched block was freed. Readers of a
   legacy table watch the first block of its counters. The kernel frees that block before it frees the table. It reaches
   this tracepoint before it can give the block to anybody else. args[2] is the block's per-CPU address: window.pyx asks
   BTF whether it is the third argument, before this program is loaded. */
SEC("raw_tp/percpu_free_percpu")
int free_percpu(struct bpf_raw_tracepoint_args *arguments)
{
	__u32 zero = 0;
	volatile __u64 *frees = map_lookup(&freed, &zero);

	if (frees && arguments->args[2] == frees[1])
		__sync_fetch_and_add((__u64 *)frees, 1);
	return 0;
}

/* Writes the address of each block of per-CPU memory that the kernel frees into a log. The kernel reaches this tracepoint
   before it can give the block to anybody else, and holds a lock. So an address that is in use again is in the log. */
SEC("raw_tp/percpu_free_percpu")
int log_free(struct bpf_raw_tracepoint_args *arguments)
{
	__u32 zero = 0;
	struct frees *log = map_lookup(&frees, &zero);
	__u64 number;

	if (!log)
		return 0;
	number = __sync_fetch_and_add(&log->count, 1);
	log->address[number % FREES] = arguments->args[2];
	return 0;
}

char said_license[] SEC("license") = "Dual MIT/GPL";
