"""What this kernel can do: legacy tables, nf_tables and its compatibility layer, and what a ruleset needs."""

from __future__ import annotations

import errno

from .. import _core
from .._netlink import Socket
from ..errors import AccessDenied, IPTCError, KernelError, is_absent
from .finding import ERROR, INFO, WARNING, Finding, listed, message_of
from .modules import ABSENT, HERE, KEPT_OUT, LOADABLE, UNKNOWN, Modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .._netns import Namespace
    from .._types import Family
    from .modules import _State
    from .needs import Need

_FAMILIES = {_core.IPV4: ("ip", "ipt", "IP"), _core.IPV6: ("ip6", "ip6t", "IP6")}
_NATIVE = {"match": {"tcp", "udp", "limit", "mark", "comment"}, "target": {"NFLOG", "TRACE"}}
"""The extensions that iptables-nft writes in expressions, at least in part: they need no compatibility layer."""

_IN_THE_CORE = {"match": {"tcp", "udp", "icmp", "icmp6"}, "target": {"ERROR"}}
"""The extensions that are a part of ip_tables itself, and have no symbol in the kernel's configuration."""

_SYMBOLS = {
    ("match", "set"): ("NETFILTER_XT_SET",),
    ("target", "SET"): ("NETFILTER_XT_SET",),
    ("target", "SNAT"): ("NETFILTER_XT_NAT",),
    ("target", "DNAT"): ("NETFILTER_XT_NAT",),
    ("match", "mark"): ("NETFILTER_XT_MARK",),
    ("target", "MARK"): ("NETFILTER_XT_MARK",),
    ("match", "connmark"): ("NETFILTER_XT_CONNMARK",),
    ("target", "CONNMARK"): ("NETFILTER_XT_CONNMARK",),
    ("target", "TOS"): ("NETFILTER_XT_TARGET_DSCP",),
    ("match", "tos"): ("NETFILTER_XT_MATCH_DSCP",),
    ("match", "ttl"): ("NETFILTER_XT_MATCH_HL",),
    ("target", "TTL"): ("NETFILTER_XT_TARGET_HL",),
    ("match", "udplite"): ("NETFILTER_XTABLES",),
    ("match", "ipv6header"): ("IP6_NF_MATCH_IPV6HEADER",),
    ("match", "dst"): ("IP6_NF_MATCH_OPTS",),
    ("match", "hbh"): ("IP6_NF_MATCH_OPTS",),
}
_TABLE_SYMBOLS = {"filter": "FILTER", "nat": "NAT", "mangle": "MANGLE", "raw": "RAW", "security": "SECURITY"}
_EXTRA = "kernel-modules-extra (Fedora, RHEL), linux-modules-extra-{release} (Ubuntu)"


