"""What this process may do: capabilities, and the user namespace that it is in."""

from __future__ import annotations

import errno
import fcntl
import os

from ..bpf.reasons import capabilities
from .finding import INFO, WARNING, Finding, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._netns import Namespace

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
_NS_GET_USERNS = 0xB701
_WHOLE_MAP = ["0", "0", "4294967295"]
_NAMES_FILE = b"/proc/thread-self/net/ip_tables_names"


def of_process() -> Iterator[Finding]:
    """Yield findings about capabilities and user namespaces."""
    have = capabilities(_CAPABILITIES)
    if "CAP_NET_ADMIN" not in have:
        text = "This process has no CAP_NET_ADMIN: it may neither read nor write rules and counters."
        yield Finding(WARNING, text, "Run it as root, or give it CAP_NET_ADMIN and CAP_NET_RAW (docs/unprivileged.md)")
    elif "CAP_NET_RAW" not in have:
        text = "This process has no CAP_NET_RAW: it may not reach legacy tables."
        yield Finding(
            WARNING, text, "Give it CAP_NET_RAW too (docs/unprivileged.md), unless all rules are in nf_tables"
        )
    if "CAP_SYS_ADMIN" not in have:
        text = "This process has no CAP_SYS_ADMIN: it may not look into other network namespaces (--netns)."
        yield Finding(INFO, text)
    else:
        yield Finding(INFO, f"This process has {listed(sorted(have))}.")
    if os.getuid() != os.geteuid():
        text = "The real user of this process is not its effective one: libxtables refuses to work so."
        yield Finding(WARNING, text, "Do not make it a set-user-ID program; give it capabilities")
    yield from _of_user_namespace()


def _of_user_namespace() -> Iterator[Finding]:
    with open("/proc/self/uid_map") as mapped:
        if mapped.read().split() == _WHOLE_MAP:
            return
    text = "This is a user namespace: capabilities count only in network namespaces that were made in it."
    yield Finding(INFO, text)
    if not _owns_network():
        text = "The network namespace was made in another user namespace: no capability counts for its rules."
        yield Finding(WARNING, text, "Make one of your own: unshare -Ur unshare -n")


def _owns_network() -> bool:
    """Whether our user namespace owns our network namespace."""
    with open("/proc/self/ns/net") as network:
        try:
            owner = fcntl.ioctl(network, _NS_GET_USERNS)
        except OSError as error:
            # EPERM: the owner is an ancestor of ours, which we may not see
            return error.errno != errno.EPERM
    try:
        return os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino
    finally:
        os.close(owner)


def of_place(there: Namespace) -> Iterator[Finding]:
    """Yield a finding if the kernel's list of legacy tables may not be read in the namespace *there*."""
    try:
        there.read_file(_NAMES_FILE)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            text = "/proc/net/ip_tables_names may not be read: nobody can know which legacy tables there are."
            do = (
                "Join group root, which may read it, or say IPTC_BACKEND=nft (docs/unprivileged.md). In a user "
                "namespace, make the network namespace last: unshare -Ur unshare -n"
            )
            yield Finding(WARNING, text, do)
