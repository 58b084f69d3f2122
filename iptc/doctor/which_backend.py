"""Which back end the host's own iptables uses, which one is ours, and whether both hold rules."""

from __future__ import annotations

import os
import warnings

from .. import _core, backends
from ..errors import AccessDenied, IPTCError
from .finding import ERROR, INFO, WARNING, Finding, listed, message_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._netns import Namespace

_TOOLS = ("iptables", "ip6tables", "iptables-restore", "ip6tables-restore")
_WORDS = {"legacy": "legacy xtables", "nft": "nf_tables", "libiptc": "legacy xtables, by way of libiptc"}


def ours(there: Namespace) -> tuple[str, None] | tuple[None, Exception]:
    """Return (the result of `iptc.backend()` in the namespace *there*, None), or (None, why it fails)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns about is found here anyway
        try:
            return backends.side_in(there), None
        except (IPTCError, OSError) as error:
            return None, error


def of_tools() -> Iterator[Finding]:
    """Yield findings about the host's tools."""
    found: dict[str | None, list[tuple[str, str]]] = {}
    for name in _TOOLS:
        path = backends.find_tool(name)
        if path is not None:
            found.setdefault(backends.side_of_tool(path), []).append((name, path))
    if not found:
        yield Finding(INFO, "This host has no command iptables; iptc needs none.")
        return
    if len(found) > 1:
        groups = [(listed([name for name, _ in tools]), side) for side, tools in found.items()]
        said = [f"{names}: {_WORDS.get(side or '', 'not said')}" for names, side in groups]
        text = f"The host's tools do not use the same back end ({'; '.join(said)})."
        yield Finding(WARNING, text, "Let all of them lead to the same one: update-alternatives --config iptables")
    side = host_side()
    name, path = next(tool for tools in found.values() for tool in tools)
    version = backends.version_of_tool(path)
    text = f"The host's {name} {_on(side)} ({version or 'it does not say its version'}, {path})."
    yield Finding(INFO, text)


def host_side() -> str | None:
    """Return the back end of the host's `iptables`, or None."""
    path = backends.find_tool("iptables")
    return None if path is None else backends.side_of_tool(path)


def _on(side: str | None) -> str:
    return f"uses {_WORDS[side]}" if side else "does not say which back end it uses"


def of_place(there: Namespace) -> Iterator[Finding]:
    """Yield findings about the namespace *there*: our back end, and whether the other one has rules too."""
    side, error = ours(there)
    if side is None:
        level = WARNING if isinstance(error, AccessDenied) else ERROR
        yield Finding(level, f"Which back end is in use cannot be found out: {message_of(error)}.", _remedy(error))
        return
    given = os.environ.get("IPTC_BACKEND")
    reason = " (IPTC_BACKEND or --backend says so)" if given else ""
    yield Finding(INFO, f"iptc uses {_WORDS[side]} here{reason}.")
    kernels = "nft" if side == "nft" else "legacy"
    host = host_side()
    if host is not None and host != kernels:
        words = f"iptc uses {_WORDS[side]}, and the host's iptables uses {_WORDS[host]}"
        text = f"{words}: they do not see each other's rules."
        yield Finding(WARNING, text, f"Choose one: IPTC_BACKEND={host}, --backend {host} or backend={host!r}")
    other = "legacy" if kernels == "nft" else "nft"
    try:
        tables = holding(there, other)
    except (IPTCError, OSError) as error:
        text = f"Whether {_WORDS[other]} holds rules too cannot be found out: {message_of(error)}."
        yield Finding(WARNING if isinstance(error, AccessDenied) else ERROR, text, _remedy(error))
        return
    if tables:
        text = f"{_WORDS[other]} holds rules too, in {listed(tables)}: packets pass both."
        do = f"Look at them: iptc save -a --backend {other}. Move them to one side, and take them away from the other"
        yield Finding(WARNING, text[0].upper() + text[1:], do)


def holding(there: Namespace, side: str) -> list[str]:
    """Return the names of the tables with rules on one back end, of both families."""
    found = {}
    for nfproto, family in (_core.IPV4, "IPv4"), (_core.IPV6, "IPv6"):
        for table, _, policy, used in backends.chains_of(side, nfproto, there):
            if used or policy != "ACCEPT":
                found[f"{family} {table}"] = True
    return list(found)


def _remedy(error: BaseException | None) -> str:
    if isinstance(error, AccessDenied):
        return "Run it as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
    return "Say which one: IPTC_BACKEND=legacy or IPTC_BACKEND=nft"
