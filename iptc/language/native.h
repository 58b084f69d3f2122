/* What the matches and targets say that nf_tables has without extensions, for hosts where no plugin is there to print them. */
#ifndef IPTC_NATIVE_H
#define IPTC_NATIVE_H

#include "shim.h"

#define NATIVE_ROOM 640		/* of a text at most: the longest is a comment all quoted */

/* Print *payload* to *text*, of NATIVE_ROOM bytes, as the plugin of its name would: how long it is, or -1 where it is no such part. */
int native_print(char *text, int is_target, int family, const struct xt_entry_match *payload);

#endif
