# The words of a line, as C has them: an argv.

cdef enum:
    MOST_WORDS = 255         # of one line of a file, as iptables-restore has it
    LONGEST_WORD = 1023

cdef struct Words:
    int count
    char **list              # *count* words, then NULL; they may be written to
    bint *quoted             # which of them ended with a quote
    size_t room              # for words
    char *text
    size_t text_room
    char *end                # of what is used of *text*

cdef int make_room(Words *words, size_t count, size_t length) except -1
cdef void clear(Words *words) noexcept nogil
cdef void add(Words *words, const char *word) noexcept nogil
cdef void add_copy(Words *words, const char *word, size_t length) noexcept nogil
cdef const char *split(Words *words, const char *line, size_t length, bint limited) noexcept nogil
