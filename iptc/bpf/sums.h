/* Counters of all CPUs, copied one beside the other, become one number each. */
#ifndef IPTC_BPF_SUMS_H
#define IPTC_BPF_SUMS_H

#include <stddef.h>
#include <stdint.h>
#include "program.h"

/* How the kernel lays out one counter. */
struct format {
	uint32_t size;
	uint32_t packets;       /* offset of these eight bytes */
	uint32_t bytes;
};

/* One counter that is copied: where it comes to stand in the pages of each CPU, and whose it is. */
struct spot {
	uint32_t at;            /* offset in the pages of a CPU */
	uint32_t slot;
};

/* What stands on one page of each CPU. */
struct sheet {
	uint32_t first;         /* of its spots; those of the next page follow */
	uint32_t copy;          /* of its copies */
	uint32_t used;          /* bytes */
	uint32_t plain;         /* its spots are counters of 16 bytes one beside the other, for slots in their order */
};

struct plan {
	uint32_t slots;         /* rules, then policies */
	uint32_t rules;
	struct format rule;
	struct format policy;
	struct spot *spots;
	uint32_t spot_count;
	struct sheet *sheets;   /* one more than there are pages */
	uint32_t sheet_count;
	struct copy *copies;
	uint32_t copy_count;
};

/* Where to copy which counters from. addresses: one a slot, 0 for what is not counted. slack: so many bytes between two
   counters may be copied with them. order: room for a uint32_t a slot. 0, or -1 where two slots have one counter. */
int plan_copies(struct plan *plan, const uint64_t *addresses, uint32_t slack, uint32_t *order);

/* How many banks the copies of so many sheets take, which are kept twice for each CPU: most at most, and up to a quarter
   more than are needed now. stride: how many sheets of a CPU are in them at once; all, or where that would be too much as
   many as piece bytes have room for, one at least. needed: how many banks are needed now. */
uint32_t room_for(uint32_t sheets, uint32_t cpus, uint64_t most, uint64_t piece, uint32_t *stride, uint32_t *needed);

/* Whether two copies of a page differ. */
int sheet_differs(const struct sheet *sheet, const unsigned char *one, const unsigned char *other);

/* Adds up what stands on page number of all CPUs: the pages of a CPU follow those of the CPU before it. */
void sum_sheet(const struct plan *plan, uint32_t number, const unsigned char *memory, uint32_t page, uint32_t stride,
	       uint32_t cpus, uint64_t *packets, uint64_t *bytes);

/* Where a page of what was copied stands in the memory of its map. */
static inline const unsigned char *page_at(const unsigned char *memory, uint32_t page)
{
	return memory + (size_t)(page / BANK_PAGES) * BANK + (size_t)(page % BANK_PAGES) * PAGE;
}

#endif
