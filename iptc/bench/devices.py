"""TUN interfaces: what this process writes to them comes in, and what leaves by them is read by this process."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from ..errors import KernelError, ParameterError, Unsupported, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._netns import Namespace

_TUNSETIFF = 0x400454CA
_TUN, _NO_PI = 1, 0x1000  # IFF_*
_PATH = b"/dev/net/tun"
_MOST = 65536
"""The size of the largest packet in bytes."""

NO_TUN = "there is no /dev/net/tun here (modprobe tun; docker run --device /dev/net/tun)"


def checked_name(name: str) -> str:
    """Return *name*, or raise if an interface cannot have that name."""
    if not 0 < len(os.fsencode(name)) < 16 or "/" in name or name in (".", "..") or any(map(str.isspace, name)):
        raise ParameterError(f"no name of an interface: {name!r}")
    return name


class Device:
    """The TUN interface *name* in the namespace *there*."""

    __slots__ = ("name", "_fd")

    def __init__(self, there: Namespace, name: str) -> None:
        self.name = checked_name(name)
        try:
            self._fd = there.open_file(_PATH, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                raise Unsupported(NO_TUN, error.errno, error.strerror) from None
            number = error.errno or errno.EIO
            raise kernel_error("can't open /dev/net/tun", number, os.strerror(number)) from None
        try:
            fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH22x", os.fsencode(name), _TUN | _NO_PI))
        except OSError as error:
            self.close()
            number = error.errno or errno.EIO
            raise kernel_error(f"can't make the interface {name}", number, os.strerror(number)) from None

    def close(self) -> None:
        """Delete the interface. A second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def put(self, data: bytes) -> None:
        """Let a packet come in. When this returns, the kernel has processed it."""
        try:
            os.write(self._fd, data)
        except OSError as error:
            raise KernelError(
                f"{self.name} does not take the packet: {error.strerror}", error.errno, error.strerror
            ) from None

    def taken(self) -> list[bytes]:
        """Return the packets that have left since the last call."""
        found = []
        while True:
            try:
                found.append(os.read(self._fd, _MOST))
            except BlockingIOError:
                return found
