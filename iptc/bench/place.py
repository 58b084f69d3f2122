"""The private network namespace of a bench: made with or without root, with settings under which a packet meets the
rules and nothing else. It is gone with this process, however that ends."""

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
"""What is set in each bench: the host forwards, does not judge by the way back, and answers each packet."""

LOGGERS = {"net/netfilter/nf_log/2": "nfnetlink_log", "net/netfilter/nf_log/10": "nfnetlink_log"}
"""What legacy tables report by."""

NO_USER_NAMESPACE = (
    "This user may not make a network namespace of their own. Run it as root, or let users make them: sysctl -w"
    " kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), sysctl -w kernel.unprivileged_userns_clone=1 (Debian),"
    " sysctl -w user.max_user_namespaces=10000; in a container: docker run --cap-add NET_ADMIN --cap-add SYS_ADMIN"
    " --security-opt apparmor=unconfined, or --privileged"
)


def new_place() -> Namespace:
    """A new network namespace: with CAP_SYS_ADMIN a plain one, otherwise one in a user namespace.

    `AccessDenied` with what can be done where none can be made.
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
    """What a setting of /proc/sys is, None where the kernel has no such one."""
    try:
        return there.read_file(f"{_SYSCTLS}{name}".encode()).decode("utf-8", "surrogateescape").strip()
    except OSError:
        return None


def write_setting(there: Namespace, name: str, value: str) -> bool:
    """Set a setting of /proc/sys/ in the namespace; False where the kernel has no such one."""
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
