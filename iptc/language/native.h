/* Prints the matches and targets that nf_tables has without extensions. It is used where no plugin is installed to do
 * it. */
#ifndef IPTC_NATIVE_H
#define IPTC_NATIVE_H

#include "shim.h"

#define NATIVE_ROOM 640 /* the size of the longest text, which is a comment whose characters are all quoted */

/* Print *payload* to *text*, which has NATIVE_ROOM bytes, as the plugin of its name does. Return the length, or -1 if
 * this cannot print it. */
int native_print(char *text, int is_target, int family, const struct xt_entry_match *payload);

#endif
