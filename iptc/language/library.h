/* Loads a library when it is first needed, and stores its symbols in a table of pointers. */
#ifndef IPTC_LIBRARY_H
#define IPTC_LIBRARY_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A symbol, and where its pointer goes. If a symbol that is not *optional* is missing, the table cannot be used. */
struct library_symbol {
	const char *name;
	size_t place;
	int optional;
};

/* Why a library cannot be used. */
struct library_failure {
	int error; /* the errno, or 0 if there is `text` */
	char text[400]; /* the loader's message, or the name of a missing symbol; "" if the file does not exist */
};

/* Load *file* and fill *table* with its symbols, whose names are *prefix* and a name. Return NULL if that fails; see
 * why*. */
static inline void *library_load(const char *file, int flags, const char *prefix, const struct library_symbol *symbols, size_t count,
				 void *table, struct library_failure *why)
{
	void *handle;

	errno = 0;
	handle = dlopen(file, flags);
	if (handle == NULL) {
		int error = errno, spare;
		const char *said = dlerror();

		/* if no file can be opened at the moment, the loader finds nothing: check that */
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
		/* the loader tries several places. errno may be of any of them; the message is about the last */
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
