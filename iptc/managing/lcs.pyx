# cython: freethreading_compatible=False
"""Finds the longest common subsequence of two sequences of numbers: what stays, so that the fewest edits are left.

There are three ways, and the cheapest that works is taken. Few edits are counted up one by one (Myers, O(n d)).
Otherwise each place of one sequence is one bit, and a whole machine word of them is compared at once (Hyyrö); cutting
the other sequence in halves finds the pairs (Hirschberg). Sequences beyond `BOUND` are first cut at numbers that each
has exactly once. The result is then good, but there may be fewer edits.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from .._core cimport room_for

cdef enum:
    EDITS_MOST = 2048        # the most edits that are counted one by one
    DEEPEST = 64             # a piece that was cut so often is given up

BOUND = 1 << 32
"""If the product of the lengths of what differs is larger, the result may not be the longest: 65,536 x 65,536."""


def blocks(one, other, bound=None):
    """Return [(start in *one*, start in *other*, length)]: the blocks that both sequences have, in order.

    Both are buffers of unsigned integers of four bytes. The numbers must be smaller than the sum of both lengths.
    """
    cdef Py_buffer first, second
    _open(one, &first)
    try:
        _open(other, &second)
        try:
            return _blocks(<const uint32_t *> first.buf, <uint32_t> (first.len // sizeof(uint32_t)),
                           <const uint32_t *> second.buf, <uint32_t> (second.len // sizeof(uint32_t)), bound)
        finally:
            PyBuffer_Release(&second)
    finally:
        PyBuffer_Release(&first)


cdef int _open(numbers, Py_buffer *opened) except -1:
    """Open the buffer *numbers*. A typed memoryview would do the same, with a hundred kilobytes of code."""
    PyObject_GetBuffer(numbers, opened, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    if (opened.format != NULL and opened.format[0] == b"I"[0] and opened.itemsize == sizeof(uint32_t)
            and opened.ndim == 1):
        return 0
    PyBuffer_Release(opened)
    raise ValueError("not a buffer of unsigned integers of four bytes")


cdef list _blocks(const uint32_t *first, uint32_t n, const uint32_t *second, uint32_t m, bound):
    """Return what `blocks` returns, of *n* and *m* numbers."""
    cdef Problem problem
    cdef uint32_t kinds = n + m, i
    cdef uint32_t *kept_one = <uint32_t *> malloc(room_for(n + 1, n) * sizeof(uint32_t))
    cdef uint32_t *kept_other = <uint32_t *> malloc(room_for(m + 1, m) * sizeof(uint32_t))
    cdef uint32_t *place_one = <uint32_t *> malloc(room_for(n + 1, n) * sizeof(uint32_t))
    cdef uint32_t *place_other = <uint32_t *> malloc(room_for(m + 1, m) * sizeof(uint32_t))
    cdef char *seen = <char *> calloc(room_for(kinds + 1, kinds), 1)
    cdef uint32_t start_one, start_other, length
    cdef bint bad = False
    cdef list found = []
    memset(&problem, 0, sizeof(problem))
    problem.bound = BOUND if bound is None else bound
    try:
        if kept_one == NULL or kept_other == NULL or place_one == NULL or place_other == NULL or seen == NULL:
            raise MemoryError
        with nogil:
            for i in range(n):
                bad = bad or first[i] >= kinds
                if not bad:
                    seen[first[i]] |= 1
            for i in range(m):
                bad = bad or second[i] >= kinds
                if not bad:
                    seen[second[i]] |= 2
            if not bad:
                # numbers that only one sequence has cannot be in the result
                n = _keep(first, n, seen, kept_one, place_one)
                m = _keep(second, m, seen, kept_other, place_other)
                _prepare(&problem, kept_one, n, kept_other, m, kinds)
                if not problem.failed:
                    _solve(&problem, 0, n, 0, m, 0)
        if bad:
            raise ValueError("a number is too large")
        if problem.failed:
            raise MemoryError
        length = start_one = start_other = 0
        for i in range(m):
            if problem.match[i] < 0:
                continue
            if (length and place_one[problem.match[i]] == start_one + length
                    and place_other[i] == start_other + length):
                length += 1
                continue
            if length:
                found.append((start_one, start_other, length))
            start_one, start_other, length = place_one[problem.match[i]], place_other[i], 1
        if length:
            found.append((start_one, start_other, length))
        return found
    finally:
        _release(&problem)
        free(kept_one)
        free(kept_other)
        free(place_one)
        free(place_other)
        free(seen)


cdef uint32_t _keep(const uint32_t *numbers, uint32_t length, const char *seen, uint32_t *kept,
                    uint32_t *place) noexcept nogil:
    """Store the numbers that both sequences have, and their positions. Return how many they are."""
    cdef uint32_t i, count = 0
    for i in range(length):
        if seen[numbers[i]] == 3:
            kept[count] = numbers[i]
            place[count] = i
            count += 1
    return count


# ------------------------------------------------------------------------- memory


cdef void _prepare(Problem *problem, const uint32_t *one, uint32_t n, const uint32_t *other, uint32_t m,
                   uint32_t kinds) noexcept nogil:
    cdef uint32_t i
    problem.forwards.numbers = problem.backwards.numbers = one
    problem.forwards.length = problem.backwards.length = n
    problem.forwards.kinds = problem.backwards.kinds = kinds
    problem.other = other
    problem.match = <int32_t *> malloc(room_for(m + 1, m) * sizeof(int32_t))
    problem.lengths = <uint32_t *> malloc((n + 1) * sizeof(uint32_t))
    problem.failed = problem.match == NULL or problem.lengths == NULL
    if not problem.failed:
        for i in range(m):
            problem.match[i] = -1


cdef void _release(Problem *problem) noexcept nogil:
    free(problem.match)
    free(problem.lengths)
    _release_side(&problem.forwards)
    _release_side(&problem.backwards)


cdef void _release_side(Side *side) noexcept nogil:
    free(side.first)
    free(side.positions)
    free(side.rows)
    free(side.words)
    free(side.state)


cdef bint _index(Side *side, bint mirrored) noexcept nogil:
    """Build the index of the positions, unless it exists."""
    cdef uint32_t i, kind, words = side.length // 64 + 1, frequent = 0
    cdef uint64_t *row
    if side.first != NULL:
        return True
    side.first = <uint32_t *> calloc(side.kinds + 2, sizeof(uint32_t))
    side.positions = <uint32_t *> malloc(side.length * sizeof(uint32_t))
    side.rows = <uint64_t **> calloc(side.kinds, sizeof(uint64_t *))
    side.state = <uint64_t *> malloc(words * sizeof(uint64_t))
    if side.first == NULL or side.positions == NULL or side.rows == NULL or side.state == NULL:
        return False
    for i in range(side.length):
        side.first[side.numbers[i] + 2] += 1
    for kind in range(side.kinds):
        if side.first[kind + 2] > words:
            frequent += 1
    side.words = <uint64_t *> calloc(room_for(frequent * words + 1, frequent * words), sizeof(uint64_t))
    if side.words == NULL:
        return False
    row = side.words
    for kind in range(side.kinds):
        if side.first[kind + 2] > words:
            side.rows[kind] = row
            row += words
        side.first[kind + 2] += side.first[kind + 1]
    for i in range(side.length):
        kind = side.numbers[side.length - 1 - i if mirrored else i]
        side.positions[side.first[kind + 1]] = i
        side.first[kind + 1] += 1
        if side.rows[kind] != NULL:
            side.rows[kind][i >> 6] |= <uint64_t> 1 << (i & 63)
    return True


# ---------------------------------------------------------------------- the search


cdef void _solve(Problem *problem, uint32_t low, uint32_t high, uint32_t other_low, uint32_t other_high,
                 int depth) noexcept nogil:
    """Match the positions from *low* to *high* of the first sequence with those from *other_low* to *other_high* of the
    second."""
    cdef const uint32_t *one = problem.forwards.numbers
    cdef const uint32_t *other = problem.other
    while low < high and other_low < other_high and one[low] == other[other_low]:
        problem.match[other_low] = low
        low += 1
        other_low += 1
    while low < high and other_low < other_high and one[high - 1] == other[other_high - 1]:
        high -= 1
        other_high -= 1
        problem.match[other_high] = high
    if low == high or other_low == other_high or _few_edits(problem, low, high, other_low, other_high):
        return
    if <uint64_t> (high - low) * (other_high - other_low) <= problem.bound:
        _halve(problem, low, high, other_low, other_high, depth)
    elif depth < DEEPEST:
        _cut(problem, low, high, other_low, other_high, depth + 1)


cdef bint _few_edits(Problem *problem, uint32_t low, uint32_t high, uint32_t other_low,
                     uint32_t other_high) noexcept nogil:
    """Try with 0 edits, then 1, 2 and so on, as long as that is cheap. Return whether it has found a result."""
    cdef int32_t n = high - low, m = other_high - other_low, most = 16, edits, k, i, x, y, before
    cdef const uint32_t *one = problem.forwards.numbers + low
    cdef const uint32_t *other = problem.other + other_low
    cdef int32_t *reached
    cdef int32_t *now
    cdef int32_t *last
    cdef bint down, done = False
    while most < EDITS_MOST and <uint64_t> most * most < 8 * (<uint64_t> n + m):
        most += 16
    # how far each diagonal was reached with 0 edits, with 1, and so on: one row after the other
    reached = <int32_t *> malloc(<size_t> (most + 1) * (most + 2) // 2 * sizeof(int32_t))
    if reached == NULL:
        problem.failed = True
        return True
    for edits in range(most + 1):
        now = reached + <size_t> edits * (edits + 1) // 2
        last = now - edits
        for i in range(edits + 1):
            k = 2 * i - edits
            if edits == 0:
                x = 0
            elif i == 0 or i != edits and last[i - 1] < last[i]:
                x = last[i]
            else:
                x = last[i - 1] + 1
            y = x - k
            while x < n and y < m and one[x] == other[y]:
                x += 1
                y += 1
            now[i] = x
            if x == n and y == m:
                done = True
                break
        if done:
            break
    if done:
        x, y = n, m
        while True:
            now = reached + <size_t> edits * (edits + 1) // 2
            last = now - edits
            i = (x - y + edits) // 2
            if edits == 0:
                before = 0
            elif i == 0 or i != edits and last[i - 1] < last[i]:
                before = last[i]
            else:
                before = last[i - 1] + 1
            while x > before:
                x -= 1
                y -= 1
                problem.match[other_low + y] = low + x
            if edits == 0:
                break
            down = i == 0 or i != edits and last[i - 1] < last[i]
            if down:
                y -= 1
            else:
                x -= 1
            edits -= 1
    free(reached)
    return done


cdef void _halve(Problem *problem, uint32_t low, uint32_t high, uint32_t other_low, uint32_t other_high,
                 int depth) noexcept nogil:
    """Cut the second sequence in the middle, and the first where the halves have most in common."""
    cdef uint32_t middle = (other_low + other_high) // 2, i, mirrored, length, best = low, most = 0
    cdef uint32_t n = problem.forwards.length
    if other_high - other_low == 1:
        for i in range(low, high):
            if problem.forwards.numbers[i] == problem.other[other_low]:
                problem.match[other_low] = i
                return
        return
    if not _index(&problem.forwards, False) or not _index(&problem.backwards, True):
        problem.failed = True
        return
    _begin(&problem.forwards, low, high)
    for i in range(other_low, middle):
        _step(&problem.forwards, problem.other[i], low, high)
    _begin(&problem.backwards, n - high, n - low)
    i = other_high
    while i > middle:
        i -= 1
        _step(&problem.backwards, problem.other[i], n - high, n - low)
    # each bit that is not set is one more number in common
    problem.lengths[high - low] = length = 0
    for mirrored in range(n - high, n - low):
        length += not problem.backwards.state[mirrored >> 6] >> (mirrored & 63) & 1
        problem.lengths[n - 1 - mirrored - low] = length
    most, length = problem.lengths[0], 0
    for i in range(low, high):
        length += not problem.forwards.state[i >> 6] >> (i & 63) & 1
        if length + problem.lengths[i + 1 - low] > most:
            most, best = length + problem.lengths[i + 1 - low], i + 1
    if most == 0:
        return
    _solve(problem, low, best, other_low, middle, depth)
    _solve(problem, best, high, middle, other_high, depth)


cdef void _begin(Side *side, uint32_t low, uint32_t high) noexcept nogil:
    memset(&side.state[low >> 6], 0xff, (((high - 1) >> 6) + 1 - (low >> 6)) * sizeof(uint64_t))


cdef void _step(Side *side, uint32_t number, uint32_t low, uint32_t high) noexcept nogil:
    """Read one number of the other sequence: V = (V + (V & M)) | (V & ~M), where M has its positions from low to
    high."""
    cdef uint32_t last = (high - 1) >> 6, word = low >> 6, at, end
    cdef const uint64_t *row = side.rows[number]
    cdef uint64_t carry = 0, bits
    if row != NULL:
        for word in range(low >> 6, last + 1):
            bits = row[word]
            if word == low >> 6:
                bits &= ~<uint64_t> 0 << (low & 63)
            if word == last:
                bits &= ~<uint64_t> 0 >> (63 - ((high - 1) & 63))
            carry = _add(&side.state[word], bits, carry)
        return
    at = _first_from(side, number, low)
    end = side.first[number + 1]
    while at < end and side.positions[at] < high:
        while carry and word < side.positions[at] >> 6:
            carry = _add(&side.state[word], 0, carry)
            word += 1
        word = side.positions[at] >> 6
        bits = 0
        while at < end and side.positions[at] < high and side.positions[at] >> 6 == word:
            bits |= <uint64_t> 1 << (side.positions[at] & 63)
            at += 1
        carry = _add(&side.state[word], bits, carry)
        word += 1
    while carry and word <= last:
        carry = _add(&side.state[word], 0, carry)
        word += 1


cdef inline uint64_t _add(uint64_t *state, uint64_t bits, uint64_t carry) noexcept nogil:
    cdef uint64_t there = state[0], common = there & bits, total = there + common, whole = total + carry
    state[0] = whole | (there & ~common)
    return (total < there) | (whole < total)


cdef uint32_t _first_from(Side *side, uint32_t number, uint32_t low) noexcept nogil:
    """Return the index of the first position of *number* that is not below *low*."""
    cdef uint32_t start = side.first[number], end = side.first[number + 1], middle
    while start < end:
        middle = (start + end) // 2
        if side.positions[middle] < low:
            start = middle + 1
        else:
            end = middle
    return start


# -------------------------------------------------------------------- too long


cdef void _cut(Problem *problem, uint32_t low, uint32_t high, uint32_t other_low, uint32_t other_high,
               int depth) noexcept nogil:
    """Cut both sequences at numbers that each of them has once and that stand in the same order, or else in halves."""
    cdef uint32_t kinds = problem.forwards.kinds, i, count = 0, place, number, start, end, middle
    cdef uint32_t *times = <uint32_t *> calloc(2 * <size_t> kinds, sizeof(uint32_t))
    cdef uint32_t *place_of = <uint32_t *> malloc(<size_t> kinds * sizeof(uint32_t))
    cdef uint32_t length = other_high - other_low
    cdef uint32_t *ends = <uint32_t *> malloc(<size_t> length * sizeof(uint32_t))
    cdef int32_t *before = <int32_t *> malloc(<size_t> length * sizeof(int32_t))
    cdef int32_t at
    if times == NULL or place_of == NULL or ends == NULL or before == NULL:
        problem.failed = True
    else:
        for i in range(low, high):
            number = problem.forwards.numbers[i]
            times[2 * number] += 1
            place_of[number] = i
        for i in range(other_low, other_high):
            times[2 * problem.other[i] + 1] += 1
        # the longest rising sequence of places: ends[n] is where the one of length n ends lowest
        for i in range(other_low, other_high):
            number = problem.other[i]
            if times[2 * number] != 1 or times[2 * number + 1] != 1:
                continue
            start, end = 0, count
            while start < end:
                middle = (start + end) // 2
                if place_of[problem.other[ends[middle]]] < place_of[number]:
                    start = middle + 1
                else:
                    end = middle
            before[i - other_low] = <int32_t> ends[start - 1] if start else -1
            ends[start] = i
            if start == count:
                count += 1
        at = <int32_t> ends[count - 1] if count else -1
        if count == 0:
            _solve(problem, low, (low + high) // 2, other_low, (other_low + other_high) // 2, depth)
            _solve(problem, (low + high) // 2, high, (other_low + other_high) // 2, other_high, depth)
        while at >= 0:
            # from the last cut to the first: solve the piece after each
            place = place_of[problem.other[at]]
            problem.match[at] = place
            _solve(problem, place + 1, high, at + 1, other_high, depth)
            high, other_high = place, at
            at = before[at - other_low]
        if count:
            _solve(problem, low, high, other_low, other_high, depth)
    free(times)
    free(place_of)
    free(ends)
    free(before)
