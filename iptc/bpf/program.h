/* The constants and structures that the programs in program.c share with the code that runs them. */
#ifndef IPTC_BPF_PROGRAM_H
#define IPTC_BPF_PROGRAM_H

#include <linux/types.h>

enum {
	PAGE = 4096,            /* size of a page of copies; the kernel's own pages may have another size */
	XT_BLOCK = 4096,        /* XT_PCPU_BLOCK_SIZE of x_tables: a macro, so BTF does not have it. The finder checks it. */
	BANK_PAGES = 15,        /* pages of copies in a bank; a bank is one value of the map, and has one page more */
	BANK = (BANK_PAGES + 1) * PAGE,
	MARKS = 2,
	PAIR_TRIES = 64,
	FREES = 8192,           /* how many addresses the log of freed per-CPU memory has */
	/* offsets in the first bank of the map `given`, after its pages of copies */
	TURN_AT = BANK - 8,     /* how often the program has written copies into `given` */
	SET_AT = BANK - 16,     /* a random number: programs and maps that were handed over together have the same */
};

/* Why a program that was handed over has copied nothing. */
enum {
	FAILED = 1,
	BUSY,                   /* another process is running it now */
	ANOTHER,                /* the ruleset has changed */
};

/* A piece of per-CPU memory. It is copied once for each CPU. The copy lies within one page. */
struct copy {
	__u64 from;             /* per-CPU address */
	__u32 page;
	__u16 begin;            /* in that page */
	__u16 size;
};

/* The rules to which the first and the last counter of a copy belong. Only handed-over programs use it. A rule of
   x_tables holds the address of its counter. */
struct owner {
	__u64 first_at;         /* where the rule of the first counter holds that address */
	__u64 last_at;          /* the same for the last counter */
	__u64 last;             /* the address of the last counter */
};

/* A possible CPU. */
struct cpu {
	__u64 offset;           /* what is added to a per-CPU address */
	__u32 seen;             /* its sequence count when its counters had been copied last */
	__u32 unused;
};

/* What to copy, and how the programs notice that the ruleset has changed. A mark is a word in the kernel's memory that
   changes with the ruleset. */
struct head {
	__u64 mark[MARKS];      /* addresses of the marks; 0: none */
	__u64 sequence;         /* per-CPU address of a sequence count that is odd while counters change; 0: none */
	__u64 turns;            /* the caller sets it to 1, the program sets it to 0: so the caller sees that it ran */
	__u32 copies;           /* how many struct copy are in the map */
	__u32 counts_freed;     /* the number of freed blocks is a mark too */
	/* the rest is only for programs that are handed over */
	__u64 owned;            /* the map of owners is filled */
	__u64 value[MARKS];     /* the values that the marks must have */
	__u64 mask[MARKS];      /* the bits of them that are compared */
	__u64 freed;            /* the number that the count of freed blocks must have */
	__u64 set;              /* see SET_AT */
	__u64 alive;            /* address of four bytes that become 0 when the network namespace ends */
	__u64 cookie_at;        /* address of the cookie of the network namespace */
	__u64 cookie;           /* the cookie that must be there */
	__u64 busy;             /* a process is running the program */
	__u64 ended;            /* the ruleset or the namespace has changed: the program gives out nothing more */
};

/* The per-CPU memory that the kernel freed last. The address number n is at n % FREES. */
struct frees {
	__u64 count;            /* how many were freed since the log began */
	__u64 address[FREES];
};

/* The contexts of the programs. A program writes its results into the members that are marked with "result". */
struct peek {
	__u64 from;             /* the address to copy from */
	__u32 length;
	__u32 page;             /* the first page of the map to copy to */
	__u32 failed;           /* result: some of the memory could not be read */
	__u32 unused;
	__u64 task;             /* result: the address of the task_struct of the calling thread */
};

struct measure {
	__u32 cpus;             /* how many numbers of CPUs are in the map */
	__u32 failed;           /* result */
};

struct poll {
	__u32 first;            /* the number of the first copy to make */
	__u32 count;            /* how many copies to make for each CPU */
	__u32 cpu;              /* the first CPU */
	__u32 cpus;
	__u32 page;             /* the page where the copies of the first CPU begin */
	__u32 stride;           /* pages of one CPU */
	__u64 before[MARKS];    /* result: the eight bytes at each mark before copying */
	__u64 after[MARKS];     /* result: and after it */
	__u64 freed_before;     /* result: the number of freed blocks before copying */
	__u64 freed_after;
	__u32 stuck;            /* result: a CPU was in the middle of the same change the last time */
	__u32 failed;           /* result: not all could be read; of a handed-over program: FAILED, BUSY or ANOTHER */
	/* results of handed-over programs: see TURN_AT and SET_AT */
	__u64 turn;
	__u64 set;
};

struct pair {
	__u32 copy;             /* the number of the copy with the counter */
	__u32 cpu;
	__u32 one;              /* offsets in the copy: eight bytes each */
	__u32 other;
	__u64 words[2];         /* result: the eight bytes at `one` and at `other` */
	__u32 settled;          /* result: no packet was counted between reading the two */
	__u32 failed;           /* result */
	__u64 set;              /* result of a handed-over program: see SET_AT */
};

#endif
