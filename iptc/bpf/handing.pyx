# cython: freethreading_compatible=False
"""Hands the counters of a table over: makes the descriptors with which a process without any rights reads them.

Each receiver gets programs and maps of its own. It gets the programs, and the map into which they write the copies. The
other maps say which memory the programs read. Their descriptors are closed at the end, so only the programs can use
them. So the receiver can read these counters and nothing else, and only as long as the ruleset stays the same.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINTR, EINVAL
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from .._linux cimport errno_now, fcntl
from .copies cimport Copies, Marks, format, plan, sheet, spot
from .kernel cimport Descriptor, Map, Program, TracepointLink
from .net cimport Net
from .window cimport ANOTHER, BANK, BANK_PAGES, PAGE, SET_AT, copy, cpu, head, owner, poll

from ..errors import Conflict, Unsupported, kernel_error
from . import parcel
from .kernel import ARRAY
from .shipped import load

import os

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <unistd.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #ifndef MFD_CLOEXEC
    #define MFD_CLOEXEC 1
    #define MFD_ALLOW_SEALING 2
    #endif
    #ifndef MFD_NOEXEC_SEAL
    #define MFD_NOEXEC_SEAL 8           /* headers before Linux 6.3 do not have it */
    #endif
    /* glibc has a function for it since 2.27, and wheels are for 2.17 */
    #define create_memory_file(name, flags) ((int)syscall(SYS_memfd_create, name, (unsigned int)(flags)))
    """
    enum:
        F_ADD_SEALS
        MFD_ALLOW_SEALING
        MFD_CLOEXEC
        MFD_NOEXEC_SEAL
    int create_memory_file(const char *name, unsigned int flags)
    ssize_t write(int fd, const void *data, size_t length)


cdef class Sealed(Descriptor):
    """A file in memory that never changes again."""

    def __init__(self, bytes content not None):
        """Make one with this *content*."""
        cdef const char *data = content
        cdef Py_ssize_t left = PyBytes_GET_SIZE(content), done
        cdef unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING
        cdef int fd, seals = parcel.SEALS
        self._drop()
        with nogil:
            fd = create_memory_file("iptc_counters", flags | MFD_NOEXEC_SEAL)
            if fd < 0 and errno_now == EINVAL:
                fd = create_memory_file("iptc_counters", flags)       # before Linux 6.3
        if not self._keep(fd):
            raise kernel_error("can't make a file in memory", errno_now, os.strerror(errno_now))
        while left:
            with nogil:
                done = write(fd, data, left)
            if done < 0 and errno_now != EINTR:
                raise kernel_error("can't write a file in memory", errno_now, os.strerror(errno_now))
            if done > 0:
                data += done
                left -= done
        if fcntl(fd, F_ADD_SEALS, seals) < 0:
            raise kernel_error("can't seal a file in memory", errno_now, os.strerror(errno_now))


