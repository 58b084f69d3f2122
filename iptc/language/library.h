/* A library that is loaded when it is first needed: its symbols in a table of pointers. */
#ifndef IPTC_LIBRARY_H
#define IPTC_LIBRARY_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* One symbol and the pointer that it goes to; without an *optional* one the table is of no use. */
struct library_symbol {
	const char *name;
	size_t place;
	int optional;
};

/* Why a library cannot be used. */
struct library_failure {
	int error;		/* errno of loading it, or 0: it has no `text` */
	char text[400];		/* what the loader says, or the symbol that is missing; "": there is no such file */
};

/* Load *file* and fill *table* with those of its symbols that are *prefix* and a name. NULL: *why* says why not. */
static inline void *library_load(const char *file, int flags, const char *prefix, const struct library_symbol *symbols, size_t count,
				 void *table, struct library_failure *why)
{
	void *handle;

	errno = 0;
	handle = dlopen(file, flags);
	if (handle == NULL) {
		int error = errno, spare;
		const char *said = dlerror();

		/* where nothing can be opened for now, nothing is found */
		spare = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (spare < 0 || error == ENOMEM) {
			why->error = error == ENOMEM ? ENOMEM : errno;
			snprintf(why->text, sizeof(why->text), "%s", strerror(why->error));
			if (spare >= 0)
				close(spare);
			return NULL;
		}
		close(spare);

		why->error = error ? error : EINVAL;
		/* the loader looks at several places, and errno is of any of them: what it says is of the last */
		if (said == NULL || strstr(said, strerror(ENOENT)) != NULL)
			said = "";
		snprintf(why->text, sizeof(why->text), "%s", said);
		return NULL;
	}
	for (size_t i = 0; i < count; i++) {
		void **slot = (void **)((char *)table + symbols[i].place);

		snprintf(why->text, sizeof(why->text), "%s%s", prefix, symbols[i].name);
		*slot = dlsym(handle, why->text);
		if (*slot == NULL && !symbols[i].optional) {
			why->error = 0;
			dlclose(handle);
			return NULL;
		}
	}
	why->text[0] = '\0';
	return handle;
}

#endif
