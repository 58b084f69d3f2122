/* Whether a plugin may divide by zero. */
#ifndef IPTC_DIVISION_H
#define IPTC_DIVISION_H

/* Whether the library at *path* has an instruction that raises SIGFPE, or cannot be read. */
int division_in(const char *path);

#endif
