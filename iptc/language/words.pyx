# cython: freethreading_compatible=False
"""Splits a line of saved text into words, as iptables-restore splits it."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from .._core cimport room_for


cdef int make_room(Words *words, size_t count, size_t length) except -1:
    """Make space for *count* words with *length* bytes together, besides those that are stored already."""
    cdef size_t room
    if words.room < count + 1:
        grown = realloc(words.list, (count + 1) * sizeof(char *))
        if grown == NULL:
            raise MemoryError
        words.list = <char **> grown
        grown = realloc(words.quoted, (count + 1) * sizeof(bint))
        if grown == NULL:
            raise MemoryError
        words.quoted = <bint *> grown
        words.room = count + 1
    if words.text_room < length + count + 1:
        room = room_for(2 * length + count + 64, length + count + 1)
        grown = realloc(words.text, room)
        if grown == NULL:
            raise MemoryError
        words.text = <char *> grown
        words.text_room = room
    return 0


cdef void clear(Words *words) noexcept nogil:
    words.count = 0
    words.list[0] = NULL
    words.end = words.text


cdef void add(Words *words, const char *word) noexcept nogil:
    """Add *word* itself, without a copy. It must not be written to."""
    words.list[words.count] = <char *> word
    words.quoted[words.count] = False
    words.count += 1
    words.list[words.count] = NULL


cdef void add_copy(Words *words, const char *word, size_t length) noexcept nogil:
    """Add a copy of *word*."""
    memcpy(words.end, word, length)
    words.end[length] = 0
    add(words, words.end)
    words.end += length + 1


cdef enum:
    PLAIN
    SPACE
    QUOTE

cdef char _kinds[256]        # for each character, what it means outside of quotes
_kinds[b'"'] = QUOTE
_kinds[b' '] = _kinds[b'\t'] = _kinds[b'\n'] = SPACE


cdef const char *split(Words *words, const char *line, size_t length, bint limited) noexcept nogil:
    """Add the words of *line*. A closing quote ends a word. Return NULL, or iptables-restore's message about a
    *limited* line."""
    cdef char *at = words.end
    cdef char *word
    cdef const char *end = line + length
    cdef bint quoted
    while True:
        while line < end and _kinds[<unsigned char> line[0]] == SPACE:
            line += 1
        if line == end:
            return NULL
        word = at
        quoted = False
        while line < end and _kinds[<unsigned char> line[0]] == PLAIN:
            at[0] = line[0]
            at += 1
            line += 1
        if line < end and line[0] == b'"':
            quoted = True
            line += 1
            while line < end and line[0] != b'"':
                if line[0] == b'\\':
                    line += 1
                    if line == end:
                        break
                at[0] = line[0]
                at += 1
                line += 1
            if line == end and at == word:
                return NULL          # an opening quote without a closing one, and nothing behind it
            if line < end:
                line += 1
        if limited and at - word > LONGEST_WORD:
            return b"Parameter too long!"
        if limited and words.count + 1 >= MOST_WORDS:
            return b"Parser cannot handle more arguments"
        at[0] = 0
        at += 1
        add(words, word)
        words.quoted[words.count - 1] = quoted
        words.end = at


def split_words(bytes text not None):
    """Return the words of *text*, split as iptables-restore does, as a list of (word, whether it was quoted)."""
    # Not in a global: making a list may start the garbage collector, which may run code that splits words.
    cdef Words words
    cdef list found = []
    cdef int i
    memset(&words, 0, sizeof(words))
    try:
        make_room(&words, PyBytes_GET_SIZE(text) + 1, PyBytes_GET_SIZE(text))
        clear(&words)
        split(&words, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), False)
        for i in range(words.count):
            found.append((<bytes> words.list[i], <bint> words.quoted[i]))
        return found
    finally:
        free(words.list)
        free(words.quoted)
        free(words.text)
