"""The private network namespace of a bench, with or without root. Its settings let packets meet only the rules. It is
deleted when this process ends, in any way."""

from __future__ import annotations

import errno
import os

from .. import _netns
from ..errors import AccessDenied, KernelError, Unsupported, kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._netns import Namespace

_SYSCTLS = "/proc/sys/"

SETTINGS = {
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/autoconf": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
    "net/ipv6/conf/default/addr_gen_mode": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/icmp/ratelimit": "0",
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv4/icmp_ratemask": "0",
}
"""The settings of each bench: the host forwards, does not check the way back, and answers each packet."""

LOGGERS = {"net/netfilter/nf_log/2": "nfnetlink_log", "net/netfilter/nf_log/10": "nfnetlink_log"}
"""The logger by which legacy tables report traced packets."""

NO_USER_NAMESPACE = (
    "This user may not make a network namespace of their own. Run it as root, or let users make them: sysctl -w"
    " kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), sysctl -w kernel.unprivileged_userns_clone=1 (Debian),"
    " sysctl -w user.max_user_namespaces=10000; in a container: docker run --cap-add NET_ADMIN --cap-add SYS_ADMIN"
    " --security-opt apparmor=unconfined, or --privileged"
)


def new_place() -> Namespace:
    """Return a new network namespace: a plain one with CAP_SYS_ADMIN, and otherwise one in a new user namespace.

    Raises `AccessDenied`, with advice, if neither can be created.
    """
    try:
        return _netns.new_namespace()
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES):
            number = error.errno or errno.EIO
            raise kernel_error("can't make a network namespace", number, os.strerror(number)) from None
    try:
        return _netns.new_namespace_of_agent()
    except OSError as error:
        said = str(error.args[-1])
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS, errno.ENOSYS, errno.EINVAL):
            raise AccessDenied(f"{said}. {NO_USER_NAMESPACE}", error.errno, said) from None
        raise KernelError(said, error.errno, said) from None


def read_setting(there: Namespace, name: str) -> str | None:
    """Return a setting of /proc/sys, or None if the kernel does not have it."""
    try:
        return there.read_file(f"{_SYSCTLS}{name}".encode()).decode("utf-8", "surrogateescape").strip()
    except OSError:
        return None


def write_setting(there: Namespace, name: str, value: str) -> bool:
    """Write a setting of /proc/sys in the namespace. Return False if the kernel does not have it."""
    try:
        descriptor = there.open_file(f"{_SYSCTLS}{name}".encode(), os.O_WRONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unwritten(name, error) from None
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise _unwritten(name, error) from None
    finally:
        os.close(descriptor)
    return True


def _unwritten(name: str, error: OSError) -> Exception:
    number = error.errno or errno.EIO
    text = f"can't set {name.replace('/', '.')} in the bench: {os.strerror(number)}"
    if number == errno.EROFS:
        return Unsupported(
            f"{text}. /proc/sys can't be written here: a container needs --privileged, or"
            " --security-opt systempaths=unconfined",
        )
    return KernelError(text, number, os.strerror(number))
