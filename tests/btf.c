/* Reads BTF that is damaged, over and over, under AddressSanitizer where that is there: FILE SEED TIMES ASKED NAME...
   The kernel's types and a module's on top of them are both made of FILE; every question is asked of them, each time
   about ASKED of the names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "types.h"

static unsigned long long chance;

static unsigned draw(unsigned below)
{
	chance = chance * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned)(chance >> 33) % below;
}

/* A copy that has as many bytes as it needs and no more. */
static unsigned char *damaged(const unsigned char *data, size_t length, size_t *new_length)
{
	static const unsigned numbers[] = { 0, 1, 2, 0x7f, 0xff, 0xffff, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff };
	size_t its = draw(8) ? length : draw(length + 1), at;
	unsigned char *copy = malloc(its ? its : 1);
	unsigned changes = draw(6), number, size;

	memcpy(copy, data, its);
	while (its >= 8 && changes--) {
		/* the header as often as the rest */
		at = draw(4) ? draw(its - 4) : draw(24 < its - 4 ? 24 : its - 4);
		if (draw(2))
			at &= ~(size_t)3;
		size = draw(3) ? 4 : 1;
		number = draw(2) ? numbers[draw(10)] : draw(400);
		if (draw(3) == 0)
			memcpy(copy + at, data + draw(length - 4), 4);
		else
			memcpy(copy + at, &number, size);
	}
	*new_length = its;
	return copy;
}

static unsigned long long ask(const struct types *types, int asked, char **names, int count)
{
	unsigned long long answers = 0;
	struct place place;
	uint64_t size;
	uint32_t number;
	char path[512];
	int i, j;

	while (asked--) {
		i = draw(count);
		answers += types_size(types, names[i], &size) == 0;
		answers += types_function(types, names[i], &number) == 0;
		answers += types_typedef(types, names[i]);
		for (j = 0; j < 4; j++) {
			const char *member = names[draw(count)];
			snprintf(path, sizeof(path), draw(3) ? "%s" : draw(2) ? "%s[3]" : "%s.from", member);
			answers += types_member(types, names[i], path, &place) == 0;
			answers += types_bits(types, names[i], path, &place) == 0;
			answers += types_variable(types, names[i], member, &place) == 0;
			answers += types_argument(types, names[i], member, &place) == 0;
		}
	}
	return answers;
}

int main(int count, char **words)
{
	static unsigned char data[1 << 25];
	unsigned char *first, *second;
	struct types kernel, module;
	size_t length, its, module_its;
	unsigned long long answers = 0, opened = 0;
	FILE *file = fopen(words[1], "rb");
	long times = atol(words[3]), asked = atol(words[4]);

	chance = strtoull(words[2], NULL, 10);
	length = fread(data, 1, sizeof(data), file);
	fclose(file);
	while (times--) {
		first = damaged(data, length, &its);
		if (types_open(&kernel, first, its, NULL) == 0) {
			opened++;
			answers += ask(&kernel, asked, words + 5, count - 5);
			second = damaged(data, length, &module_its);
			if (types_open(&module, second, module_its, &kernel) == 0) {
				opened++;
				answers += ask(&module, asked, words + 5, count - 5);
			}
			types_close(&module);
			free(second);
		}
		types_close(&kernel);
		free(first);
	}
	printf("%llu %llu\n", opened, answers);
	return 0;
}