cdef class Handing:
    """The maps and programs that are made for one receiver."""

    cdef Copies copies
    cdef Map given
    cdef Map freed
    cdef TracepointLink trace        # lets the program run that counts freed blocks in `freed`; None: not needed
    cdef Program polling
    cdef Program pairing
    cdef uint64_t set

    def __init__(self, Copies copies not None, Net home not None, bytes owners):
        """Make programs that give out the counters that *copies* reads. *home* and *owners* are as for `hand_over`."""
        cdef size_t pages = 2 * <size_t> copies.window.cpus * copies.stride
        cdef size_t banks = (pages + BANK_PAGES - 1) // BANK_PAGES or 1
        cdef uint32_t count = copies.its.copy_count, i
        cdef Map what = Map(ARRAY, sizeof(head), 1, True, "iptc_head")
        cdef Map cpus = Map(ARRAY, sizeof(cpu), copies.window.cpus, True, "iptc_cpus")
        cdef Map its_copies = Map(ARRAY, sizeof(copy), count + 1, True, "iptc_copies")
        cdef Map pages_map = Map(ARRAY, BANK, banks, False, "iptc_pages")
        cdef bytes number = os.urandom(8)
        self.copies = copies
        self.given = Map(ARRAY, BANK, banks, True, "iptc_given")
        memcpy(&self.set, PyBytes_AS_STRING(number), 8)
        memcpy(self.given.memory + SET_AT, &self.set, 8)
        for i in range(copies.window.cpus):
            (<cpu *> cpus.memory)[i].offset = copies.window.offsets[i]
        memcpy(its_copies.memory, copies.its.copies, count * sizeof(copy))
        cdef Map its_owners = Map(ARRAY, sizeof(owner), (count if owners is not None else 0) + 1, True, "iptc_owners")
        if owners is not None:
            self._own(owners, <owner *> its_owners.memory)
        self._watch()
        self._fill(<head *> what.memory, home, owners is not None)
        maps = {"head": what, "cpus": cpus, "copies": its_copies, "pages": pages_map, "given": self.given,
                "freed": self.freed, "owners": its_owners}
        self.polling, self.pairing = load("hand", maps), load("hand_pair", maps)

    cdef int _watch(self) except -1:
        """Count freed blocks for the receiver alone: our own program will watch another block after the next change."""
        self.freed = Map(ARRAY, self.copies.window.freed.value_size, 1, True, "iptc_freed")
        if self.copies.marks.counts_freed:
            (<uint64_t *> self.freed.memory)[1] = (<uint64_t *> self.copies.window.freed.memory)[1]
            self.trace = TracepointLink(load("free_percpu", {"freed": self.freed}), "percpu_free_percpu")
        return 0

    cdef int _own(self, bytes owners, owner *row) except -1:
        """Fill the map of owners: for each copy, where the kernel keeps the addresses of its first and last counter."""
        cdef const uint64_t *kept_at = <const uint64_t *> PyBytes_AS_STRING(owners)
        cdef const plan *its = &self.copies.its
        cdef const spot *here
        cdef uint32_t at = 0, number, begin
        if PyBytes_GET_SIZE(owners) != 8 * <Py_ssize_t> its.slots:
            raise Conflict("the ruleset is another one by now")
        # spots and copies are in the order of their addresses
        for number in range(its.copy_count):
            begin = its.copies[number].page * PAGE + its.copies[number].begin
            while at < its.spot_count and its.spots[at].at < begin + its.copies[number].size:
                here = &its.spots[at]
                if here.at == begin:
                    row[number].first_at = kept_at[here.slot]
                row[number].last_at = kept_at[here.slot]
                row[number].last = its.copies[number].from_ + here.at - begin
                at += 1
        return 0

    cdef int _fill(self, head *what, Net home, bint owned) except -1:
        """Fill the head: the marks and their values, the namespace, and how many copies there are."""
        cdef uint64_t alive, cookie_at, cookie
        cdef int i
        cdef const head *ours = <const head *> self.copies.head_map.memory
        for i in range(2):
            what.mark[i], what.mask[i] = self.copies.marks.at[i], self.copies.marks.mask[i]
            what.value[i] = self.copies.marks.value[i]
        what.counts_freed, what.owned = self.copies.marks.counts_freed, owned
        what.sequence, what.copies, what.set = ours.sequence, ours.copies, self.set
        home.life(&alive, &cookie_at, &cookie)
        what.alive, what.cookie_at, what.cookie = alive, cookie_at, cookie
        return 0

    cdef bytes described(self, dict said, bytes identities, list texts, bint traced):
        """Return the content of the memfd: what the receiver has to know."""
        cdef Copies its = self.copies
        cdef uint32_t count = its.its.copy_count, i
        cdef bytes pieces = PyBytes_FromStringAndSize(NULL, 4 * <Py_ssize_t> count)
        cdef uint16_t *piece = <uint16_t *> PyBytes_AS_STRING(pieces)
        for i in range(count):
            piece[2 * i], piece[2 * i + 1] = its.its.copies[i].begin, its.its.copies[i].size
        said = {
            **said, "set": self.set, "cpus": its.window.cpus, "stride": its.stride, "kept": bool(its.kept),
            "traced": bool(traced), "slots": its.its.slots, "rules": its.its.rules,
            "rule": _format(its.its.rule), "policy": _format(its.its.policy),
        }
        return parcel.pack(
            said, (<const char *> its.its.spots)[:its.its.spot_count * sizeof(spot)],
            (<const char *> its.its.sheets)[:(its.its.sheet_count + 1) * sizeof(sheet)], pieces, identities, texts)

    cdef int check(self) except -1:
        """Run the handed-over program once. Raises `Conflict` if the ruleset has changed since it was learned."""
        cdef poll request
        cdef Marks marks = self.copies.marks
        cdef uint32_t result
        cdef int failed = self.copies.look_at_marks(&marks)
        if failed < 0:
            raise kernel_error("can't run a program", -failed, os.strerror(-failed))
        # our own program has counted the blocks that were freed before the receiver's program began to count
        if marks.counts_freed and marks.freed != self.copies.marks.freed:
            raise Conflict("the ruleset has just been changed")
        memset(&request, 0, sizeof(request))
        failed = self.polling.run_in(&request, sizeof(request), &result)
        if failed < 0:
            raise kernel_error("can't run a program", -failed, os.strerror(-failed))
        if request.failed == ANOTHER:
            raise Conflict("the ruleset has just been changed")
        if request.failed:
            raise Unsupported("memory of the kernel that has counters cannot be read")
        return 0


cdef tuple _format(format its):
    return its.size, its.packets, its.bytes


def hand_over(Copies copies not None, Net home not None, bytes owners, dict said not None, bytes identities not None,
              list texts not None, list descriptors not None):
    """Add to *descriptors* those with which a process reads the counters that *copies* reads. The caller owns them.

    *home* is the table's network namespace. *owners*: where the kernel keeps the address of each slot's counter, as
    uint64, or None. *said*, *identities* and *texts* are as for `parcel.pack`. Raises `Conflict` if the ruleset has
    changed since it was learned.
    """
    cdef Handing made = Handing(copies, home, owners)
    cdef Descriptor each
    cdef bint traced = copies.marks.counts_freed
    cdef list things = [Sealed(made.described(said, identities, texts, traced)), made.given, made.polling, made.pairing]
    if traced:
        things.append(made.trace)
    made.check()
    # each descriptor always has one owner: the list, or the object in `things`
    for each in things:
        descriptors.append(each.held.fd)
        each._give_up()
