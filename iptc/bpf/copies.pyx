# cython: freethreading_compatible=False
"""Copies the counters of a table, by a program in the kernel, from per-CPU memory, and adds them up.

A finder says where the counters are, and which words (`Marks`) change when that changes. The marks are read before and
after each copy. The memory of the copies has two halves, which are filled in turn. Counters that differ between the
halves have just been counted, and are copied again until they stay the same. So the packets and the bytes of a rule
belong together. Only pages that differ are added up again.
"""

from libc.errno cimport EBADF
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport usleep

from .._counts cimport Counts
from .window cimport ANOTHER, BANK, BUSY, MARKS, PAGE, TURN_AT, poll

from .kernel import ARRAY
from .reasons import Doubt
from .shipped import load

cdef extern from "program.h" nogil:
    struct pair:
        uint32_t copy
        uint32_t cpu
        uint32_t one
        uint32_t other
        uint64_t words[2]
        uint32_t settled
        uint32_t failed
        uint64_t set

cdef extern from * nogil:
    """
    #define acquire_fence() __atomic_thread_fence(__ATOMIC_ACQUIRE)
    """
    void acquire_fence()

cdef enum:
    COPIES_AT_ONCE = 1 << 22         # a loop of the kernel ends after 1 << 23
    ROUNDS = 3                       # how often all counters that still change are copied again
    ROUNDS_SHEET = 4                 # how often a single sheet is copied again
    ROUNDS_STUCK = 100               # how often to wait for a CPU that is stuck in the middle of a change
    PAUSE = 100                      # how long to wait then, in microseconds
    PAIRS = 512                      # how many counters of one CPU are read one by one in a reading
    SMALL = 64                       # how many pages, of all CPUs together, are copied at most while holding the GIL

# The most memory that copies take, for up to 8192 CPUs. Each page is copied twice for each CPU. If that needs more
# memory, each reading copies and adds up all pages anew, one piece of PIECE bytes after the other.
MOST_MEMORY = 72 << 20
PIECE = 4 << 20


