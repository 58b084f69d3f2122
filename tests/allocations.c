/* A library to preload: the n-th allocation of the calling thread fails, once. With PYTHONMALLOC=malloc the
 * interpreter's allocations are included. */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static __thread long left = -1;
static __thread long count;

/* nth: 0 is the next allocation; a negative number disarms */
void allocation_arm(long nth)
{
	left = nth;
	count = 0;
}

/* Return how many allocations there were since. */
long allocation_disarm(void)
{
	left = -1;
	return count;
}

static int fails(void)
{
	count++;
	if (left < 0 || left-- > 0)
		return 0;
	errno = ENOMEM;
	return 1;
}

void *malloc(size_t size)
{
	return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t number, size_t size)
{
	return fails() ? NULL : __libc_calloc(number, size);
}

void *realloc(void *memory, size_t size)
{
	return fails() ? NULL : __libc_realloc(memory, size);
}

void *memalign(size_t alignment, size_t size)
{
	return fails() ? NULL : __libc_memalign(alignment, size);
}
