# cython: freethreading_compatible=False
"""Reads the counters of a table with eBPF, in place of the scan that reads them by a socket.

The scan by socket is still used. It says which rules there are after rules have come or gone. Its numbers are compared
with those of eBPF when the counters were found anew, and once in a while.

There are two kinds of reasons to stop using eBPF. After a doubt, or a refusal of the kernel, eBPF is never tried again.
A hindrance passes: eBPF is tried again after a second, then after twice that time, and so on, up to the time between
two comparisons.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, ENOMEM
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport usleep

from .._core cimport made_of
from .._counts cimport Counts, Reading, Scan
from .copies cimport FINE, UNREADABLE, Copies, Marks, marks_differ
from .finder cimport Finder
from .window cimport Window

import time

from ..errors import AccessDenied, Conflict, KernelError, Unsupported
from . import reasons
from .reasons import Doubt, Hindrance, not_run

cdef extern from *:
    """
    #include <sys/mman.h>
    #include <unistd.h>

    /* Memory that is zero in the child of a fork: the number of this process, which getpid() would ask the kernel for
       each time. NULL: there is none. */
    static volatile pid_t *its_number;

    static pid_t process_number(void)
    {
        if (!its_number) {
            void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (page == MAP_FAILED)
                return getpid();
            if (madvise(page, 4096, MADV_WIPEONFORK)) {
                munmap(page, 4096);
                return getpid();
            }
            its_number = page;
        }
        if (!*its_number)
            *its_number = getpid();
        return *its_number;
    }
    """
    int process_number()

cdef enum:
    ATTEMPTS = 64                    # how often to search for the counters while others change the ruleset
    FEW_ATTEMPTS = 4                 # the same if the socket can be used instead
    DOUBTS = 3                       # how often eBPF and the socket may differ before that is a doubt
    PAUSE = 200                      # microseconds between two searches

PATIENCE = 5.0
"""Seconds after which no further search begins."""

FIRST_WAIT = 1.0
"""Seconds until eBPF is tried again after a hindrance."""

LONGEST_WAIT = 60.0
"""Seconds until eBPF is tried again at the latest, if it is never compared with the socket."""


cdef class BpfScan(Scan):
    """Reads the counters of one table by eBPF where that is possible, and else by the socket.

    `source` is "bpf" or "socket", `source_reason` says why.
    """

    cdef object socket               # the back end's scan, which reads by a socket
    cdef object opener               # the function that opens all that eBPF needs
    cdef Window window               # None: nothing is open
    cdef Finder finder
    cdef Copies copies
    cdef bint falls_back             # read by the socket if eBPF cannot be used
    cdef double period               # seconds between two comparisons
    cdef double due                  # the time of the next comparison
    cdef int process                 # the id of the process that has the descriptors
    cdef double wait                 # seconds until eBPF is tried again after the next hindrance
    cdef double again                # the time when eBPF is tried again
    cdef bint compared               # the kept find was compared with a reading of all by the socket
    cdef readonly int followed       # how many changes were followed without reading all by the socket
    cdef bint learned                # the counters of the present ruleset were found
    cdef bint is_odd                 # the last search found inconsistent memory
    cdef bytes placed                # for each slot: the number of its counter among those that were found
    cdef Py_ssize_t found            # how many counters were found
    cdef Counts last                 # the counters that eBPF read last
    cdef list last_policies
    cdef readonly str source
    cdef readonly str source_reason

    def __init__(self, object socket not None, object opener not None, bint falls_back, double period):
        """Read what *socket*, a scan of the back end, reads. *opener* returns a `Window` and a `Finder` of the table.

        *period*: `source_check`. Raises `Unsupported` or `KernelError` where eBPF is not possible, unless *falls_back*.
        """
        self.socket, self.opener = socket, opener
        self.falls_back, self.period = falls_back, period
        self.learned = False
        self.process = process_number()
        self.wait = FIRST_WAIT
        self.source, self.source_reason = "bpf", ""
        try:
            self._start()
        except (Unsupported, KernelError) as refusal:
            self._stop(refusal)

    cdef int _start(self) except -1:
        """Open what eBPF needs."""
        cdef Copies copies
        window, finder = self.opener()
        copies = Copies(window)
        self.finder, self.copies = finder, copies
        self._prepare(b"", 0)
        self.window = window         # set last: `window` says whether all is open
        return 0

    cdef int _stop(self, object why) except -1:
        """Read by the socket from now on, or raise *why* unless `falls_back`.

        eBPF is tried again later if *why* is a `Hindrance` or a `KernelError`.
        """
        cdef double longest = self.period if self.period > 0 else LONGEST_WAIT
        cdef bint passes = isinstance(why, (Hindrance, KernelError))
        self.learned = self.compared = False
        if isinstance(why, Hindrance) and why.is_lost or self.falls_back and not passes:
            # the open programs and maps will not be used again
            self.window, self.finder, self.copies = None, None, None
        if not self.falls_back:
            if isinstance(why, AccessDenied):
                # the kernel refuses what the socket asks, for lack of a capability that this process had
                raise Unsupported("can't read the counters with eBPF: what it finds now cannot be compared with the "
                                  f"kernel's own interface: {why}") from why
            if isinstance(why, KernelError):
                raise why
            raise Unsupported(f"can't read the counters with eBPF: {why}") from None
        self.source, self.source_reason, self.again = "socket", str(why), INFINITY
        if passes:
            self.again = time.monotonic() + min(self.wait, longest)
            self.wait = min(2 * self.wait, longest)
        return 0

    @property
    def closed(self):
        """Whether it was closed."""
        return self.socket.closed or self.to_close

    cdef void _free(self) noexcept:
        self.learned = False
        self.window = None
        self.finder = None
        self.copies = None
        if self.socket is not None:
            self.socket.close()

    cdef int _prepare(self, bytes addresses, Py_ssize_t rules) except -1:
        """Copy the counters at *addresses* from now on: those of *rules* rules, then those of the policies."""
        cdef Marks marks
        self.finder.mark(&marks)
        self.copies.prepare(<const uint64_t *> PyBytes_AS_STRING(addresses), PyBytes_GET_SIZE(addresses) // 8, rules,
                            self.finder.rule, self.finder.policy, self.finder.slack, &marks, self.finder.sequence)
        return 0

    cdef int _find(self, Marks *marks) except -1:
        """Find where the counters are, and read *marks*. Return 1, or 0 if others changed the ruleset meanwhile."""
        cdef Marks after
        cdef int failed
        self.finder.mark(marks)
        self._check(self.copies.look_at_marks(marks))
        failed = self.finder.find(marks)
        self.window.check()
        if failed == ENOMEM:
            raise MemoryError
        after = marks[0]
        self._check(self.copies.look_at_marks(&after))
        if marks_differ(&after, marks) or failed == EAGAIN:
            return 0
        # the kernel adds chains to its list before a commit, and removes them after it: the marks do not change then
        self.is_odd = failed != 0
        return not failed

    cdef int _check(self, int status) except -1:
        """Raise if *status* says that the programs cannot be run, or cannot read the counters' memory."""
        if status < 0:
            raise not_run(-status)
        if status == UNREADABLE:
            raise Doubt("memory of the kernel that has counters cannot be read")
        return 0

    # ------------------------------------------------------------------ reading

    cdef tuple _read(self):
        if self.socket.closed:
            raise KernelError("this reader is closed", 9, "Bad file descriptor")
        if self.source == "socket" and time.monotonic() < self.again:
            return self._by_socket()
        try:
            if self.window is None:
                self._start()
            if self.learned and not self._is_due() and self._copy():
                return self._taken()
            self.layout = None
            return self._learn()
        except (Unsupported, KernelError) as why:
            self._stop(why)
        return self._by_socket()

    def quick(self, object reader, type kind not None):
        """Return a reading of the class *kind* if the rules are known and are few. Otherwise return None.

        After a wait, neither code nor data are in the processor's caches. So this does only what is necessary, and
        runs no Python code.
        """
        cdef Reading made
        if (self.busy or self.layout is None or not self.learned or not self.copies.is_small()
                or self.process != process_number() or self._is_time()):
            return None
        # busy to the end: an object that is made here may start the garbage collector, and a finalizer may close us
        self._begin()
        try:
            if self.copies.read_at_once() != FINE:
                return None
            self._sum_up()
            made = <Reading?> made_of(kind)
            made._counts, made._layout, made._policies, made._reader = (
                self.last, self.layout, self.last_policies, reader)
        finally:
            self._end()
        made.monotonic, made.wall = _now(CLOCK_MONOTONIC), _now(CLOCK_REALTIME)
        return made

    cdef bint _is_time(self) noexcept:
        """Whether the time of the next comparison has come."""
        return self.period > 0 and _now(CLOCK_MONOTONIC) >= self.due

    cdef bint _is_due(self) except -1:
        """Whether the numbers of eBPF have to be compared with those of the socket, and may be."""
        if not self._is_time():
            return False
        if self.finder.may_read(self.socket):
            return True
        self.due = time.monotonic() + self.period
        self.source_reason = f"not compared with what the socket says: {reasons.why_not_asked()}"
        return False

    cdef tuple _by_socket(self):
        """Return what the socket's scan reads."""
        self.layout = None
        if self.last is not None:
            # the socket's scan compares its reading with these
            self.socket.remember(self.last, self.last_policies)
            self.last = None
        return self._adopted(self.socket.read())

    cdef tuple _adopted(self, tuple reading):
        """Take over what the socket's scan says of the rules of its *reading*."""
        self.chains, self.identities, self.doubt = self.socket.chains, self.socket.identities, self.socket.doubt
        self.digest = reading[1]
        return reading

    cdef tuple _by_changes(self, Marks *marks, bytearray asked):
        """Have the socket's scan read only the rules that are new. None where that is impossible, or all is to be
        read for the comparison."""
        cdef tuple reading
        if not self.compared or self._is_time():
            return None
        reading = self.finder.follow(self.socket, marks, asked)
        if reading is None:
            return None
        self.followed += 1
        return self._adopted(reading)

    cdef bint _copy(self) except -1:
        """Copy the counters. Return whether the rules are still those that were learned."""
        cdef int status, _attempt
        cdef Marks marks
        for _attempt in range(FEW_ATTEMPTS):
            with nogil:
                status = self.copies.read()
            self._check(status)
            if status == FINE:
                return True
            # the marks have changed; perhaps only another table or a set has changed
            if not self.finder.compares:
                return False
            if not self._find(&marks):
                with nogil:
                    usleep(PAUSE)
                continue
            if not self.finder.is_known(&marks):
                return False
            self.copies.marks = marks
        return False

    cdef int _sum_up(self) except -1:
        """Put the sums of eBPF into `last` and `last_policies`, unless they are there."""
        cdef list policies
        if self.copies.is_new or self.last is None:
            policies = []
            self.last = self.copies.counted(policies)
            self.last_policies = policies
        return 0

    cdef tuple _taken(self):
        """Return the sums of eBPF in the form that `read` returns."""
        self._sum_up()
        self.doubt = 0
        return self.last, self.digest, list(self.last_policies)

    # ------------------------------------------------------------------ learning

    cdef tuple _learn(self):
        """Find the counters, compare them with the socket's, and return a reading of eBPF, or else of the socket."""
        cdef Marks marks, after
        cdef int doubts = 0, _attempt
        cdef tuple reading = None
        cdef bytes addresses, before, placed
        cdef str difference
        cdef bytearray asked = bytearray()
        cdef bint followed = False
        # if the socket's numbers can be used instead, a large table is not read twice by the socket
        cdef double limit = time.monotonic() + (FIRST_WAIT if self.falls_back else PATIENCE)
        self.learned = False
        for _attempt in range(FEW_ATTEMPTS if self.falls_back else ATTEMPTS):
            PyErr_CheckSignals()
            while not self._find(&marks):
                if time.monotonic() > limit:
                    raise Hindrance("the ruleset changes all the time" if not self.is_odd else
                                    "the kernel's structures change all the time, or are not laid out as its BTF says")
                with nogil:
                    usleep(PAUSE)
                PyErr_CheckSignals()
            if _attempt and not followed and time.monotonic() > limit:
                break
            addresses = self.finder.addresses()
            if not self._prepare_some(addresses, self.finder.rules):
                continue
            self.copies.marks = marks
            if not self._copy_once():
                continue
            before = self._sums()
            reading = None if _attempt else self._by_changes(&marks, asked)
            followed = reading is not None
            try:
                reading = reading or self._by_socket()
            except Conflict:
                continue             # the ruleset changed while the socket read it
            if self.doubt:
                return reading
            placed = self.finder.places(self.socket, &marks)
            if placed is not None and not self.finder.has_marks:
                return reading       # there is no table yet, and nothing to copy
            after = marks
            self._check(self.copies.look_at_marks(&after))
            if marks_differ(&after, &marks):
                continue
            difference = "other rules"
            if placed is not None:
                if followed:
                    _assume(before, placed, asked, reading[0])
                if not self._prepare_some(_gathered(addresses, placed), (<Counts> reading[0]).rules):
                    continue
                self.copies.marks = marks
                if not self._copy_once():
                    continue
                difference = self._difference(before, placed, reading)
            if not difference:
                self.finder.keep(&marks)
                self.placed, self.found = placed, PyBytes_GET_SIZE(addresses) // 8
                self.learned = self.compared = True
                if not followed:
                    self.due = time.monotonic() + self.period
                self.wait = FIRST_WAIT
                self.source, self.source_reason = "bpf", ""
                return self._taken()
            doubts += 1
            if doubts == DOUBTS:
                raise Doubt(f"eBPF finds {difference} than the kernel's own interface says")
        refusal = Hindrance("the ruleset changes all the time")
        if reading is None or not self.falls_back:
            raise refusal
        self._stop(refusal)
        return reading

    cdef bint _prepare_some(self, bytes addresses, Py_ssize_t rules) except -1:
        """Prepare to copy from addresses that were just found. Return False if these cannot be the counters of
        different rules: what was found is inconsistent then, and has to be found again."""
        try:
            self._prepare(addresses, rules)
        except Doubt:
            with nogil:
                usleep(PAUSE)
            return False
        return True

    cdef bint _copy_once(self) except -1:
        cdef int status
        with nogil:
            status = self.copies.read()
        self._check(status)
        return status == FINE

    cdef bytes _sums(self):
        """Return all sums as bytes: two uint64 for each slot, packets and bytes."""
        cdef Py_ssize_t count = self.copies.its.slots, i
        cdef bytes made = PyBytes_FromStringAndSize(NULL, 16 * count)
        cdef uint64_t *pair = <uint64_t *> PyBytes_AS_STRING(made)
        for i in range(count):
            pair[2 * i], pair[2 * i + 1] = self.copies.packets[i], self.copies.bytes[i]
        return made

    cdef str _difference(self, bytes before, bytes placed, tuple reading):
        """Compare the socket's *reading* with eBPF's sums: those *before* it, and those now, after it. Return which of
        its numbers are not between the two, or "" if all are."""
        cdef const uint64_t *pair = <const uint64_t *> PyBytes_AS_STRING(before)
        cdef const int32_t *place = <const int32_t *> PyBytes_AS_STRING(placed)
        cdef Counts counts = reading[0]
        cdef Py_ssize_t slot, slots = PyBytes_GET_SIZE(placed) // 4
        cdef uint64_t packets, sizes, low_packets, low_sizes
        cdef list policies = reading[2]
        if slots != counts.rules + len(policies):
            return "other chains"
        for slot in range(slots):
            low_packets = low_sizes = 0
            if place[slot] >= 0:
                low_packets, low_sizes = pair[2 * place[slot]], pair[2 * place[slot] + 1]
            if slot < counts.rules:
                packets, sizes = counts.packet_row[slot], counts.byte_row[slot]
            else:
                packets, sizes = policies[slot - counts.rules]
            if (packets < low_packets or sizes < low_sizes or packets > self.copies.packets[slot]
                    or sizes > self.copies.bytes[slot]):
                return f"other numbers of slot {slot}"
        return ""

    cdef bytes _owners(self):
        """Return where the kernel keeps the address of each slot's counter, or None if that is not needed.

        The counters are found again, since the finder does not keep that. Raises `Conflict` if the ruleset has changed
        since it was learned.
        """
        cdef Marks marks
        cdef bytes owners
        if not self.copies.marks.counts_freed:
            return None              # the marks are enough
        if not self._find(&marks):
            raise Conflict("the ruleset has just been changed")
        owners = self.finder.owners()
        self.finder.keep(&marks)
        if marks_differ(&marks, &self.copies.marks) or PyBytes_GET_SIZE(owners) != 8 * self.found:
            raise Conflict("the ruleset has just been changed")
        return _gathered(owners, self.placed)

    def hand_over(self, uint64_t digest, dict said not None, list texts not None, list made not None):
        """Add to *made* descriptors with which another process reads the ruleset with *digest*, without any rights.

        *said* and *texts* are as for `parcel.pack`. Raises `Conflict` if the ruleset has changed.
        """
        from .handing import hand_over   # loaded only when counters are handed over

        self._begin()
        try:
            if self.source != "bpf":
                raise Unsupported(f"only counters that are read by eBPF can be handed over: {self.source_reason}")
            if not self.learned or digest != self.digest:
                raise Conflict("the ruleset is another one by now")
            owners = self._owners()
            hand_over(self.copies, self.finder.home, owners, said, self.identities, texts, made)
        finally:
            self._end()

    # ------------------------------------------------------------------ the rest of what a scan can do

    cdef list _entries(self, uint64_t digest):
        return self.socket.entries(digest)

    def rely_on(self, object counts):
        """As the socket's scan does: compare later readings with *counts*, which `read` returned last."""
        if counts is None:
            # a writer may still have to give counters back: only the socket's scan knows when it has done so
            self.learned = False
            self.last = None
        self.socket.rely_on(counts)

    def with_aside(self, Counts counts not None, list policies not None):
        """As the socket's scan does: add the counts that a writer has not given back yet."""
        return self.socket.with_aside(counts, policies)


