/* Plans which per-CPU counters are copied to which place, and adds up the copies of all CPUs. */
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

/* One counter that is copied: its place in the pages of each CPU, and its slot. */
struct spot {
	uint32_t at;            /* offset in the pages of a CPU */
	uint32_t slot;
};

/* One page of copies, which each CPU has once. */
struct sheet {
	uint32_t first;         /* the number of its first spot; the spots of the next page follow */
	uint32_t copy;          /* the number of its first copy */
	uint32_t used;          /* bytes */
	uint32_t plain;         /* whether its spots are counters of 16 bytes side by side, for consecutive slots */
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

/* Plan from where to copy which counters. addresses: one for each slot, 0 for a slot without a counter. slack: how many
   bytes between two counters may be copied together with them. order: room for two uint32_t for each slot. Return 0, or
   -1 if two slots have the same counter. */
int plan_copies(struct plan *plan, const uint64_t *addresses, uint32_t slack, uint32_t *order);

/* Return how many banks to make for so many sheets. Each CPU has two copies of each sheet. The result is up to a
   quarter more than are needed now, and not more than fit into most bytes. stride is set to the number of sheets of a
   CPU that the banks hold at once: all, or, if they would need too much memory, as many as fit into piece bytes, at
   least one. needed is set to the number of banks that are needed now. */
uint32_t room_for(uint32_t sheets, uint32_t cpus, uint64_t most, uint64_t piece, uint32_t *stride, uint32_t *needed);

/* Return whether two copies of a page differ. */
int sheet_differs(const struct sheet *sheet, const unsigned char *one, const unsigned char *other);

/* Add up the copies of sheet number of all CPUs. The pages of a CPU follow those of the CPU before it. */
void sum_sheet(const struct plan *plan, uint32_t number, const unsigned char *memory, uint32_t page, uint32_t stride,
	       uint32_t cpus, uint64_t *packets, uint64_t *bytes);

/* Return where a page of copies is in the memory of its map. */
static inline const unsigned char *page_at(const unsigned char *memory, uint32_t page)
{
	return memory + (size_t)(page / BANK_PAGES) * BANK + (size_t)(page % BANK_PAGES) * PAGE;
}

#endif
