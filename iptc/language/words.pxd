# The words of a line, stored as an argv.

cdef enum:
    MOST_WORDS = 255         # the most words of a line, as in iptables-restore
    LONGEST_WORD = 1023

cdef struct Words:
    int count
    char **list              # *count* words, then NULL. Whoever reads them may write into them
    bint *quoted             # for each word, whether it ended with a quote
    size_t room              # for how many words there is memory
    char *text
    size_t text_room
    char *end                # the end of the used part of *text*

cdef int make_room(Words *words, size_t count, size_t length) except -1
cdef void clear(Words *words) noexcept nogil
cdef void add(Words *words, const char *word) noexcept nogil
cdef void add_copy(Words *words, const char *word, size_t length) noexcept nogil
cdef const char *split(Words *words, const char *line, size_t length, bint limited) noexcept nogil
