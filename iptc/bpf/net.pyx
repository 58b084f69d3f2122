# cython: freethreading_compatible=False
"""Finds the network namespace of a socket in the kernel's memory, and what parts of the kernel keep for it."""

from libc.stdint cimport uint32_t, uint64_t

from .._core cimport netns_cookie
from .window cimport PAGE, Window

from ..errors import Unsupported
from .btf import ask

cdef enum:
    MOST_SLOTS = 4096                # a limit of iptc: a kernel has some dozens

_WAY = (
    ("number", "socket", "sk", 8), ("number", "sock", "__sk_common.skc_net.net", 8), ("number", "net", "net_cookie", 8),
    ("number", "net", "gen", 8), ("number", "net_generic", "s.len", 4), ("member", "net_generic", "ptr"),
)

# The member that counts the users of a namespace: since Linux 6.18, and before.
_REFERENCES = ("ns.__ns_ref", "ns.count", "count")


cdef class Net:
    """A network namespace in the kernel's memory."""

    def __init__(self, Window window not None, int descriptor):
        """Find the namespace of the socket *descriptor*."""
        cdef uint64_t sock
        sk, net, cookie, generic, count, (slots, _) = ask(_WAY)
        self.window = window
        self.generic, self.count_at, self.slots_at = generic, count, slots
        sock = window.word(window.private_of(descriptor) + <uint64_t> sk)
        self.address = window.word(sock + <uint64_t> net)
        if not self.address or window.word(self.address + <uint64_t> cookie) != netns_cookie(descriptor):
            window.check()
            raise Unsupported("the kernel's sockets are not laid out as its BTF says")

    cdef uint32_t slots(self) noexcept nogil:
        """Return how many slots a namespace has for parts of the kernel. Their numbers begin with 1."""
        return min(<uint32_t> self.window.word(self.window.word(self.address + self.generic) + self.count_at),
                   <uint32_t> MOST_SLOTS)

    cdef uint64_t slot(self, uint32_t number) noexcept nogil:
        """Return the address in a slot, or 0. No symbol says to which part of the kernel a slot belongs."""
        cdef uint64_t place = self.window.word(
            self.window.word(self.address + self.generic) + self.slots_at + 8 * <uint64_t> number)
        return place if place > <uint64_t> PAGE else 0

    cdef int life(self, uint64_t *alive, uint64_t *cookie_at, uint64_t *cookie) except -1:
        """Set *alive* to the address of four bytes that become 0 when the namespace ends. Set *cookie* to its cookie, a
        number that no other namespace ever gets, and *cookie_at* to the address of that number."""
        for name in _REFERENCES:
            try:
                ((count, size),) = ask((("member", "net", name),))
            except Unsupported:
                continue
            if size == 4:
                break
        else:
            raise Unsupported("this kernel counts who uses a network namespace in a way that iptc does not know")
        (at,) = ask((("number", "net", "net_cookie", 8),))
        alive[0], cookie_at[0] = self.address + <uint64_t> count, self.address + <uint64_t> at
        cookie[0] = self.window.word(cookie_at[0])
        self.window.check()
        return 0
