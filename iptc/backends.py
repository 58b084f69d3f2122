"""Decides which back end is used: legacy xtables or nf_tables.

That is decided once for each network namespace, by looking at what is there. No table is created by looking.
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
    from collections.abc import Iterator

    from ._counts import Scan
    from ._types import Family
    from .model.backend_table import BackEndTable
    from .namespace import Place

    _Chain = tuple[str, str, str | None, bool]
    """(table, name, policy, whether it has rules)."""

_SIDES = ("legacy", "nft")
_CHOICES = (*_SIDES, "libiptc")
"""The back ends that a program can ask for. "libiptc" works on the legacy tables, and is never chosen by itself."""

_PROC_NAMES = {
    _core.IPV4: b"/proc/thread-self/net/ip_tables_names",
    _core.IPV6: b"/proc/thread-self/net/ip6_tables_names",
}
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # cron and ordinary users do not have them in PATH
_KUBELET_CHAINS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")

_NFT_ORDER = ("mangle", "security", "raw", "filter", "nat")

_NO_COMMIT = 1
"""The generation of a network namespace in which nothing was ever made in nf_tables: each commit counts it up."""

HERE = Namespace()
"""The network namespace of whichever thread uses it."""

_decided: dict[tuple[int, str | None], str] = {}
"""cookie of a network namespace -> the back end that was decided on for it."""


def backend(choice: str | None = None) -> str:
    """Return the back end to use: *choice*, or else `IPTC_BACKEND`, or else what this network namespace uses.

    The last is decided once for each namespace, and is "legacy" or "nft":

    1. the side that has rules, if the other one has none;
    2. otherwise the side on which kubelet has made its hint chains (`KUBE-IPTABLES-HINT`, `KUBE-KUBELET-CANARY`);
    3. otherwise the side that the command `iptables` works on (`iptables -V`);
    4. otherwise nf_tables if the kernel has it.

    Warns if both sides have rules. Raises `AccessDenied` if there are, or may be, legacy tables that may not be read.
    """
    return side_in(HERE, choice)


def side_in(there: Namespace, choice: str | None = None) -> str:
    """Return what `backend` returns, for the network namespace *there*."""
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


def open_table(nfproto: Family, name: str, place: Place, side: str) -> BackEndTable:
    """Return the `LegacyTable`, `NftTable` or `LibiptcTable` of a table; *side* is what `backend` returned."""
    # imported when needed, here and below: reading counters needs no table, and no program needs both back ends
    if side == "legacy":
        from .legacy.table import LegacyTable

        return LegacyTable(nfproto, name, place)
    if side == "libiptc":
        from .legacy.reference import LibiptcTable

        return LibiptcTable(nfproto, name, place)
    from .nft.table import NftTable

    return NftTable(nfproto, name, place)


def open_scan(nfproto: Family, name: str, side: str, there: Namespace) -> Scan:
    """Return the `TableScan` or `NftScan` of a table in the namespace *there*; *side* is what `side_in` returned."""
    if kernels_side(side) == "legacy":
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


def kernels_side(choice: str) -> str:
    """Return the side of the kernel that back end *choice* works on: "legacy" or "nft"."""
    return "legacy" if choice == "libiptc" else choice


def _decide(there: Namespace, given: str | None) -> tuple[str, bool]:
    """Return (back end, whether that is certain). It is a guess if there is no legacy table and nf_tables may not be
    read."""
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
    """Raise *error* if it is a passing trouble: a decision is remembered, and must not rest on it."""
    if isinstance(error, AccessDenied) or is_passing(getattr(error, "errno", None)):
        raise error


def tables_in_use(nfproto: Family, side: str, there: Namespace) -> list[str]:
    """Return the names of the tables that are in use in the namespace *there*, in the order of iptables-save. None is
    created by looking."""
    if kernels_side(side) == "legacy":
        return _legacy_tables(nfproto, there)
    from . import _netlink
    from .nft.reader import NftScan

    with _netlink.Socket(there) as socket:
        return [name for name in _NFT_ORDER if NftScan(nfproto, name, socket).is_there()]


def builtin_chains() -> dict[str, list[str]]:
    """Return {table: the names of its builtin chains}. They are the same on both back ends."""
    from .nft.reader import BUILTIN_CHAINS

    return {table: [_core.HOOKS[hook] for hook, *_ in BUILTIN_CHAINS[table]] for table in _NFT_ORDER}


def _legacy_tables(nfproto: Family, there: Namespace) -> list[str]:
    """Return the names of the legacy tables that exist, from /proc/net. Opening any other would create it."""
    try:
        return there.read_file(_PROC_NAMES[nfproto]).decode("utf-8", "surrogateescape").split()
    except KernelError:
        raise  # of the namespace
    except OSError as error:
        if error.errno == errno.ENOENT:
            return []
        # the file belongs to root of the user namespace in which the network namespace was made. If user ids were
        # mapped only later, it belongs to nobody
        raise kernel_error(f"can't read {_PROC_NAMES[nfproto].decode()}", error.errno, error.strerror) from None


def _legacy_chains(nfproto: Family, there: Namespace) -> Iterator[_Chain]:
    """Yield (table, name, policy, whether it has rules) for each legacy chain. Tables that may not be read are left
    out."""
    tables = _legacy_tables(nfproto, there)
    if not tables:
        return
    from .legacy.blob import TableBlob

    for table in tables:
        try:
            for name, policy, _, first, end in TableBlob(nfproto, table, there).chains:
                yield table, name, policy, end > first
        except IPTCError as error:
            if not is_absent(error):
                raise


def _nft_chains(nfproto: Family, there: Namespace) -> Iterator[_Chain]:
    """Yield (table, name, policy, whether it has rules) for each chain of iptables' tables in nf_tables."""
    from . import _netlink

    try:
        with _netlink.Socket(there) as socket:
            if socket.generation() == _NO_COMMIT:
                return
            from .nft.reader import BUILTIN_CHAINS, NftScan  # a host that never uses nf_tables need not load it

            for table in BUILTIN_CHAINS:
                for name, policy, _, _, use in NftScan(nfproto, table, socket).list_chains():
                    yield table, name, policy, use > 0
    except IPTCError as error:
        _heed(error)


