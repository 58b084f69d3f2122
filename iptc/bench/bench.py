"""Bench: a ruleset in a private network namespace, and packets that are sent through it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from .. import _core, backends, ruleset
from ..errors import AccessDenied, IPTCError, KernelError, ParameterError, TransactionError, Unsupported, kernel_error
from ..language import plugins
from ..namespace import Place
from ..tracing.headers import ICMP, ICMPV6, Header
from . import packet_bytes
from .conntrack import copy_flow
from .devices import Device
from .flow import Flow
from .layout import Layout
from .links import Links
from .pairs import Pair, on_one_processor
from .private_namespace import LOGGERS, SETTINGS, new_place, write_setting
from .quiet import PRIORITY, Quiet
from .rules import interfaces_in, sets_in, texts_of
from .sets import copy_sets_of, make_sets, names_of
from .tracer import Tracer
from .verdict import Left, Verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Any, Self

    from .._netns import Namespace
    from ..tracing.steps import Packet

_PATIENCE = 60.0
"""Seconds to wait at most for events that surely come, such as the arrival of a packet that the host sends itself."""

_SO_MARK = 36
_NOISE = frozenset({130, 131, 132, 133, 134, 135, 136, 143})
"""The types of ICMPv6 that interfaces send by themselves."""

_OF_FLOWS = (b"*nat", b"-m conntrack", b"-m state", b"-m connmark", b"-m helper", b"-j CONNMARK")
"""Words of a ruleset that depend on connection tracking. Without them, it does not matter to which flow a packet
belongs."""


class Bench:
    """A ruleset in a private network namespace, where the kernel applies it to packets. No packet leaves this process.

        with iptc.Bench("rules.v4", interfaces={"eth0": "203.0.113.1/24", "eth1": "10.0.0.1/24"}) as bench:
            verdict = bench.send("eth0", src="198.51.100.9", tcp=22)
            print(verdict.verdict, verdict.rule)

    *rules*: a text in the format of iptables-save (a string with a line break), a path, an open file or a `Ruleset`. A
        text with the headings `# IPv4` and `# IPv6` has both families; otherwise *ipv6* selects the family. *rules6*:
        the rules of IPv6, if they are given separately.
    *interfaces*: {name: address with its network, or several of them}. None makes the interfaces that the rules name,
        with invented addresses: the first one has 203.0.113.1/24 and 2001:db8::1/64.
    *routes*: texts as after `ip route add`. None makes a default route by the first interface.
    *sets*: the output of `ipset save`, {name: entries} or {name: (type, entries)}. The default type is hash:net.
    *sysctls*: {"net/ipv4/conf/all/rp_filter": "1"}, in addition to those in `iptc.bench.private_namespace.SETTINGS`.
    *backend*: "legacy" or "nft"; None for the one that is in use.
    *tun*: False makes the interfaces without /dev/net/tun. That is also done if it cannot be opened.

    The namespace is created when the bench is entered or first used. For an ordinary user it is in a user namespace.
    One thread can use a bench at a time.
    """

    def __init__(
        self,
        rules: Any = None,
        interfaces: Mapping[str, Any] | Iterable[str] | None = None,
        *,
        routes: Iterable[Any] | None = None,
        sets: Any = None,
        sysctls: Mapping[str, str] | None = None,
        backend: str | None = None,
        rules6: Any = None,
        ipv6: bool | None = None,
        tun: bool = True,
    ) -> None:
        self._texts = texts_of(rules, rules6, ipv6)
        named = list(dict.fromkeys(name for _, text in self._texts for name in interfaces_in(text)))
        self.layout = Layout.told(interfaces, routes, named)
        self._sets = sets
        self._sysctls = dict(sysctls or {})
        self._backend = backend if backend is not None or not hasattr(rules, "backend") else rules.backend
        self._stack: contextlib.ExitStack | None = None
        self._ended = False
        self._ident = 0
        self._paired = not tun
        self._silence: Quiet | None = None
        self.like: Place | None = None
        self.lacking: list[str] = []

    # ------------------------------------------------------------ opening and closing

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Create the namespace and load the rules, unless that is done already."""
        if self._stack is not None:
            return
        if self._ended:
            raise TransactionError("this bench is closed")
        with contextlib.ExitStack() as stack:
            self._make(stack)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Delete the namespace with everything in it. A second call does nothing."""
        self._ended = True
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def __del__(self) -> None:
        if getattr(self, "_stack", None) is not None:
            self.close()

    def _make(self, stack: contextlib.ExitStack) -> None:
        self.backend = own_side(self._backend)
        self.namespace = stack.enter_context(new_place())
        later = {
            name: value
            for name, value in {**SETTINGS, **self._sysctls}.items()
            if not write_setting(self.namespace, name, value)
        }
        self.links = Links(self.namespace)
        stack.callback(self.links.close)
        self._devices: dict[str, Device | Pair] = {}
        for number, name in enumerate(self.layout.interfaces, 1):
            if name != "lo":
                self._devices[name] = device = self._new_device(name, number)
                stack.callback(device.close)
        self._connect()
        for name, value in later.items():
            # the setting of an interface, which exists only now
            if not write_setting(self.namespace, name, value) and name in self._sysctls:
                raise KernelError(f"there is no setting {name.replace('/', '.')}", errno.ENOENT, os.strerror(2))
        self.place = Place(self.namespace)
        number = self.namespace.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._asking = stack.enter_context(socket.socket(fileno=number))
        self._make_sets()
        with asking(self.namespace, self._asking):
            self._restore()
        if self.backend != "nft":
            for name, value in LOGGERS.items():
                write_setting(self.namespace, name, value)
        self._tracer = Tracer(self.place, self.backend)
        stack.callback(self._tracer.close)
        self._senders: dict[int, socket.socket] = {}
        stack.callback(self._forget_senders)
        with on_one_processor() if self._paired else contextlib.nullcontext():
            self.calm()

    def _new_device(self, name: str, number: int) -> Device | Pair:
        """Return a new interface: a TUN device, or one end of a pair if TUN is not available. All are of the same
        kind."""
        if not self._paired:
            try:
                return Device(self.namespace, name)
            except (Unsupported, AccessDenied) as error:
                if self._devices:
                    raise
                self._paired, lacking = True, error
            try:
                return Pair(self.namespace, self.links, name, number, _PATIENCE)
            except KernelError as error:
                raise Unsupported(f"{lacking}, and no pair of interfaces in its place: {error}") from None
        return Pair(self.namespace, self.links, name, number, _PATIENCE)

    def _connect(self) -> None:
        self.links.set_up("lo")
        for name, addresses in self.layout.interfaces.items():
            for address in addresses:
                self.links.add_address(name, address)
            self.links.set_up(name)
        for route in self.layout.routes:
            self.links.add_route(route)
        self.links.settle((each for some in self.layout.interfaces.values() for each in some), _PATIENCE)

    def _make_sets(self) -> None:
        named = [name for _, text in self._texts for name in sets_in(text)]
        if self.like is None:
            there = names_of(self._sets)
            lacking = [name for name in named if name not in there]
            if lacking:
                raise ParameterError(
                    f"the rules name sets that the bench has not: {', '.join(dict.fromkeys(lacking))}; sets= says what"
                    " is in them"
                )
        if self._sets is not None:
            make_sets(self.namespace, self._sets)
        elif self.like is not None and named:
            with self.like.open() as here:
                self.lacking += copy_sets_of(here, self.namespace)

    def _restore(self) -> None:
        for nfproto, text in self._texts:
            if text.strip():
                ruleset.restore(
                    text, nfproto == _core.IPV6, backend=self.backend, netns=self.namespace, lock_file=False
                )

    def _forget_senders(self) -> None:
        for sender in self._senders.values():
            sender.close()

    # ------------------------------------------------------------------- packets

    def send(
        self,
        interface: str | None = None,
        src: str | None = None,
        dst: str | None = None,
        *,
        tcp: Any = None,
        udp: Any = None,
        icmp: Any = None,
        raw: bytes | None = None,
        protocol: Any = None,
        sport: Any = None,
        flags: Any = None,
        mark: int = 0,
        ttl: int | None = None,
        tos: int = 0,
        payload: bytes = b"",
        seq: int = 1000,
        ack: int = 0,
        version: int = 0,
    ) -> Verdict:
        """Send a packet in at *interface*, or as a packet of the host itself if that is None. Return its `Verdict`.

        *tcp* and *udp*: the destination port. *icmp*: a type ("echo-request", 8, "3/1", True). *protocol*: any other
            protocol, with *payload* after the IP header. *raw*: a whole packet.
        *flags*: TCP's flags; the default is SYN. *sport*: the source port. By default each packet has a new one, from
            40000 on, and so belongs to a connection of its own.
        *src*: by default a neighbour at *interface*. *dst*: by default the address of the host at *interface*. A packet
            of the host goes to that neighbour by default. *version*: 6 for IPv6 without an address.
        """
        packet = {"src": src, "dst": dst, "tcp": tcp, "udp": udp, "icmp": icmp, "raw": raw, "protocol": protocol}
        packet |= {"sport": sport, "flags": flags, "ttl": ttl, "tos": tos, "payload": payload, "seq": seq, "ack": ack}
        return self.judge(interface, self.make(interface, version=version, **packet), mark)

    def make(
        self,
        interface: str | None,
        src: str | None = None,
        dst: str | None = None,
        *,
        version: int = 0,
        mark: int = 0,
        **packet: Any,
    ) -> packet_bytes.Made:
        """Return the packet that `send` would send, which `judge` sends."""
        self.open()
        if interface is not None and interface not in self._devices and interface != "lo":
            raise ParameterError(f"the bench has no interface {interface}: {', '.join(self._devices)} are there")
        if packet.get("raw") is None:
            src, dst = self._ends(interface, src, dst, version)
        return packet_bytes.packet(src, dst, ident=self._next_ident(), **packet)

    def flow(self, interface: str | None = None, **packet: Any) -> Flow:
        """Begin a connection, and return its `Flow`, which plays both sides. The arguments are those of `send`, with
        *tcp*, *udp* or *icmp*. With TCP the handshake follows.

        Meanwhile the host sends no packets by itself: it would refuse a connection for which no program listens.
        """
        return Flow(self, interface, packet)

    def _ends(self, interface: str | None, src: Any, dst: Any, version: int) -> tuple[str, str]:
        """Return (source, destination) of a packet, with defaults for those that are not given."""
        if src is not None or dst is not None:
            version = packet_bytes.address(src if src is not None else dst).version
        first = next(iter(self.layout.interfaces))
        if not version:
            version = 4 if self.layout.own(interface or first, 4) or not self.layout.own(interface or first, 6) else 6
        if interface is None:
            dst = self.layout.neighbour(first, version) if dst is None else dst
            if src is None:
                with contextlib.suppress(OSError):
                    src = self.links.way(str(dst))[1]
            return src or self.layout.own(None, version) or packet_bytes.ANY[version], dst
        if interface == "lo":
            loopback = packet_bytes.LOOPBACK[version]
            return (loopback if src is None else src), (loopback if dst is None else dst)
        src = self.layout.neighbour(interface, version) if src is None else src
        if dst is None:
            dst = self.layout.own(interface, version) or self.layout.own(None, version)
            if dst is None:
                raise ParameterError(f"the host has no address of IPv{version}: say dst=")
        return src, dst

    def _next_ident(self) -> int:
        self._ident = self._ident % 65534 + 1
        return self._ident

    def calm(self) -> None:
        """Drop the packets that have left and the reports so far."""
        self._tracer.skip()
        self._taken()

    def judge(self, interface: str | None, made: packet_bytes.Made, mark: int = 0, quietly: bool = False) -> Verdict:
        """Send a packet that `packet_bytes.packet` has built, and return its `Verdict`."""
        self.open()
        with contextlib.ExitStack() as stack:
            if self._paired:
                stack.enter_context(on_one_processor())
            stack.enter_context(asking(self.namespace, self._asking))
            if quietly:
                stack.enter_context(self._quiet())
            return self._judged(interface, made, mark)

    def _quiet(self) -> Quiet:
        """The table that keeps the host quiet. It is made when it is first needed."""
        if self._silence is None:
            self._silence = Quiet(self.place)
            assert self._stack is not None
            self._stack.callback(self._silence.close)
        return self._silence

    def _judged(self, interface: str | None, made: packet_bytes.Made, mark: int) -> Verdict:
        if self.like is not None:
            self._know_flow(made)
        self.calm()
        if interface is None or interface == "lo":
            failed = self._send_own(made, mark)
        else:
            failed = None
            if mark:
                raise ParameterError("a packet that comes in has no mark: rules give it one")
            self._devices[interface].put(made.data)
        return self._verdict(interface, made, failed)

    def _know_flow(self, made: packet_bytes.Made) -> None:
        """Copy the packet's flow from connection tracking of the host into that of the bench."""
        header = packet_bytes.header_of(made)
        if self.like is None or header is None:
            return
        if not any(word in text for _, text in self._texts for word in _OF_FLOWS):
            return
        with self.like.open() as here:
            try:
                copy_flow(here, self.namespace, header, made.data[20 if made.version == 4 else 40 :])
            except OSError as error:
                self.lacking.append(f"flows of the host are not known: {error.strerror}")

    def _send_own(self, made: packet_bytes.Made, mark: int) -> str | None:
        """Let the host send a packet. Return None, or why it cannot."""
        key = made.version
        if key not in self._senders:
            family = socket.AF_INET if key == 4 else socket.AF_INET6
            number = self.namespace.open_socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._senders[key] = sender = socket.socket(fileno=number)
            if key == 4:
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY)
        sender = self._senders[key]
        try:
            sender.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
            sender.sendto(made.data, (made.dst, 0))
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EADDRNOTAVAIL):
                return f"no route to {made.dst}: {error.strerror}"
            if error.errno not in (errno.EPERM, errno.ECONNREFUSED):
                raise kernel_error("can't send", error.errno or errno.EIO, str(error.strerror)) from None
        return None

    def _verdict(self, interface: str | None, made: packet_bytes.Made, failed: str | None) -> Verdict:
        ident = packet_bytes.ident_of(made.data)

        def is_it(packet: Packet) -> bool:
            before = packet.before
            return before is not None and (before.version, before.ident) == (made.version, ident)

        packets = self._tracer.whole()
        while _is_under_way(packets, is_it) and self._tracer.wait(_PATIENCE):
            packets += self._tracer.whole()
        packets += self._tracer.packets()
        its = [packet for packet in packets if is_it(packet)]
        out = self._taken()
        first = [
            left for left in out if packet_bytes.ident_of(left.data) == ident and left.header.version == made.version
        ]
        out = first + [left for left in out if left not in first]
        answers = [packet for packet in packets if not is_it(packet) and not _is_noise(packet.before)]
        verdict = Verdict(packet_bytes.header_of(made), its, out, answers)
        if verdict.verdict == "LOST":
            verdict.reason = failed or self._why_lost(interface, verdict, its)
        return verdict

    def _taken(self) -> list[Left]:
        """Return the packets that have left since the last call, except those that interfaces send by themselves."""
        found = []
        for name, device in self._devices.items():
            for data in device.taken():
                left = Left(name, data)
                if not _is_noise(left.header):
                    found.append(left)
        return found

    def _why_lost(self, interface: str | None, verdict: Verdict, its: list[Packet]) -> str:
        """Return why a packet has not arrived that no rule has dropped."""
        if not its:
            return "the kernel took it for no packet of IP: a wrong checksum, length or version"
        last = its[-1]
        header = last.after
        assert header is not None
        for left in verdict.out:
            kind = (left.header.number, *(left.header.icmp or (-1, -1)))
            if kind in ((ICMP, 11, 0), (ICMPV6, 3, 0)):
                return "its TTL was used up"
            if kind in ((ICMP, 3, 4), (ICMPV6, 2, 0)):
                return "it is larger than the way allows"
        incoming = last.in_interface or (interface if interface != "lo" else None)
        try:
            self.links.way(header.dst, header.src, incoming, last.mark)
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.ESRCH):
                return f"no route to {header.dst}"
            if error.errno in (errno.EINVAL, errno.EXDEV):
                return (
                    f"a packet from {header.src} to {header.dst} can't come in at {incoming}: martian or reverse path"
                )
            return f"no way to {header.dst}: {error.strerror}"
        return f"no rule dropped it, and it did not come further than {last.hook or 'the interface'}"

    # ---------------------------------------------------------------------- rules

    def asking(self) -> contextlib.AbstractContextManager[None]:
        """Let rules be read and printed as those of the bench: the sets that they name are there."""
        self.open()
        return asking(self.namespace, self._asking)

    def ruleset(self) -> Any:
        """Return the rules of the bench as a `Ruleset`."""
        from ..managing.ruleset_value import Ruleset

        self.open()
        with asking(self.namespace, self._asking):
            value = Ruleset.live(backend=self.backend, netns=self.namespace)
            for table in value.tables:
                for chain in table:
                    chain.rules  # noqa: B018 - printed here, where their sets are
        return value


