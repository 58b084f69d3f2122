/* Plans copies of per-CPU counters, and adds them up: see sums.h. */
#include "sums.h"

#include <stdlib.h>
#include <string.h>

/* Sort slots by their addresses. qsort cannot be used: its comparison gets no pointer to the addresses. */
static void sort(uint32_t *order, uint32_t *room, uint32_t count, const uint64_t *addresses)
{
	uint32_t width, i;

	for (width = 1; width < count; width *= 2) {
		for (i = 0; i < count; i += 2 * width) {
			uint32_t middle = i + width < count ? i + width : count;
			uint32_t end = middle + width < count ? middle + width : count;
			uint32_t left = i, right = middle, at = i;

			if (middle == end || addresses[order[middle - 1]] <= addresses[order[middle]]) {
				memcpy(room + i, order + i, (end - i) * sizeof(*order));
				continue;
			}
			while (left < middle && right < end)
				room[at++] = addresses[order[right]] < addresses[order[left]] ? order[right++]
											      : order[left++];
			while (left < middle)
				room[at++] = order[left++];
			while (right < end)
				room[at++] = order[right++];
		}
		memcpy(order, room, count * sizeof(*order));
	}
}

static void end_sheet(struct plan *plan, uint32_t used)
{
	struct sheet *sheet = &plan->sheets[plan->sheet_count++];
	uint32_t i, count = plan->spot_count - sheet->first;
	const struct spot *spots = plan->spots + sheet->first;
	uint32_t begin = (plan->sheet_count - 1) * PAGE;

	sheet->used = used;
	sheet->plain = plan->rule.size == 16 && count && spots[0].slot + count <= plan->rules;
	for (i = 0; i < count && sheet->plain; i++)
		sheet->plain = spots[i].at == begin + 16 * i && spots[i].slot == spots[0].slot + i;
	sheet[1].first = plan->spot_count;
	sheet[1].copy = plan->copy_count;
}

int plan_copies(struct plan *plan, const uint64_t *addresses, uint32_t slack, uint32_t *order)
{
	uint32_t i, counted = 0, used = 0;
	uint64_t end = 0;
	struct copy *copy = NULL;

	plan->spot_count = plan->sheet_count = plan->copy_count = 0;
	plan->sheets[0].first = plan->sheets[0].copy = 0;
	for (i = 0; i < plan->slots; i++)
		if (addresses[i])
			order[counted++] = i;
	sort(order, order + plan->slots, counted, addresses);
	for (i = 0; i < counted; i++) {
		uint32_t slot = order[i], size = slot < plan->rules ? plan->rule.size : plan->policy.size;
		uint64_t from = addresses[slot];
		uint64_t gap = from - end;

		if (copy && from < end)
			return -1;
		/* bytes between two counters are copied too only if they are in the same block, which is the table's own */
		if (!copy || gap > slack || used + gap + size > PAGE || (gap && (from ^ (end - 1)) >= XT_BLOCK)) {
			if (used + size > PAGE) {
				end_sheet(plan, used);
				used = 0;
			}
			copy = &plan->copies[plan->copy_count++];
			copy->from = from;
			copy->page = plan->sheet_count;
			copy->begin = used;
			copy->size = 0;
			gap = 0;
		}
		plan->spots[plan->spot_count].at = plan->sheet_count * PAGE + used + gap;
		plan->spots[plan->spot_count++].slot = slot;
		copy->size += gap + size;
		used += gap + size;
		end = from + size;
	}
	if (used)
		end_sheet(plan, used);
	return 0;
}

uint32_t room_for(uint32_t sheets, uint32_t cpus, uint64_t most, uint64_t piece, uint32_t *stride, uint32_t *needed)
{
	uint64_t limit = most / BANK, each = 2 * (uint64_t)cpus;
	uint64_t banks = (each * sheets + BANK_PAGES - 1) / BANK_PAGES, more = banks + banks / 4;

	*stride = sheets;
	if (banks > limit) {
		*stride = piece / (each * PAGE) ? piece / (each * PAGE) : 1;
		more = banks = (each * *stride + BANK_PAGES - 1) / BANK_PAGES;
	} else if (more > limit) {
		more = limit;
	}
	*needed = banks ? banks : 1;
	return more ? more : 1;
}

int sheet_differs(const struct sheet *sheet, const unsigned char *one, const unsigned char *other)
{
	return memcmp(one, other, sheet->used) != 0;
}

static inline uint64_t word(const unsigned char *at)
{
	uint64_t found;

	memcpy(&found, at, sizeof(found));
	return found;
}

/* Add counters of 16 bytes side by side. The compiler makes vector instructions of this loop. */
static inline void add_plain(const unsigned char *at, uint32_t count, int bytes_first, uint64_t *packets,
			     uint64_t *bytes)
{
	uint64_t *first = bytes_first ? bytes : packets, *second = bytes_first ? packets : bytes;
	uint32_t i;

	for (i = 0; i < count; i++) {
		first[i] += word(at + 16 * (size_t)i);
		second[i] += word(at + 16 * (size_t)i + 8);
	}
}

void sum_sheet(const struct plan *plan, uint32_t number, const unsigned char *memory, uint32_t page, uint32_t stride,
	       uint32_t cpus, uint64_t *packets, uint64_t *bytes)
{
	const struct sheet *sheet = &plan->sheets[number];
	const struct spot *spots = plan->spots + sheet->first;
	uint32_t i, cpu, count = sheet[1].first - sheet->first;

	if (sheet->plain) {
		uint64_t *its_packets = packets + spots[0].slot, *its_bytes = bytes + spots[0].slot;

		memset(its_packets, 0, count * sizeof(*its_packets));
		memset(its_bytes, 0, count * sizeof(*its_bytes));
		for (cpu = 0; cpu < cpus; cpu++)
			add_plain(page_at(memory, page + cpu * stride), count, plan->rule.bytes == 0, its_packets,
				  its_bytes);
		return;
	}
	for (i = 0; i < count; i++)
		packets[spots[i].slot] = bytes[spots[i].slot] = 0;
	for (cpu = 0; cpu < cpus; cpu++) {
		const unsigned char *at = page_at(memory, page + cpu * stride);

		for (i = 0; i < count; i++) {
			const struct format *format = spots[i].slot < plan->rules ? &plan->rule : &plan->policy;
			const unsigned char *counter = at + spots[i].at % PAGE;

			packets[spots[i].slot] += word(counter + format->packets);
			bytes[spots[i].slot] += word(counter + format->bytes);
		}
	}
}