cdef int _assume(bytes before, bytes placed, bytearray asked, Counts counts) except -1:
    """Put into *counts* the sums of the rules that the socket was not asked for: their counters are where they were
    when they were compared with the socket's."""
    cdef const uint64_t *pair = <const uint64_t *> PyBytes_AS_STRING(before)
    cdef const int32_t *place = <const int32_t *> PyBytes_AS_STRING(placed)
    cdef const char *is_read = asked
    cdef Py_ssize_t slot
    for slot in range(counts.rules):
        if place[slot] >= 0 and not is_read[place[slot]]:
            counts.packet_row[slot], counts.byte_row[slot] = pair[2 * place[slot]], pair[2 * place[slot] + 1]
    return 0


cdef double _now(int clock) noexcept:
    """Return the time of a clock in seconds."""
    cdef timespec now
    clock_gettime(clock, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef bytes _gathered(bytes addresses, bytes placed):
    """Return the address for each slot. *placed*: for each slot, which of *addresses* it has; -1 for none."""
    cdef const uint64_t *all_of_them = <const uint64_t *> PyBytes_AS_STRING(addresses)
    cdef const int32_t *place = <const int32_t *> PyBytes_AS_STRING(placed)
    cdef Py_ssize_t slot, slots = PyBytes_GET_SIZE(placed) // 4
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 8 * slots)
    cdef uint64_t *address = <uint64_t *> PyBytes_AS_STRING(made)
    for slot in range(slots):
        address[slot] = all_of_them[place[slot]] if place[slot] >= 0 else 0
    return made