@contextlib.contextmanager
def asking(there: Namespace, kept: socket.socket | None = None) -> Iterator[None]:
    """Let rules be read and printed as those of the namespace *there*: the sets that they name are there. *kept* is a
    raw socket of it, if one is at hand."""
    with contextlib.ExitStack() as stack:
        if kept is None:
            number = there.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            kept = stack.enter_context(socket.socket(fileno=number))
        before = plugins.ask_elsewhere(kept.fileno())
        try:
            yield
        finally:
            plugins.ask_elsewhere(before)


def _is_noise(header: Header | None) -> bool:
    """Whether a packet is one that interfaces send by themselves: of neighbours, routers and multicast groups.

    A report of multicast groups to ff02::16 has an extension header, behind which a trace may not show its type.
    """
    if header is None or header.version != 6:
        return False
    icmp = header.icmp
    return header.dst == "ff02::16" or (header.number == ICMPV6 and icmp is not None and icmp[0] in _NOISE)


def _is_under_way(packets: list[Packet], is_it: Any) -> bool:
    """Whether the packet was sent to the host itself and has not come in yet."""
    its = [packet for packet in packets if is_it(packet)]
    return bool(its) and its[-1].verdict == "ACCEPT" and its[-1].out_interface == "lo" and its[-1].hook == "POSTROUTING"


def own_side(given: str | None, there: Namespace = backends.HERE) -> str:
    """Return the back end *given*, or the one in use in the namespace *there*. If that cannot be found out, return the
    back end of the tools of iptables."""
    try:
        side = backends.side_in(there, given)
    except IPTCError:
        if given is not None:
            raise
        side = backends.tools_side()
    return "legacy" if side == "libiptc" else side
