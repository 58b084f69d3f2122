# cython: freethreading_compatible=False
"""A lock file and the lock on it (`flock`).

No Python code runs between a system call and the note of what it did, so an interrupt cannot lose a descriptor or a
lock.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, EISDIR
from libc.string cimport strerror
from posix.fcntl cimport O_CLOEXEC, O_CREAT, O_NONBLOCK, O_RDONLY, open as c_open
from posix.stat cimport S_ISDIR, fstat, struct_stat
from posix.unistd cimport close

from ._linux cimport LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, errno_now, flock
from ._netns cimport held_close, held_is_ours, held_set

cdef class LockFile:
    """A lock file that is open, and the lock on it (`flock`): both go with the object."""

    def __cinit__(self):
        self.held.fd = -1

    def __dealloc__(self):
        held_close(&self.held)

    def __init__(self, bytes path not None, bint create=False):
        """Open *path*, or *create* it; a FIFO does not wait for who writes into it."""
        cdef const char *name = PyBytes_AS_STRING(path)
        cdef int flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC | (O_CREAT if create else 0)
        cdef int fd, failed
        cdef struct_stat status
        held_close(&self.held)
        self._locked = False
        while True:
            with nogil:
                fd = c_open(name, flags, 0o600)
                failed = 0 if fd >= 0 else errno_now
            if failed != EINTR:
                break
            PyErr_CheckSignals()
        if not failed and fstat(fd, &status) == 0 and S_ISDIR(status.st_mode):
            close(fd)
            failed = EISDIR
        if failed:
            raise OSError(failed, strerror(failed).decode())
        held_set(&self.held, fd)

    @property
    def locked(self):
        """Whether the lock was taken."""
        return self._locked and self.held.fd >= 0

    @property
    def file(self):
        """What tells the file from others, whatever it was named by."""
        return self.held.device, self.held.inode

    def fileno(self):
        """Return the descriptor."""
        return self.held.fd

    def take(self, bint shared, bint wait):
        """Take the lock, with others if it is *shared*; whether it was had. To *wait* is to wait for ever, but a signal
        is handled."""
        cdef int operation = (LOCK_SH if shared else LOCK_EX) | (0 if wait else LOCK_NB)
        cdef int failed
        while True:
            with nogil:
                failed = 0 if flock(self.held.fd, operation) == 0 else errno_now
            if failed != EINTR:
                break
            PyErr_CheckSignals()
        if failed == EAGAIN and not wait:
            return False
        if failed:
            raise OSError(failed, strerror(failed).decode())
        self._locked = True
        return True

    def release(self):
        """Let go of the lock and close. A child that was forked meanwhile holds a copy of the descriptor: closing ours
        alone would not unlock."""
        if self._locked and held_is_ours(&self.held):
            with nogil:
                flock(self.held.fd, LOCK_UN)
        self.close()

    def close(self):
        """Close, and unlock nothing that another process has a copy of."""
        self._locked = False
        held_close(&self.held)


cdef class Holder:
    """What holds a lock file, or others that hold one, in a `with` statement. The end of the statement is C: a signal
    handler runs before it, or once nothing is held any more."""

    def __exit__(self, kind=None, error=None, traceback=None):
        """Let go."""
        self._let_go()
        self._drop()

    cdef int _let_go(self) except -1:
        cdef Py_ssize_t left
        if self._file is not None:
            self._file.release()
        if self._locks is not None:
            # the last one first
            left = len(self._locks)
            while left:
                left -= 1
                (<Holder?> self._locks[left])._let_go()
        return 0

    def _drop(self):
        """Forget what was let go."""
