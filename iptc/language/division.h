/* Whether the code of a plugin may divide by zero. */
#ifndef IPTC_DIVISION_H
#define IPTC_DIVISION_H

/* Whether the library at *path* has an instruction that can raise SIGFPE. Also true if the file cannot be read. */
int division_in(const char *path);

#endif