_CHAINS = {"legacy": _legacy_chains, "nft": _nft_chains}


def chains_of(side: str, nfproto: Family, there: Namespace) -> Iterator[_Chain]:
    """Yield (table, name, policy, whether it has rules) for each chain on one side. No table is created by looking."""
    return _CHAINS[kernels_side(side)](nfproto, there)


def _is_crowded(nfproto: Family, table: str, there: Namespace) -> bool:
    """Whether a legacy table surely has rules or user chains: one question (`IPT_SO_GET_INFO`), however large it is."""
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
    """Whether that side has anything that the kernel did not make itself: a rule, a user chain, a policy DROP."""
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
    """Whether a table of the back end in use has a user chain *name*. Tables that may not be read are no answer."""
    try:
        return any(
            chain == name and policy is None for _, chain, policy, _ in _CHAINS[kernels_side(backend())](nfproto, HERE)
        )
    except AccessDenied as error:
        error.message = f"can't tell whether {name!r} is a chain: {error.message}"
        raise


# ------------------------------------------------------------- whom to follow


def _kubelets_choice(there: Namespace) -> str | None:
    """Return the side on which kubelet has made its hint chains, or None."""
    for side in ("nft", "legacy"):
        for nfproto in (_core.IPV4, _core.IPV6):
            if any(
                table == "mangle" and name in _KUBELET_CHAINS for table, name, _, _ in _CHAINS[side](nfproto, there)
            ):
                return side
    return None


def _tools_choice() -> str | None:
    """Return the side that the command `iptables` works on, or None if there is none or it does not say."""
    path = find_tool("iptables")
    return None if path is None else side_of_tool(path)


def tools_side() -> str:
    """Return the side that the command `iptables` works on; nf_tables where there is no such command."""
    return _tools_choice() or "nft"


def find_tool(name: str) -> str | None:
    """Return the path of a command as root's shell finds it, or None."""
    for folder in [*os.get_exec_path(), *_SYSTEM_FOLDERS]:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return None


def side_of_tool(path: str) -> str | None:
    """Return the side that a command of iptables works on, or None if it does not say."""
    return _side_of(os.path.basename(os.path.realpath(path))) or _side_of(_named_side(version_of_tool(path)))


def _side_of(text: str) -> str | None:
    if "nft" in text or "nf_tables" in text:
        return "nft"
    return "legacy" if "legacy" in text else None


def _named_side(printed: str) -> str:
    """Return the side that the output of `iptables -V` names. Releases before 1.8.0 name none: they are all legacy."""
    return printed if "(" in printed or not printed else "legacy"


def version_of_tool(path: str) -> str:
    """Return what `iptables -V` prints, or "" if it cannot be run."""
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


def _kernels_choice(there: Namespace) -> str:
    """Return "nft" if the kernel has nf_tables, else "legacy"."""
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
