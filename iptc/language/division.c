/* Reads the machine code of a plugin, and looks for an integer division: only then can the plugin raise SIGFPE. */
#define _GNU_SOURCE
#include "division.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__x86_64__)

/* For each one-byte opcode, what follows it. '-': nothing. 'm': a ModRM byte. '1', '2', '4', '8', 'a', '3': an
 * immediate value of 1 byte, 2 bytes, 4 bytes (2 with an operand prefix), 4 bytes (8 with REX.W), an address of 8
 * bytes, 2 and 1 byte. 'B' and * 'Z': a ModRM byte and 1 or 4 bytes. 'D' and 'd': the group with division, of bytes and
 * of words. 'p': a prefix. 'r': REX. * 'V' and 'v': VEX of three and of two bytes. 'E': EVEX. 'e': the second table.
 * 'x': no instruction. */
static const char first_table[] =
	"mmmm14xx" "mmmm14xe" "mmmm14xx" "mmmm14xx" "mmmm14px" "mmmm14px" "mmmm14px" "mmmm14px"
	"rrrrrrrr" "rrrrrrrr" "--------" "--------" "xxEmpppp" "4Z1B----" "1111111111111111"
	"BZxBmmmm" "mmmmmmmm" "--------" "--x-----" "aaaa----" "14------" "11111111" "88888888"
	"BB2-VvBZ" "3-2--1x-" "mmmmxxx-" "mmmmmmmm" "11111111" "44x1----" "p-pp--Dd" "------mm";

/* The same for opcodes behind 0F, except '3': the table of 0F 3A, where 'm' and 1 byte follow; and '8': that of 0F 38.
 * */
static const char second_table[] =
	"mmmmx---" "--x-xm-B" "mmmmmmmm" "mmmmmmmm" "mmmmxxxx" "mmmmmmmm" "------x-" "8x3xxxxx"
	"mmmmmmmm" "mmmmmmmm" "mmmmmmmm" "mmmmmmmm" "mmmmmmmm" "mmmmmmmm" "BBBBmmm-" "mmxxmmmm"
	"4444444444444444" "mmmmmmmm" "mmmmmmmm" "---mBmxx" "---mBmmm" "mmmmmmmm" "mmBmmmmm"
	"mmBmBBBm" "--------" "mmmmmmmm" "mmmmmmmm" "mmmmmmmm" "mmmmmmmm" "mmmmmmmm" "mmmmmmmm";

/* Return the length of the ModRM byte at *at* and of the address that belongs to it. */
static size_t modrm_length(const uint8_t *at, const uint8_t *end)
{
	uint8_t mod = at[0] >> 6, rm = at[0] & 7;
	size_t length = 1;

	if (mod == 3)
		return 1;
	if (rm == 4) {
		if (at + 1 < end && mod == 0 && (at[1] & 7) == 5)
			length += 4;
		length++;
	} else if (mod == 0 && rm == 5) {
		length += 4;
	}
	return length + (mod == 1 ? 1 : mod == 2 ? 4 : 0);
}

/* Read the instruction at *at*. Return its length, or 0 if it is none. Set *divides if it is a division. */
static size_t read_instruction(const uint8_t *start, const uint8_t *end, int *divides)
{
	const uint8_t *at = start;
	int operand = 0, address = 0, wide = 0, vector = 0;
	size_t value = 0;
	char kind;

	for (; at < end && strchr("p", first_table[*at]); at++) {
		operand |= *at == 0x66;
		address |= *at == 0x67;
	}
	if (at < end && first_table[*at] == 'r')
		wide = *at++ & 8;
	if (at >= end)
		return 0;
	kind = first_table[*at];
	if (kind == 'v' || kind == 'V' || kind == 'E') {
		/* the opcode map: 1 is 0F, 2 is 0F 38, 3 is 0F 3A */
		size_t prefix = kind == 'v' ? 2 : kind == 'V' ? 3 : 4;

		if (at + prefix + 1 >= end)
			return 0;
		vector = kind == 'v' ? 1 : at[1] & (kind == 'V' ? 0x1f : 7);
		at += prefix;
		kind = vector == 1 ? second_table[*at] : vector == 3 ? 'B' : 'm';
		if (kind != 'B' && kind != '-')
			kind = 'm';
	} else if (kind == 'e') {
		if (++at >= end)
			return 0;
		kind = second_table[*at];
		if (kind == '8' || kind == '3') {
			kind = kind == '8' ? 'm' : 'B';
			at++;
		} else if (kind == 'x') {
			return 0;
		}
	}
	at++;
	switch (kind) {
	case '-': case 'm': break;
	case '1': case 'B': value = 1; break;
	case '2': value = 2; break;
	case '3': value = 3; break;
	case '4': value = operand && (at[-1] & 0xf0) != 0x80 && at[-1] != 0xe8 && at[-1] != 0xe9 ? 2 : 4; break;
	case 'Z': value = operand ? 2 : 4; break;
	case '8': value = wide ? 8 : operand ? 2 : 4; break;
	case 'a': value = address ? 4 : 8; break;
	case 'D': case 'd':
		if (at >= end)
			return 0;
		*divides |= (*at & 0x30) == 0x30;
		value = *at & 0x30 ? 0 : kind == 'D' ? 1 : operand ? 2 : 4;
		break;
	default:
		return 0;
	}
	if (strchr("mBZDd", kind)) {
		if (at >= end)
			return 0;
		at += modrm_length(at, end);
	}
	return at - start + value;
}

static int code_divides(const uint8_t *at, size_t size)
{
	const uint8_t *end = at + size;
	int divides = 0;

	while (at < end && !divides) {
		size_t length = read_instruction(at, end, &divides);

		if (length == 0)
			return 1;
		at += length;
	}
	return divides;
}

#elif defined(__aarch64__) || defined(__arm__) || defined(__powerpc__) || defined(__riscv)

/* on this architecture a division by zero has a result, and raises no signal */
static int code_divides(const uint8_t *at, size_t size)
{
	return 0;
}

#else

static int code_divides(const uint8_t *at, size_t size)
{
	return 1;
}

#endif

static int file_divides(const uint8_t *file, size_t size)
{
	const ElfW(Ehdr) *header = (const void *)file;
	const ElfW(Shdr) *sections;
	int found = 0;

	if (size < sizeof(*header) || header->e_shoff == 0 || header->e_shentsize != sizeof(*sections)
	    || header->e_shoff > size || (size - header->e_shoff) / sizeof(*sections) < header->e_shnum)
		return 1;
	sections = (const void *)(file + header->e_shoff);
	for (size_t i = 0; i < header->e_shnum; i++) {
		if (sections[i].sh_type != SHT_PROGBITS || !(sections[i].sh_flags & SHF_EXECINSTR))
			continue;
		if (sections[i].sh_offset > size || size - sections[i].sh_offset < sections[i].sh_size)
			return 1;
		found = 1;
		if (code_divides(file + sections[i].sh_offset, sections[i].sh_size))
			return 1;
	}
	return !found;
}

int division_in(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), divides = 1;
	struct stat state;
	void *file;

	if (fd < 0)
		return 1;
	if (fstat(fd, &state) == 0 && state.st_size > 0) {
		file = mmap(NULL, state.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (file != MAP_FAILED) {
			divides = file_divides(file, state.st_size);
			munmap(file, state.st_size);
		}
	}
	close(fd);
	return divides;
}
