/* What the programs in program.c and those who run them tell each other. */
#ifndef IPTC_BPF_PROGRAM_H
#define IPTC_BPF_PROGRAM_H

#include <linux/types.h>

enum {
	PAGE = 4096,            /* of what is copied, whatever the kernel's own pages are */
	XT_BLOCK = 4096,        /* XT_PCPU_BLOCK_SIZE of x_tables */
	BANK_PAGES = 15,        /* that are used of a bank, which is one value of the map and has one more */
	BANK = (BANK_PAGES + 1) * PAGE,
	MARKS = 2,
	PAIR_TRIES = 64,
	/* what is behind the pages of the first bank of what is handed over */
	TURN_AT = BANK - 8,     /* how often something was handed over */
	SET_AT = BANK - 16,     /* a number for all that was handed over together */
};

/* Why a program that was handed over has done nothing. */
enum {
	FAILED = 1,
	BUSY,                   /* it is running already */
	ANOTHER,                /* the ruleset is another one */
};

/* A piece of per-CPU memory that is copied for each CPU: within one page of what is copied. */
struct copy {
	__u64 from;             /* per-CPU address */
	__u32 page;
	__u16 begin;            /* in that page */
	__u16 size;
};

/* Who has the counters of a copy, for what is handed over: where the kernel keeps the addresses of the first and of the
   last one. */
struct owner {
	__u64 first_at;
	__u64 last_at;
	__u64 last;
};

/* A possible CPU. */
struct cpu {
	__u64 offset;           /* what is added to a per-CPU address */
	__u32 seen;             /* its sequence count at the end of its last turn */
	__u32 unused;
};

struct head {
	__u64 mark[MARKS];      /* addresses of what changes when the ruleset does; 0: none */
	__u64 sequence;         /* per-CPU address of a sequence count that is odd while counters change; 0: none */
	__u64 turns;
	__u32 copies;           /* how many are in the map */
	__u32 counts_freed;     /* of what is handed over: the freed blocks tell rulesets apart too */
	/* for what is handed over */
	__u64 owned;            /* the map of owners is filled */
	/* what has to stand at the marks, with these bits */
	__u64 value[MARKS];
	__u64 mask[MARKS];
	__u64 freed;
	__u64 set;
	__u64 alive;            /* address of four bytes that are 0 once the network namespace ends */
	__u64 cookie_at;        /* address of the number of the network namespace */
	__u64 cookie;
	__u64 busy;             /* somebody copies */
	__u64 ended;            /* the ruleset was another one */
};

/* The contexts of the programs. What comes back is in them. */
struct peek {
	__u64 from;
	__u32 length;
	__u32 page;             /* where to */
	__u32 failed;           /* back: not all of it could be read */
	__u32 unused;
	__u64 task;             /* back: address of the structure of the calling thread */
};

struct measure {
	__u32 cpus;             /* how many numbers of CPUs are in the map */
	__u32 failed;           /* back */
};

struct poll {
	__u32 first;            /* of the copies that are wanted */
	__u32 count;
	__u32 cpu;              /* the first CPU */
	__u32 cpus;
	__u32 page;             /* where that of the first CPU begins */
	__u32 stride;           /* pages of one CPU */
	__u64 before[MARKS];    /* back: what stood at the marks, as eight bytes */
	__u64 after[MARKS];
	__u64 freed_before;
	__u64 freed_after;
	__u32 stuck;            /* back: a CPU has been changing the same counters since its last turn */
	__u32 failed;           /* back: not all could be read */
	/* back, of what is handed over */
	__u64 turn;
	__u64 set;
};

struct pair {
	__u32 copy;
	__u32 cpu;
	__u32 one;              /* offsets of eight bytes each in the copy */
	__u32 other;
	__u64 words[2];         /* back: what stands there */
	__u32 settled;          /* back: the two belong together */
	__u32 failed;           /* back */
	__u64 set;              /* back, of what is handed over */
};

#endif
