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
    """An open lock file, and the lock on it (`flock`). Both are released when the object is deleted."""

    def __cinit__(self):
        self.held.fd = -1

    def __dealloc__(self):
        held_close(&self.held)

    def __init__(self, bytes path not None, bint create=False):
        """Open *path*; with *create*, create it if it does not exist. Opening a FIFO does not wait for a writer."""
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
        """(device, inode) of the file. They identify it, whatever path it was opened by."""
        return self.held.device, self.held.inode

    def fileno(self):
        """Return the descriptor."""
        return self.held.fd

    def take(self, bint shared, bint wait):
        """Take the lock; if *shared*, other readers can hold it too. Return whether it was obtained.

        *wait*: wait for ever. Signal handlers run meanwhile.
        """
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
        """Release the lock and close the file.

        Closing alone would not release it if a process that was forked meanwhile has a copy of the descriptor.
        """
        if self._locked and held_is_ours(&self.held):
            with nogil:
                flock(self.held.fd, LOCK_UN)
        self.close()

    def close(self):
        """Close the file without releasing the lock: another process that has a copy of the descriptor keeps it."""
        self._locked = False
        held_close(&self.held)


cdef class Holder:
    """The base class of context managers that hold lock files. The end of the `with` statement is C code.

    So the handler of a signal runs before that code, or after everything is released.
    """

    def __exit__(self, kind=None, error=None, traceback=None):
        """Release the locks."""
        self._let_go()
        self._drop()

    cdef int _let_go(self) except -1:
        cdef Py_ssize_t left
        if self._file is not None:
            self._file.release()
        if self._locks is not None:
            # in the reverse order
            left = len(self._locks)
            while left:
                left -= 1
                (<Holder?> self._locks[left])._let_go()
        return 0

    def _drop(self):
        """Called when the locks are released. Derived classes forget them here."""
