/* The libFuzzer side of scripts/fuzz: it embeds the interpreter with scripts/fuzz.py, has a mutator that inserts words,
 * and checks the process after each input. */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room);

static PyObject *one;
static FILE *true_out, *true_err;

static PyObject *words;		/* a list of bytes objects: the words that the mutator inserts */

static void fail(const char *what)
{
	fprintf(true_err, "fuzz: %s\n", what);
	if (PyErr_Occurred())
		PyErr_Print();
	abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	PyObject *module;

	true_out = stdout;
	true_err = stderr;
	Py_InitializeEx(0);
	module = PyImport_ImportModule("fuzz");
	one = module ? PyObject_GetAttrString(module, "one") : NULL;
	words = one ? PyObject_GetAttrString(module, "WORDS") : NULL;
	if (words == NULL)
		fail("fuzz.py cannot be used");
	if (getenv("FUZZ_SEEDS")) {
		if (PyObject_CallMethod(module, "seeds", "s", getenv("FUZZ_SEEDS")) == NULL)
			fail("the corpus cannot be written");
		exit(0);
	}
	return 0;
}

static int lowest_free_descriptor(void)
{
	int fd = fcntl(0, F_DUPFD, 3);

	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = lowest_free_descriptor();
	PyObject *result = PyObject_CallFunction(one, "y#", (const char *)data, (Py_ssize_t)size);

	if (result == NULL)
		fail("an exception that none expects");
	Py_DECREF(result);
	if (stdout != true_out || stderr != true_err)
		fail("stdout or stderr is another stream");
	if (lowest_free_descriptor() != fd)
		fail("a descriptor was opened or closed");
	return 0;
}

/* Find a word, with the blanks before it, as [start, end), at a random position of the data. */
static void some_word(const uint8_t *data, size_t size, size_t *start, size_t *end)
{
	size_t at = 1 + (size_t)rand() % size;

	if (at > size)
		at = size;
	while (at > 1 && data[at - 1] != ' ' && data[at - 1] != '\n')
		at--;
	*start = at;
	while (at < size && data[at] != ' ' && data[at] != '\n')
		at++;
	*end = at;
}

static size_t put(uint8_t *data, size_t size, size_t room, size_t start, size_t end, const char *text, size_t length)
{
	if (size - (end - start) + length > room)
		return size;
	memmove(data + start + length, data + end, size - end);
	memcpy(data + start, text, length);
	return size - (end - start) + length;
}

/* Half of the time, change, insert, delete or double words; otherwise let libFuzzer change bytes. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room, unsigned int seed)
{
	size_t start, end, length;
	char text[600];

	srand(seed);
	if (size < 2 || rand() % 2)
		return LLVMFuzzerMutate(data, size, room);
	some_word(data, size, &start, &end);
	length = snprintf(text, sizeof(text), "%.500s ", PyBytes_AS_STRING(PyList_GET_ITEM(words, rand() % PyList_GET_SIZE(words))));
	switch (rand() % 5) {
	case 0:
		return put(data, size, room, start, end, text, length - 1);
	case 1:
		return put(data, size, room, start, start, text, length);
	case 2:
		return put(data, size, room, start, end < size ? end + 1 : end, "", 0);
	case 3:
		length = end - start < 500 ? end - start : 500;
		memcpy(text, data + start, length);
		text[length] = ' ';
		some_word(data, size, &start, &end);
		return put(data, size, room, start, start, text, length + 1);
	default:
		length = LLVMFuzzerMutate(data + start, end - start, end - start);
		memmove(data + start + length, data + end, size - end);
		return size - (end - start) + length;
	}
}

/* Fail at once, so that no name server is asked. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
	static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
	struct addrinfo numeric = {.ai_family = AF_UNSPEC};

	if (real == NULL)
		real = dlsym(RTLD_NEXT, "getaddrinfo");
	if (node == NULL)
		return real(node, service, hints, found);
	if (hints != NULL)
		numeric = *hints;
	numeric.ai_flags |= AI_NUMERICHOST;
	return real(node, service, &numeric, found);
}
