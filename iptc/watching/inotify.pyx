# cython: freethreading_compatible=False
"""Tells when files are opened and closed (inotify)."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.errno cimport EAGAIN, EINTR
from libc.string cimport strerror
from posix.unistd cimport read

from .._linux cimport (
    IN_CLOEXEC, IN_CLOSE_NOWRITE, IN_CLOSE_WRITE, IN_CREATE, IN_DELETE_SELF, IN_MOVED_TO, IN_MOVE_SELF, IN_NONBLOCK,
    IN_OPEN, IN_Q_OVERFLOW, errno_now, inotify_add_watch, inotify_event, inotify_init1,
)
from .._netns cimport held_close, held_set

OPENED = IN_OPEN
CLOSED = IN_CLOSE_WRITE | IN_CLOSE_NOWRITE
GONE = IN_DELETE_SELF | IN_MOVE_SELF
MADE = IN_CREATE | IN_MOVED_TO
LOST = IN_Q_OVERFLOW

cdef enum:
    ROOM = 65536


cdef class Inotify:
    """An inotify descriptor. It is closed when the object is deleted."""

    def __dealloc__(self):
        held_close(&self.held)

    def __cinit__(self):
        cdef int fd, failed
        self.held.fd = -1
        with nogil:
            fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)
            failed = 0 if fd >= 0 else errno_now
        if failed:
            raise OSError(failed, strerror(failed).decode())
        held_set(&self.held, fd)

    def fileno(self):
        """Return the descriptor, which becomes readable when there are events."""
        return self.held.fd

    def add(self, bytes path not None, uint32_t mask):
        """Watch *path* for the events in *mask*. Return the number that those events have. Raises `OSError` if there is
        no such file."""
        cdef int failed, number
        cdef const char *name = PyBytes_AS_STRING(path)
        with nogil:
            number = inotify_add_watch(self.held.fd, name, mask)
            failed = 0 if number >= 0 else errno_now
        if failed:
            raise OSError(failed, strerror(failed).decode())
        return number

    def read(self):
        """Return the events since the last call as [(number, mask, name)], without waiting."""
        cdef char room[ROOM]
        cdef ssize_t got, at
        cdef int failed
        cdef const inotify_event *event
        cdef list found = []
        while True:
            with nogil:
                got = read(self.held.fd, room, ROOM)
                failed = 0 if got >= 0 else errno_now
            if failed == EINTR:
                continue
            if failed == EAGAIN or got == 0:
                return found
            if failed:
                raise OSError(failed, strerror(failed).decode())
            at = 0
            while at + <ssize_t> sizeof(inotify_event) <= got:
                event = <const inotify_event *> (room + at)
                found.append((event.wd, event.mask, <bytes> event.name if event.len else b""))
                at += sizeof(inotify_event) + event.len

    def close(self):
        """Close the descriptor."""
        held_close(&self.held)