cdef class Copies:
    """The copies of one table's counters, and the sums over all CPUs."""

    def __init__(self, Window window not None):
        """Copies will be made with the programs of *window*."""
        self.window = window

    def __dealloc__(self):
        self._free()

    cdef void _free(self) noexcept:
        free(self.its.spots)
        free(self.its.sheets)
        free(self.its.copies)
        free(self.packets)
        free(self.dirty)
        memset(&self.its, 0, sizeof(self.its))
        self.packets = self.bytes = NULL
        self.dirty = NULL

    cdef int _room(self, uint32_t slots, uint32_t bytes_each) except -1:
        """Make room for a plan with so many slots."""
        cdef size_t count = slots + 1
        cdef size_t sheets = count * bytes_each // (PAGE // 2) + 2
        self._free()
        self.its.spots = <spot *> malloc(count * sizeof(spot))
        self.its.sheets = <sheet *> calloc(sheets + 1, sizeof(sheet))
        self.its.copies = <copy *> malloc(count * sizeof(copy))
        self.packets = <uint64_t *> calloc(2 * count, sizeof(uint64_t))
        self.dirty = <uint8_t *> calloc(sheets, 1)
        if (self.its.spots == NULL or self.its.sheets == NULL or self.its.copies == NULL or self.packets == NULL
                or self.dirty == NULL):
            self._free()
            raise MemoryError
        self.bytes = self.packets + count
        return 0

    cdef int prepare(self, const uint64_t *addresses, uint32_t slots, uint32_t rules, format rule, format policy,
                     uint32_t slack, Marks *marks, uint64_t sequence) except -1:
        """Copy from *addresses* from now on: one for each slot, rules and then policies; 0 for no counter."""
        cdef uint32_t *order = <uint32_t *> malloc((2 * <size_t> slots + 1) * sizeof(uint32_t))
        cdef uint32_t i
        cdef int failed
        cdef head *what
        if order == NULL:
            raise MemoryError
        try:
            self._room(slots, max(rule.size, policy.size) + slack)
            self.its.slots, self.its.rules, self.its.rule, self.its.policy = slots, rules, rule, policy
            with nogil:
                failed = plan_copies(&self.its, addresses, slack, order)
        finally:
            free(order)
        if failed:
            raise Doubt("two rules have one counter")
        self.marks = marks[0]
        self.fresh = self.is_new = True
        self._maps()
        memcpy(self.copy_map.memory, self.its.copies, self.its.copy_count * sizeof(copy))
        for i in range(self.window.cpus):
            (<cpu *> self.cpu_map.memory)[i].offset = self.window.offsets[i]
        what = <head *> self.head_map.memory
        what.mark[0], what.mark[1] = marks.at[0], marks.at[1]
        what.sequence, what.copies = sequence, self.its.copy_count
        return 0

    cdef int _maps(self) except -1:
        """Make maps that are large enough, and load the programs that use them."""
        cdef size_t cpus = self.window.cpus, copies = self.its.copy_count
        cdef uint32_t needed = 0
        cdef uint32_t banks = room_for(self.its.sheet_count, cpus, MOST_MEMORY, PIECE, &self.stride, &needed)
        self.kept = self.stride >= self.its.sheet_count
        self.newest = 0
        if self.polling is not None and self.page_map.entries >= needed and self.copy_map.entries >= copies:
            return 0
        # some more room, so that a few more rules need no new maps
        maps = {
            "copies": Map(ARRAY, sizeof(copy), copies + copies // 4 + 16, True, "iptc_copies"),
            "pages": Map(ARRAY, BANK, banks, True, "iptc_pages"),
            "head": Map(ARRAY, sizeof(head), 1, True, "iptc_head"),
            "cpus": Map(ARRAY, sizeof(cpu), cpus, True, "iptc_cpus"),
            "freed": self.window.freed,
        }
        polling, pairing = load("poll", maps), load("pair", maps)
        # all or nothing: the programs and this object must use the same maps
        self.copy_map, self.page_map, self.head_map, self.cpu_map = (
            maps["copies"], maps["pages"], maps["head"], maps["cpus"])
        self.polling, self.pairing = polling, pairing
        return 0

    # ------------------------------------------------------------------ reading

    cdef int _run(self, Program program, void *request, uint32_t length) noexcept nogil:
        """Run a BPF program. Return 0 or a negative errno.

        Other code of this process may have closed the descriptor, and its number may now belong to the BPF program of
        another reader. That program does not set our `turns` to 0. (Of a handed-over program, the caller compares
        `set`.) The program that counts freed blocks may have been closed too.
        """
        cdef head *what = NULL
        cdef uint32_t result
        cdef int failed
        if not self.handed:
            what = <head *> self.head_map.memory
            what.turns = 1
        failed = program.run_in(request, length, &result)
        if not failed and (not self.handed and what.turns
                           or self.window.trace is not None and not self.window.trace.runs()):
            return -EBADF
        return failed

    cdef int look_at_marks(self, Marks *marks) noexcept nogil:
        """Read the present values of *marks*. Return `FINE` or a negative errno."""
        cdef poll request
        cdef uint32_t i
        cdef int failed
        cdef head *what = <head *> self.head_map.memory
        what.mark[0], what.mark[1] = marks.at[0], marks.at[1]
        memset(&request, 0, sizeof(request))
        failed = self._run(self.polling, &request, sizeof(request))
        if failed:
            return failed
        for i in range(<uint32_t> MARKS):
            marks.value[i] = request.after[i] & marks.mask[i]
        marks.freed = request.freed_after
        return FINE

    cdef int _poll(self, uint32_t first, uint32_t end, uint32_t half, uint32_t *stuck) noexcept nogil:
        """Copy the sheets from *first* to *end* into a half."""
        cdef poll request
        cdef uint32_t at = first, stop, i
        cdef uint64_t turn
        cdef int failed
        while True:
            stop = at
            while stop < end and (stop == at or (self.its.sheets[stop + 1].copy - self.its.sheets[at].copy)
                                  * <uint64_t> self.window.cpus <= COPIES_AT_ONCE):
                stop += 1
            memset(&request, 0, sizeof(request))
            request.first = self.its.sheets[at].copy
            request.count = self.its.sheets[stop].copy - request.first
            request.cpus = self.window.cpus
            request.page, request.stride = half, self.stride
            failed = self._run(self.polling, &request, sizeof(request))
            if failed:
                return failed
            if self.handed and request.set != self.set:
                return -EBADF
            for i in range(<uint32_t> MARKS):
                if ((request.before[i] ^ self.marks.value[i]) & self.marks.mask[i]
                        or (request.after[i] ^ self.marks.value[i]) & self.marks.mask[i]):
                    return CHANGED
            if self.marks.counts_freed and (request.freed_before != self.marks.freed
                                            or request.freed_after != self.marks.freed):
                return CHANGED
            if request.failed:
                return SHARED if request.failed == BUSY else CHANGED if request.failed == ANOTHER else UNREADABLE
            if self.handed:
                turn = self.turn + (1 if request.count else 0)
                self.turn = request.turn
                if self.turn != turn:
                    return SHARED
            stuck[0] |= request.stuck
            at = stop
            if at >= end:
                return FINE

    cdef int _compare(self, uint32_t *first, uint32_t *end, uint32_t base) noexcept nogil:
        """Shrink the range from *first* to *end* to the sheets that differ between the halves: the dirty ones."""
        cdef uint32_t number, low = end[0], high = first[0]
        for number in range(first[0], end[0]):
            if self.fresh or self._differs(number, base):
                self.dirty[number] = 1
                low = min(low, number)
                high = number + 1
        first[0], end[0] = low, max(low, high)
        return 0

    cdef int _settle(self, uint32_t first, uint32_t end, uint32_t base) noexcept nogil:
        """Copy the counters that have just been counted again, until they stay the same."""
        cdef uint32_t other = self.window.cpus * self.stride, stuck
        cdef int rounds = 0, failed
        cdef uint32_t its_first = first, its_end = end
        self._compare(&first, &end, base)
        self.fresh = False
        while first < end:
            stuck = 0
            # `other - newest` is the first page of the older half: the halves begin at page 0 and at page `other`
            failed = self._poll(first, end, (other - self.newest) - base, &stuck)
            if failed:
                return failed
            self.newest = other - self.newest
            its_first, its_end = first, end
            self._compare(&first, &end, base)
            rounds += 1
            if stuck and first >= end and rounds < ROUNDS_STUCK:
                # perhaps a hypervisor has stopped the CPU for longer than a copy takes
                if rounds >= ROUNDS:
                    failed = self._pause()
                    if failed:
                        return failed
                first, end = its_first, its_end
            elif first < end and rounds >= ROUNDS:
                return self._settle_sheets(first, end, base)
        return FINE

    cdef bint _differs(self, uint32_t number, uint32_t base) noexcept nogil:
        """Whether the counters of a sheet differ between the two halves."""
        cdef uint32_t cpu, page, other = self.window.cpus * self.stride
        cdef const unsigned char *memory = self.page_map.memory
        for cpu in range(self.window.cpus):
            page = number - base + cpu * self.stride
            if sheet_differs(&self.its.sheets[number], page_at(memory, page), page_at(memory, page + other)):
                return True
        return False

    cdef int _settle_sheets(self, uint32_t first, uint32_t end, uint32_t base) noexcept nogil:
        """Copy sheet by sheet until each stays the same: that is quicker than copying all sheets. If a sheet keeps
        changing, read its counters one by one."""
        cdef uint32_t other = self.window.cpus * self.stride, number, cpu, half, stuck, page
        cdef uint32_t left = PAIRS, waits = ROUNDS_STUCK
        cdef unsigned char *memory = self.page_map.memory
        cdef int failed, tries
        cdef bint settled
        for number in range(first, end):
            half, tries = self.newest, 0
            settled = not self._differs(number, base)
            while not settled and tries < ROUNDS_SHEET:
                stuck = 0
                failed = self._poll(number, number + 1, other - half - base, &stuck)
                if failed:
                    return failed
                half = other - half
                tries += 1
                settled = not self._differs(number, base)
                if settled and stuck and waits:
                    waits -= 1
                    failed = self._pause()
                    if failed:
                        return failed
                    settled, tries = False, 0
            if not settled and left:
                failed = self._settle_pairs(number, base, half, &left, &waits)
                if failed:
                    return failed
            if half != self.newest:
                for cpu in range(self.window.cpus):
                    page = number - base + cpu * self.stride
                    memcpy(<unsigned char *> page_at(memory, page + self.newest), page_at(memory, page + half),
                           self.its.sheets[number].used)
        # pairs that were read one by one are valid only if the marks have not changed by now
        return self._poll(first, first, self.newest - base, &stuck)

    cdef int _settle_pairs(self, uint32_t number, uint32_t base, uint32_t half, uint32_t *left,
                           uint32_t *waits) noexcept nogil:
        """Read the counters of a sheet that differ between the halves, one by one, into *half*."""
        cdef uint32_t other = self.window.cpus * self.stride, cpu, page, k, at
        cdef unsigned char *memory = self.page_map.memory
        cdef unsigned char *here
        cdef const unsigned char *there
        cdef const format *its
        cdef pair request
        cdef int failed
        for cpu in range(self.window.cpus):
            page = number - base + cpu * self.stride
            here = <unsigned char *> page_at(memory, page + half)
            there = page_at(memory, page + (other - half))
            request.copy = self.its.sheets[number].copy
            for k in range(self.its.sheets[number].first, self.its.sheets[number + 1].first):
                at = self.its.spots[k].at % PAGE
                its = &self.its.rule if self.its.spots[k].slot < self.its.rules else &self.its.policy
                if memcmp(here + at, there + at, its.size) == 0:
                    continue
                if not left[0]:
                    return FINE
                left[0] -= 1
                while (self.its.copies[request.copy].begin + self.its.copies[request.copy].size <= at
                        and request.copy + 1 < self.its.sheets[number + 1].copy):
                    request.copy += 1
                at -= self.its.copies[request.copy].begin
                request.cpu, request.one, request.other = cpu, at + its.bytes, at + its.packets
                request.set = 0
                while True:
                    failed = self._run(self.pairing, &request, sizeof(request))
                    if failed:
                        return failed
                    if request.settled or request.failed or not waits[0]:
                        break
                    # a packet takes long to pass the table, or its CPU was interrupted
                    waits[0] -= 1
                    failed = self._pause()
                    if failed:
                        return failed
                if self.handed and request.set != self.set:
                    return -EBADF
                if request.failed:
                    return CHANGED if request.failed == ANOTHER else UNREADABLE
                at = self.its.spots[k].at % PAGE
                memcpy(here + at + its.bytes, &request.words[0], 8)
                memcpy(here + at + its.packets, &request.words[1], 8)
        return FINE

    cdef int _pause(self) noexcept nogil:
        """Wait for a moment. Return `FINE`, or `LATER` without waiting if the reading is `calm`."""
        if self.calm:
            return LATER
        usleep(PAUSE)
        return FINE

    cdef bint is_small(self) noexcept:
        """Whether a reading takes less time than to release the GIL and to get it back."""
        return self.kept and self.its.sheet_count * <size_t> self.window.cpus <= SMALL

    cdef int read_at_once(self) noexcept:
        """Like `read`, but without waiting: for few counters."""
        cdef int status
        self.calm = True
        status = self.read()
        self.calm = False
        return status

    cdef int read(self) noexcept nogil:
        """Read all counters and update the sums. Return `FINE`, or why the sums are of no use: see the enum."""
        cdef uint32_t first = 0, end, number, stuck = 0
        cdef uint32_t other = self.window.cpus * self.stride
        cdef int failed
        while True:
            end = self.its.sheet_count if self.kept else min(first + self.stride, self.its.sheet_count)
            if not self.kept:
                self.fresh = True
            # into the half with the older copies
            self.newest = other - self.newest
            failed = self._poll(first, end, self.newest - first, &stuck)
            if not failed:
                failed = self._settle(first, end, first)
            if failed:
                self.fresh = True
                return failed
            for number in range(first, end):
                if self.dirty[number]:
                    self.dirty[number] = 0
                    self.is_new = True
                    sum_sheet(&self.its, number, self.page_map.memory, self.newest + number - first, self.stride,
                              self.window.cpus, self.packets, self.bytes)
            if self.handed and self.given_turn() != self.turn:
                self.fresh = True
                return SHARED
            first = end
            if first >= self.its.sheet_count:
                return FINE

    cdef uint64_t given_turn(self) noexcept nogil:
        """Return how often the program `hand` has written copies: see TURN_AT."""
        cdef uint64_t turn
        acquire_fence()
        memcpy(&turn, self.page_map.memory + TURN_AT, sizeof(turn))
        return turn

    cdef Counts counted(self, list policies):
        """Return the sums of the rules, and add those of the policies to *policies*."""
        cdef Counts counts = Counts.__new__(Counts)
        cdef Py_ssize_t rules = self.its.rules, i
        counts._allocate(rules)
        memcpy(counts.packet_row, self.packets, 8 * rules)
        memcpy(counts.byte_row, self.bytes, 8 * rules)
        for i in range(rules, self.its.slots):
            policies.append((self.packets[i], self.bytes[i]))
        self.is_new = False
        return counts