class Kernel:
    """The kernel, as seen in the network namespace *there*."""

    def __init__(self, there: Namespace, modules: Modules | None = None) -> None:
        self.there = there
        self.modules = modules or Modules()
        self._listed: dict[str, set[str] | None] = {}

    # --------------------------------------------------- nf_tables and legacy

    def has_nf_tables(self) -> bool | None:
        """Whether the kernel has nf_tables; None if this process may not ask."""
        try:
            with Socket(self.there) as socket:
                socket.generation()
        except AccessDenied:
            return None
        except KernelError as error:
            if not is_absent(error) and error.errno != errno.EINVAL:
                raise
            return False
        return True

    def compat(self) -> _State:
        """Return (state, module, why) of the layer with which nf_tables uses matches and targets of xtables."""
        # the kernel loads it by these aliases, which a blacklist can block
        return self.modules.state(["nft_compat", "nft-expr-match"], ["NFT_COMPAT"])

    def legacy(self, nfproto: Family) -> _State:
        """Return (state, module, why) of the legacy tables of a family."""
        prefix, _, symbol = _FAMILIES[nfproto]
        if self._has_file(f"{prefix}_tables_names"):
            return HERE, f"{prefix}_tables", ""
        return self.modules.state([f"{prefix}_tables"], [f"{symbol}_NF_IPTABLES_LEGACY"])

    def _has_file(self, name: str) -> bool:
        try:
            self.there.read_file(f"/proc/thread-self/net/{name}".encode())
        except OSError as error:
            return error.errno != errno.ENOENT
        return True

    # ------------------------------------------------------- what a rule needs

    def table(self, nfproto: Family, name: str) -> _State:
        """Return (state, module, why) of a legacy table."""
        prefix, _, symbol = _FAMILIES[nfproto]
        if name in (self._lines(f"{prefix}_tables_names") or ()):
            return HERE, f"{prefix}table_{name}", ""
        if not self.modules.can_load and name in _TABLE_SYMBOLS:
            there = _opens_elsewhere(nfproto, name)
            if there is not None:
                why = "" if there else "the kernel refuses it"
                return HERE if there else ABSENT, f"{prefix}table_{name}", why
        symbols = [f"{symbol}_NF_{_TABLE_SYMBOLS[name]}"] if name in _TABLE_SYMBOLS else []
        return self.modules.state([f"{prefix}table_{name}"], symbols)

    def extension(self, nfproto: Family, kind: str, name: str) -> _State:
        """Return (state, module, why) of a match or target."""
        prefix, start, symbol = _FAMILIES[nfproto]
        listed = self._lines(f"{prefix}_tables_{kind}{'es' if kind == 'match' else 's'}")
        if listed is not None and name in listed:
            return HERE, name, ""
        kinds = [f"NETFILTER_XT_{kind.upper()}_{name.upper()}", f"{symbol}_NF_{kind.upper()}_{name.upper()}"]
        if name in _IN_THE_CORE[kind]:
            kinds = [f"{symbol}_NF_IPTABLES", "NETFILTER_XTABLES"]
        symbols = [*_SYMBOLS.get((kind, name), ()), *kinds]
        state, module, why = self.modules.state([f"{start}_{name}", f"xt_{name}"], symbols)
        if module.startswith(start) and state in (ABSENT, UNKNOWN):
            module = f"xt_{name}"
        if listed is not None and state == HERE and not self.modules.can_load:
            # the kernel's list is complete if no module can be loaded
            return ABSENT, module, "the kernel does not list it"
        return state, module, why

    def _lines(self, name: str) -> set[str] | None:
        """Return the lines of one of the kernel's lists in /proc/net, or None if it cannot be read."""
        if name not in self._listed:
            try:
                found = set(self.there.read_file(f"/proc/thread-self/net/{name}".encode()).decode().split())
            except OSError:
                found = None
            self._listed[name] = found
        return self._listed[name]


def _opens_elsewhere(nfproto: Family, name: str) -> bool | None:
    """Whether the kernel opens a legacy table in a temporary network namespace; None if that cannot be tried."""
    try:
        from ..trial import lacking
    except ImportError:
        # nothing can be tried without libxtables
        return None
    lacks = lacking(nfproto, [name])
    return None if lacks is None else not lacks


# ---------------------------------------------------------------- findings


def of_kernel(kernel: Kernel, side: str | None, host_side: str | None) -> Iterator[Finding]:
    """Yield findings about both back ends in the kernel. *side* is our back end, *host_side* that of the host's
    tools."""
    release = kernel.modules.release
    legacy = {nfproto: kernel.legacy(nfproto) for nfproto in _FAMILIES}
    gone = [words for nfproto, words in _FAMILIES.items() if legacy[nfproto][0] in (ABSENT, KEPT_OUT)]
    if gone:
        level = WARNING if "legacy" in (side, host_side) or side == "libiptc" else INFO
        names = listed([f"{prefix}_tables" for prefix, _, _ in gone])
        text = f"Linux {release} has no legacy tables here ({names}: {_reasons(legacy.values())})."
        do = "Use nf_tables: update-alternatives --set iptables /usr/sbin/iptables-nft; IPTC_BACKEND=nft"
        yield Finding(level, text, do if level != INFO else "")
    try:
        has_nft = kernel.has_nf_tables()
    except IPTCError as error:
        yield Finding(ERROR, f"nf_tables does not answer: {message_of(error)}.", "Look into dmesg")
        return
    if has_nft is False:
        level = WARNING if "nft" in (side, host_side) else INFO
        do = "Use legacy tables: IPTC_BACKEND=legacy; or load it: modprobe nf_tables"
        yield Finding(level, f"Linux {release} has no nf_tables here.", do if level != INFO else "")
        return
    state, _, why = kernel.compat()
    if state in (ABSENT, KEPT_OUT):
        text = (
            f"nf_tables has no compatibility layer here (nft_compat: {why}): rules with other matches and targets than "
            "ports, limit, mark, comment and NFLOG are refused."
        )
        yield Finding(WARNING if "nft" in (side, host_side) else INFO, text, _way_to(kernel, "nft_compat", state, why))
    if not gone and has_nft and state in (HERE, LOADABLE):
        yield Finding(INFO, f"Linux {release} has legacy tables, nf_tables and its compatibility layer.")


