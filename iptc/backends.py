"""Decides which back end a table is on: legacy xtables or nf_tables.

The decision is made once for each network namespace. Looking changes nothing there: no table is created.
"""

from __future__ import annotations

import errno
import os

from . import _core
from ._netns import Namespace
from .errors import (
    AccessDenied,
    IPTCError,
    KernelError,
    ParameterTypeError,
    Unsupported,
    is_absent,
    is_passing,
    kernel_error,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._types import Family
    from .namespace import Place

_SIDES = ("legacy", "nft")
_CHOICES = (*_SIDES, "libiptc")
"""What a program may ask for. The back end libiptc is never chosen by itself; its tables are the legacy ones."""

_PROC_NAMES = {
    _core.IPV4: b"/proc/thread-self/net/ip_tables_names",
    _core.IPV6: b"/proc/thread-self/net/ip6_tables_names",
}
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not on the PATH of cron and of ordinary users
_KUBELET_CHAINS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")

_NFT_ORDER = ("mangle", "security", "raw", "filter", "nat")

HERE = Namespace()
"""The network namespace of the thread that asks."""

_decided: dict[tuple[int, str | None], str] = {}
"""What was decided for each namespace, by the identity of it."""


def backend(choice: str | None = None) -> str:
    """Return "legacy" or "nft", or "libiptc" where that was asked for: *choice*, else `IPTC_BACKEND`, else what this
    network namespace is found to use.

    That is the side that alone holds rules; with both or none, the one that has kubelet's hint chains, else what the
    command `iptables` is, else nf_tables if the kernel has it. Decided once for each namespace; warns if the other side
    holds rules too. `AccessDenied` where there are legacy tables that may not be read, or nobody may know whether there
    are.
    """
    return side_in(HERE, choice)


def side_in(there: Namespace, choice: str | None = None) -> str:
    """What `backend` returns in the network namespace *there*."""
    if choice is not None:
        return _checked(choice)
    key = there.cookie(), os.environ.get("IPTC_BACKEND")
    if key not in _decided:
        choice, certain = _decide(there, key[1])
        if not certain:
            return choice
        _decided[key] = choice
    return _decided[key]


def decide_again(there: Namespace) -> None:
    """Let what the namespace *there* uses be found out anew when it is next asked for."""
    _decided.pop((there.cookie(), os.environ.get("IPTC_BACKEND")), None)


def open_table(nfproto: Family, name: str, place: Place, side: str) -> Any:
    """Return the `LegacyTable`, `NftTable` or `LibiptcTable` of a table; *side* is what `backend` returned."""
    # here and below: what reads counters needs no table, and nobody needs the back end that is not in use
    if side == "legacy":
        from .legacy.table import LegacyTable

        return LegacyTable(nfproto, name, place)
    if side == "libiptc":
        from .legacy.reference import LibiptcTable

        return LibiptcTable(nfproto, name, place)
    from .nft.table import NftTable

    return NftTable(nfproto, name, place)


def open_scan(nfproto: Family, name: str, side: str, there: Namespace) -> Any:
    """Return the `TableScan` or `NftScan` of a table in the namespace *there*; *side* is what `side_in` returned."""
    if _kernels_side(side) == "legacy":
        from .legacy.blob import TableScan

        return TableScan(nfproto, name, there)
    from .nft.reader import NftScan

    return NftScan(nfproto, name, None, there)


def _checked(choice: str | None) -> str:
    if not isinstance(choice, str):
        raise ParameterTypeError(f"a back end must be a string, not {type(choice).__name__}")
    if choice not in _CHOICES:
        raise Unsupported(f"there is no back end {choice!r}; legacy, nft and libiptc are")
    return choice


def _kernels_side(choice: str) -> str:
    """The side of the kernel that back end *choice* works on."""
    return "legacy" if choice == "libiptc" else choice


def _decide(there: Namespace, given: str | None) -> tuple[str, bool]:
    """(back end, whether that is certain): without the right to look at nf_tables, where there is no legacy table, it
    is a guess."""
    if given:
        return _checked(given), True
    holding = ["legacy"] if _holds_rules(there, "legacy") else []
    try:
        holding += ["nft"] if _holds_rules(there, "nft") else []
    except AccessDenied:
        if holding:
            raise
        return _tools_choice() or _kernels_choice(there), False
    if len(holding) == 1:
        return holding[0], True
    choice = _kubelets_choice(there) or _tools_choice() or _kernels_choice(there)
    if holding:
        _warn(choice, "legacy" if choice == "nft" else "nft")
    return choice, True


def _warn(choice: str, other: str) -> None:
    import warnings

    warnings.warn(
        f"{other} tables hold rules too: this program uses {choice} (IPTC_BACKEND or backend= say which)",
        RuntimeWarning,
        stacklevel=2,
    )


# ------------------------------------------------------- what each side holds


def _heed(error: IPTCError) -> None:
    """Raise *error* if it says nothing of what is there: the next answer may be another, and what is decided is
    kept."""
    if isinstance(error, AccessDenied) or is_passing(getattr(error, "errno", None)):
        raise error


def tables_in_use(nfproto: Family, side: str, there: Namespace) -> list[str]:
    """The names of the tables that there are in the namespace *there*, in the order in which iptables-save has them;
    looking creates none."""
    if _kernels_side(side) == "legacy":
        return _legacy_tables(nfproto, there)
    from . import _netlink
    from .nft.reader import NftScan

    with _netlink.Socket(there) as socket:
        return [name for name in _NFT_ORDER if NftScan(nfproto, name, socket).is_there()]


def builtin_chains() -> dict[str, list[str]]:
    """{table: the names of its builtin chains}, which are the same on both back ends."""
    from .nft.reader import BUILTIN_CHAINS

    return {table: [_core.HOOKS[hook] for hook, *_ in BUILTIN_CHAINS[table]] for table in _NFT_ORDER}


def _legacy_tables(nfproto: Family, there: Namespace) -> list[str]:
    """The legacy tables that are there; to open another would create it."""
    try:
        return there.read_file(_PROC_NAMES[nfproto]).decode("utf-8", "surrogateescape").split()
    except KernelError:
        raise  # of the namespace
    except OSError as error:
        if error.errno == errno.ENOENT:
            return []
        # it belongs to root of the user namespace that the network namespace was made in: nobody, where users were
        # mapped later
        raise kernel_error(f"can't read {_PROC_NAMES[nfproto].decode()}", error.errno, error.strerror) from None


def _legacy_chains(nfproto: Family, there: Namespace) -> Any:
    """(table, name, policy, whether it has rules) of each legacy chain; a table that may not be read is no answer."""
    tables = _legacy_tables(nfproto, there)
    if tables:
        from .legacy.blob import TableBlob
    for table in tables:
        try:
            for name, policy, _, first, end in TableBlob(nfproto, table, there).chains:
                yield table, name, policy, end > first
        except IPTCError as error:
            if not is_absent(error):
                raise


def _nft_chains(nfproto: Family, there: Namespace) -> Any:
    """(table, name, policy, whether it has rules) of each chain of nf_tables that is iptables'."""
    from . import _netlink
    from .nft.reader import BUILTIN_CHAINS, NftScan

    try:
        with _netlink.Socket(there) as socket:
            for table in BUILTIN_CHAINS:
                for name, policy, _, _, use in NftScan(nfproto, table, socket).list_chains():
                    yield table, name, policy, use > 0
    except IPTCError as error:
        _heed(error)


_CHAINS = {"legacy": _legacy_chains, "nft": _nft_chains}


def chains_of(side: str, nfproto: Family, there: Namespace) -> Any:
    """(table, name, policy, whether it has rules) of each chain on one side; looking creates no table."""
    return _CHAINS[_kernels_side(side)](nfproto, there)


def _is_crowded(nfproto: Family, table: str, there: Namespace) -> bool:
    """Whether a legacy table surely holds something: one question, however large it is."""
    from .legacy.blob import TableScan

    try:
        scan = TableScan(nfproto, table, there)
    except IPTCError as error:
        if is_absent(error):
            return False
        raise
    crowded = not scan.is_bare
    scan.close()
    return crowded


def _holds_rules(there: Namespace, side: str) -> bool:
    """Whether there is anything on that side that is not there of itself."""
    if side == "legacy" and any(
        _is_crowded(nfproto, table, there) for nfproto in _PROC_NAMES for table in _legacy_tables(nfproto, there)
    ):
        return True
    return any(
        used or policy != "ACCEPT"
        for nfproto in (_core.IPV4, _core.IPV6)
        for _, _, policy, used in _CHAINS[side](nfproto, there)
    )


def has_user_chain(nfproto: Family, name: str) -> bool:
    """Whether any table of the back end in use here has a user chain *name*, as far as we may look."""
    try:
        return any(
            chain == name and policy is None for _, chain, policy, _ in _CHAINS[_kernels_side(backend())](nfproto, HERE)
        )
    except AccessDenied:
        return False  # making a rule needs no right


# ------------------------------------------------------------- whom to follow


def _kubelets_choice(there: Namespace) -> Any:
    """The side that kubelet has marked, or None."""
    for side in ("nft", "legacy"):
        for nfproto in (_core.IPV4, _core.IPV6):
            if any(
                table == "mangle" and name in _KUBELET_CHAINS for table, name, _, _ in _CHAINS[side](nfproto, there)
            ):
                return side
    return None


def _tools_choice() -> Any:
    """What the command `iptables` works on; None if there is none or it does not say."""
    path = find_tool("iptables")
    return None if path is None else side_of_tool(path)


def find_tool(name: str) -> str | None:
    """The path of a command as a shell of root finds it, or None."""
    for folder in [*os.get_exec_path(), *_SYSTEM_FOLDERS]:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return None


def side_of_tool(path: str) -> Any:
    """The side that a command of iptables works on, or None where it does not say."""
    return _side_of(os.path.basename(os.path.realpath(path))) or _side_of(_named_side(version_of_tool(path)))


def _side_of(text: str) -> Any:
    if "nft" in text or "nf_tables" in text:
        return "nft"
    return "legacy" if "legacy" in text else None


def _named_side(printed: str) -> str:
    """What `iptables -V` has printed names its side since 1.8.0; before that there was but one."""
    return printed if "(" in printed or not printed else "legacy"


def version_of_tool(path: str) -> str:
    """What `iptables -V` prints; "" where it cannot be run."""
    import subprocess  # heavy, and seldom needed

    try:
        done = subprocess.run([path, "-V"], capture_output=True, timeout=10, check=False)
    except OSError as error:
        if is_passing(error.errno):
            raise kernel_error(f"can't run {path}", error.errno, error.strerror) from None
        return ""
    except subprocess.SubprocessError:
        return ""
    return done.stdout.decode(errors="replace").strip()


def _kernels_choice(there: Namespace) -> Any:
    """nf_tables if the kernel has it, else legacy."""
    from . import _netlink

    try:
        with _netlink.Socket(there) as socket:
            socket.generation()
    except AccessDenied:
        return "nft"
    except KernelError as error:
        _heed(error)
        return "legacy"
    return "nft"
