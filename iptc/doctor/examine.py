"""Puts the kinds of findings together: for the host, for one network namespace or all of them, and for a ruleset."""

from __future__ import annotations

from .. import _core
from ..errors import AccessDenied, IPTCError, is_absent
from ..namespace import open_namespace
from . import conntrack, ebpf, kernel, locking, namespaces, needs, plugins, rights, versions, which_backend
from .finding import ERROR, INFO, WARNING, Finding, message_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .._netns import Namespace
    from .._types import Family, Netns
    from .needs import Need


def examine(
    netns: Netns = None, everywhere: bool = False, texts: Iterable[tuple[bool, bytes]] = ()
) -> tuple[str | None, list[Finding]]:
    """Return ("legacy", "nft", "libiptc" or None, [`Finding`]).

    *netns*: the namespace to look into instead of our own. *everywhere*: look into all namespaces. *texts*: (ipv6,
        bytes) of rulesets to compare with what this kernel can do.
    """
    findings = []
    with open_namespace(netns) as there:
        side, _ = which_backend.ours(there)
        host_side = which_backend.host_side()
        found = plugins.Plugins(plugins.folders())
        machine = kernel.Kernel(there)
        for part in (
            versions.of_versions,
            versions.of_namesakes,
            rights.of_process,
            plugins.of_library,
            lambda: plugins.of_plugins(found, plugins.library()[1]),
            locking.of_lock,
            which_backend.of_tools,
            lambda: kernel.of_kernel(machine, side, host_side),
            ebpf.of_ebpf,
            lambda: _of_place(there),
        ):
            findings += _tried(part)
        for ipv6, text in texts:
            findings += _of_text(machine, side, ipv6, text, found)
    if everywhere:
        for place, name in namespaces.all_places():
            findings += _of_other(place, name)
    return side, findings


def _of_place(there: Namespace) -> Iterator[Finding]:
    yield from rights.of_place(there)
    yield from which_backend.of_place(there)
    yield from conntrack.of_place(there)


def _of_other(place: Netns, name: str) -> Iterator[Finding]:
    """Yield the findings of another network namespace. Its *name* stands before each sentence."""
    try:
        with open_namespace(place) as there:
            found = _tried(lambda: _of_place(there))
    except (IPTCError, OSError) as error:
        if is_absent(error):
            # the namespace has ended meanwhile
            return
        level = WARNING if isinstance(error, AccessDenied) else ERROR
        do = "Run it as root" if level == WARNING else ""
        found = [Finding(level, f"It cannot be entered: {message_of(error)}.", do)]
    for finding in found:
        yield finding._replace(text=f"{name[:1].upper()}{name[1:]}: {finding.text}")


def _of_text(
    machine: kernel.Kernel, side: str | None, ipv6: bool, text: bytes, found: plugins.Plugins
) -> list[Finding]:
    tables, needed = needs.needs_of(text)

    def has_plugin(nfproto: Family, need: Need) -> bool:
        # if there are no plugins at all, another finding says so
        known = found.has(nfproto == _core.IPV6, need.name) or found.has(nfproto == _core.IPV6, need.kernels_name)
        return known or not found.files

    nfproto = _core.IPV6 if ipv6 else _core.IPV4
    chosen = side or which_backend.host_side() or "nft"
    return _tried(lambda: kernel.of_ruleset(machine, chosen, nfproto, tables, needed, has_plugin))


def _tried(part: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return the findings of one part. If the part fails, that is a finding too."""
    found: list[Finding] = []
    try:
        for finding in part():
            found.append(finding)
    except (IPTCError, OSError) as error:
        found.append(
            Finding(ERROR, f"It could not be looked at: {message_of(error)}.", "Look into dmesg, and try it again")
        )
    return found


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether none of the findings needs an action."""
    return all(finding.level == INFO for finding in findings)