def _reasons(states: Iterable[_State]) -> str:
    return listed(list(dict.fromkeys(why or "not there" for state, _, why in states if state in (ABSENT, KEPT_OUT))))


def of_ruleset(
    kernel: Kernel,
    side: str,
    nfproto: Family,
    tables: Mapping[str, int],
    needs: Sequence[Need],
    has_plugin: Callable[[Family, Need], bool],
) -> Iterator[Finding]:
    """Yield what a ruleset needs and this kernel cannot do. has_plugin(nfproto, need): whether libxtables has a
    plugin."""
    family = "IPv6" if nfproto == _core.IPV6 else "IPv4"
    wrong = []
    if side != "nft":
        for table, line in tables.items():
            wrong += _judged(kernel, kernel.table(nfproto, table), f"line {line}: {family} table {table}")
    compat = kernel.compat() if side == "nft" else (HERE, "", "")
    behind = []
    for need in needs:
        name = f"line {need.line}: {family} {need}"
        if need.name and not has_plugin(nfproto, need):
            do = "Look at its spelling; install the package that has the plugin (iptables, or one of its extensions)"
            wrong.append(Finding(ERROR, f"{_capital(name)} is unknown to libxtables: there is no plugin.", do))
            continue
        native = side == "nft" and need.kernels_name in _NATIVE[need.kind]
        if native:
            continue
        if compat[0] in (ABSENT, KEPT_OUT):
            behind.append(need)
            continue
        wrong += _judged(kernel, kernel.extension(nfproto, need.kind, need.kernels_name), name)
    if behind:
        names = listed([f"{need} (line {need.line})" for need in behind])
        text = f"{family}: without nft_compat ({compat[2]}) nf_tables cannot do {names}."
        wrong.append(Finding(ERROR, text, _way_to(kernel, "nft_compat", compat[0], compat[2])))
    yield from wrong
    if not wrong:
        extensions = f"all {len(needs)} matches and targets" if needs else "everything"
        yield Finding(INFO, f"This kernel has {extensions} that the {family} ruleset needs.")


def _judged(kernel: Kernel, answer: _State, name: str) -> list[Finding]:
    """Yield the findings about one table, match or target that is needed."""
    state, module, why = answer
    if state in (HERE, LOADABLE):
        return []
    if state == UNKNOWN:
        text = f"{_capital(name)}: whether this kernel has it cannot be seen from here (module {module})."
        where = "" if kernel.modules.has_folder else " where the kernel's modules are, outside of the container"
        return [Finding(WARNING, text, f"Load it{where}: modprobe {module}")]
    text = f"{_capital(name)} is not to be had: module {module}, {why}."
    return [Finding(ERROR, text, _way_to(kernel, module, state, why))]


def _way_to(kernel: Kernel, module: str, state: str, why: str) -> str:
    """Return what to do about a missing module."""
    if state == KEPT_OUT:
        if " /" in why:
            return f"Load it: modprobe {module}; or take it out of that file"
        return "Let it be loaded at boot (/etc/modules-load.d), before modules are closed off"
    if not kernel.modules.is_modular:
        return "Use a kernel that was built with it"
    return f"Install the package that has it: {_EXTRA.format(release=kernel.modules.release)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
