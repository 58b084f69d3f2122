/* What the kernel does for a reader of counters: it copies the memory that it is told to copy, and counts what is freed.
   It writes nothing that is the kernel's own.

   `scripts/bpf` makes program.bin of it, which is what is loaded. Nothing in here knows how a structure of the kernel is
   laid out: addresses and offsets are in the maps, and who fills them in asks the kernel's BTF. */

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

/* The maps. Whoever loads a program puts the descriptors of its own maps here, by these names. */
struct map {
	int nothing;
};
struct map copies SEC("maps");   /* array of struct copy: what is copied */
struct map cpus SEC("maps");     /* array of struct cpu: the possible CPUs; for measure only, of u64 */
struct map pages SEC("maps");    /* array of PAGE bytes: what was copied */
struct map head SEC("maps");     /* array with one struct head */
struct map freed SEC("maps");    /* array with two u64: how often a piece of per-CPU memory was freed, and which one */
struct map ruler SEC("maps");    /* per-CPU array with one u64: shows where the memory of each CPU begins */
struct map given SEC("maps");    /* array as pages: what a process without rights may see of them */
struct map owners SEC("maps");   /* array of struct owner, one for each copy, or none */

/* Where a page of what is copied stands: nothing that begins in a bank may reach into its last page, so that the verifier
   sees that each piece of up to a page stays within. */
static inline_always void *place(void *map, __u32 page, __u32 begin)
{
	__u32 bank = page / BANK_PAGES;
	char *to;

	begin += (page - bank * BANK_PAGES) * PAGE;
	to = map_lookup(map, &bank);
	if (!to)
		return 0;
	/* the compiler would add before it has looked, which the verifier does not allow */
	asm volatile("" : "+r"(to));
	if (begin >= BANK_PAGES * PAGE)
		return 0;
	return to + begin;
}

/* What comes before is done before what comes after. */
static inline_always void barrier_here(struct head *what)
{
	__sync_lock_test_and_set(&what->turns, 0);
}

/* ------------------------------------------------------------ copying what is asked for */

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

/* For whoever finds out where counters are: copies any memory, and says where the calling thread is. Only who may load
   programs has this. */
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
	/* its number until now */
	mine = map_lookup_percpu(&ruler, &zero, (__u32)*offset);
	if (!mine) {
		request->failed = 1;
		return 1;
	}
	*offset = (__u64)mine;
	return 0;
}

/* Turns numbers of CPUs into where each of them has its value of the ruler. */
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

/* A CPU's turn begins or ends. It is stuck if it is where it was at the end of its last turn, in the middle of changing
   counters. If it has moved on since, two equal copies of a counter are whole: none was made while it changed that. */
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

/* Prepares to copy what is asked for; whether that can be. */
static inline_always int begin_polling(const struct poll *request, const struct head *what, struct polling *at)
{
	at->copy = at->first = request->first;
	at->end = request->first + request->count;
	at->cpu = request->cpu;
	at->stride = request->stride;
	at->page = request->page;
	return at->end <= what->copies && at->end >= at->first;
}

/* Copies the counters of all CPUs, and what tells their ruleset from others, before and after. */
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
	/* only what is copied as well: who has this program may read nothing else */
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

/* Reads the two numbers of one counter of one CPU that belong together: until they stay what they are. */
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

   They have `hand`, `hand_pair` and the map `given`, and none of the other maps. What they ask for is copied where they do
   not see it, and they are given it only if the ruleset is still the one whose counters stand there. */

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
	/* who was handed something keeps no network namespace from ending */
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

/* Whether the copies are of memory that the table has. Who was handed something may end what counts the memory that is
   freed: another table, in the place of the one that was there, may have other memory. */
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
	__u32 page, next;       /* of the CPU: its first one, and the one behind its last one */
	__u32 at;
	__u32 stride;
	__u32 given;
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

/* Gives the pages of all CPUs that the copies went to; whether all of them. */
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

/* As poll, for who has no rights. */
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
	/* another run would write where this one reads */
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

/* As pair, for who has no rights. */
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

/* percpu_free_percpu: a piece of per-CPU memory goes. Whoever reads a table of x_tables watches the first block of its
   counters: the table is gone only after that is, and nobody gets the block again before this has counted it. */
SEC("raw_tp/percpu_free_percpu")
int free_percpu(struct bpf_raw_tracepoint_args *arguments)
{
	__u32 zero = 0;
	volatile __u64 *frees = map_lookup(&freed, &zero);

	if (frees && arguments->args[2] == frees[1])
		__sync_fetch_and_add((__u64 *)frees, 1);
	return 0;
}

char said_license[] SEC("license") = "Dual MIT/GPL";
