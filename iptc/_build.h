/* Included before everything else in each compiled module: checks the platform, and defines names that CPython's
 * limited API does not have. */
#ifndef IPTC_BUILD_H
#define IPTC_BUILD_H

#if !defined(__linux__) || !defined(__LP64__)
#error "iptc is for 64-bit Linux: with a 32-bit program the kernel exchanges other structures"
#endif

#ifdef IPTC_COVERAGE
/* scripts/coverage: a process that ends by _exit writes down which lines it ran, like any other. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <unistd.h>
extern void __gcov_dump(void);
#define _exit(status) (__gcov_dump(), _exit(status))
#endif

#ifdef Py_LIMITED_API
/* The limited API has functions for these macros. They also check their arguments. */
#define PyBytes_AS_STRING PyBytes_AsString
#define PyBytes_GET_SIZE PyBytes_Size
#define PyList_GET_ITEM PyList_GetItem
#define PyList_GET_SIZE PyList_Size
#define PyList_SET_ITEM PyList_SetItem
#define PyTuple_SET_ITEM PyTuple_SetItem
#define PyContextVar_Get(variable, otherwise, found) \
	((*(found) = PyObject_CallMethod(variable, "get", "O", otherwise)) == NULL ? -1 : 0)
#define PyContextVar_New(name, otherwise) \
	((void) (otherwise), PyObject_CallMethod(PyImport_ImportModule("contextvars"), "ContextVar", "s", name))
#endif

#endif
