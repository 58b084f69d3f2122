"""Rule, Match, Target and Policy: one rule of a chain as an object that owns its bytes."""

from __future__ import annotations

from . import _core
from .errors import ParameterError, ParameterTypeError, XTablesError
from .language import comparing, extension, plugins, printing
from .language.extension import VERDICT_PAYLOADS, Extension, checked_name, pack
from .language.specification import read_rule
from .language.words import split_words
from .policy import Policy as Policy
from .protocols import PROTOCOL_NAMES, PROTOCOL_NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType
    from typing import Self

    from _typeshed import ReadableBuffer

    from iptc import Chain, Table

    from ._types import Family

    _Network = tuple[bytes, bytes]
    """(address, mask)."""

_state: ModuleType | None = None  # the module, once a target is made by its name: only that asks which tables are open


def _load_state() -> ModuleType:
    global _state
    from . import state

    _state = state
    return state


class IPTCModule(Extension):
    """The base class of `Match` and `Target`. It is written in Python, so that programs may set attributes on them."""

    def __reduce__(self) -> tuple[Callable[..., Match | Target], tuple[object, ...]]:
        return _restore_extension, (type(self), *self._base_state(), self._state())


class Match(IPTCModule):
    """One match of a rule (`-m`). Every option of the extension is an attribute, `-` written as `_`.

    >>> match = Match(Rule(), "tcp")
    >>> match.dport = "!80"
    >>> match.parameters
    {'dport': '!80'}

    The value of an option is a string, or a list of strings if the option takes several words. A leading `!` negates
    it; the value of a flag is `""`. An option that is not set reads as None. *match* is the match as bytes: `struct
    xt_entry_match` and the data of the extension.
    """

    def __init__(
        self, rule: Rule, name: str | None = None, match: ReadableBuffer | None = None, revision: int | None = None
    ) -> None:
        if not name and not match:
            raise ParameterError("can't create match based on nothing")
        _check_rule(rule)
        if match:
            self._take(rule, False, _payload(match))
        else:
            self._begin(rule, False, checked_name(name), revision)

    @property
    def match_buf(self) -> bytes:
        """The match as bytes: `struct xt_entry_match` and the data of the extension."""
        return self._bytes()

    match = match_buf

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Match):
            return NotImplemented
        return _says_the_same(self, other)

    def __hash__(self) -> int:
        return hash(_payload_key(self)[0])

    def __repr__(self) -> str:
        return f"<iptc.Match {self.name} {_shown(self)}>"


class Target(IPTCModule):
    """The target of a rule (`-j`, `-g`): a verdict, a chain, or an extension with options as in `Match`.

    The name of a chain makes a jump. With `goto=True` the packet does not come back from that chain (`-g`). The name
    `""` means no target. *target* is the target as bytes: `struct xt_entry_target` and its data, with the name of a
    verdict or chain instead of the kernel's number.
    """

    STANDARD_TARGETS = [
        "",
        "ACCEPT",
        "DROP",
        "REJECT",
        "RETURN",
        "REDIRECT",
        "SNAT",
        "DNAT",
        "MASQUERADE",
        "MIRROR",
        "TOS",
        "MARK",
        "QUEUE",
        "LOG",
    ]

    def __init__(
        self,
        rule: Rule,
        name: str | None = None,
        target: ReadableBuffer | None = None,
        revision: int | None = None,
        goto: bool | None = None,
    ) -> None:
        if name is None and target is None:
            raise ParameterError("can't create target based on nothing")
        if goto not in (None, True, False):
            raise ParameterTypeError(f"goto must be a bool, not {goto!r}")
        _check_rule(rule)
        if target is not None:
            self._take(rule, True, _payload(target))
            return
        name = checked_name(name)
        if name in VERDICT_PAYLOADS:
            self._become_verdict(rule, VERDICT_PAYLOADS[name], bool(goto))
        elif (_state or _load_state()).is_user_chain(rule.nfproto, name):
            self._become_verdict(rule, _core.standard_target(name), bool(goto))
        elif not goto and plugins.has_target(rule.nfproto, name):
            self._begin(rule, True, name, revision)
        elif (_state or _load_state()).is_user_chain(rule.nfproto, name, look_again=True):
            self._become_verdict(rule, _core.standard_target(name), bool(goto))
        elif goto:
            raise XTablesError(f"goto '{name}' is not a chain")
        else:
            self._begin(rule, True, name, revision)  # raises with the message of libxtables

    @property
    def standard_target(self) -> str:
        """The name of the verdict or chain. Setting it turns the target into that verdict, or a jump to that chain."""
        return self.name

    @standard_target.setter
    def standard_target(self, name: str) -> None:
        self._become_verdict(None, _core.standard_target(checked_name(name)), self.goto)

    @property
    def target(self) -> bytes:
        """The target as bytes: `struct xt_entry_target` and its data."""
        return self._bytes()

    @property
    def expressions(self) -> list[str] | None:
        """The expressions of a rule that only `nft` can read, such as `["meta", "lookup @set"]`, or None."""
        from .nft.codec import target_expressions

        return target_expressions(self._bytes())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Target):
            return NotImplemented
        return self.goto == other.goto and _says_the_same(self, other)

    def __hash__(self) -> int:
        return hash((self.goto, _payload_key(self)[0]))

    def __repr__(self) -> str:
        return f"<iptc.Target {'goto ' if self.goto else ''}{self.name} {_shown(self)}>"


extension.use_classes(Match, Target)


def _restore_extension(
    cls: type[Match | Target], nfproto: Family, header: bytes, state: tuple[object, ...]
) -> Match | Target:
    rule = (Rule if nfproto == _core.IPV4 else Rule6)()
    rule._load_header(nfproto, header)
    made = cls.__new__(cls)
    made._restore(rule, state)
    return made


def _check_rule(rule: object) -> None:
    if not isinstance(rule, _core.RuleValue):
        raise ParameterTypeError(f"a match or target belongs to a Rule, not to {type(rule).__name__}")


def _payload_key(extension: Match | Target) -> tuple[bytes, bytes]:
    """Return (name, revision and data), without the bytes that the kernel keeps in the data for itself."""
    payload = extension._packed_or_bytes()
    return _core.payload_name(payload), payload[31 : extension.usersize]


def _says_the_same(one: Match | Target, other: Match | Target) -> bool:
    """Whether two matches or targets are equal. A few extensions leave rubbish in unused bytes, so if the bytes differ,
    the parameters are compared."""
    mine, theirs = _payload_key(one), _payload_key(other)
    if mine == theirs:
        return True
    if mine[0] != theirs[0] or one.revision != other.revision or one.opaque or other.opaque:
        return False
    parameters = one.get_all_parameters()
    return bool(parameters) and parameters == other.get_all_parameters()


def _shown(extension: Match | Target) -> str | dict[str, str | list[str]]:
    """Return the part of `repr` that describes an extension: its parameters, or its bytes if no plugin can read it."""
    if not extension.opaque:
        return extension.parameters
    # behind the size, the name and the revision
    content = extension._bytes()[32:]
    return (
        f"revision {extension.revision}, {len(content)} bytes {content[:16].hex()}{'...' if len(content) > 16 else ''}"
    )


def _payload(buffer: ReadableBuffer) -> bytes:
    return buffer if isinstance(buffer, bytes) else bytes(memoryview(buffer))


class Rule(_core.RuleValue):
    """One IPv4 rule: a base part, any number of matches, and a target.

    >>> rule = Rule()
    >>> rule.src, rule.protocol = "10.0.0.0/8", "tcp"
    >>> rule.create_match("tcp").dport = "22"
    >>> rule.create_target("ACCEPT").name
    'ACCEPT'
    >>> str(rule)
    '-s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT'

    *entry* is a whole entry as bytes: `struct ipt_entry` or `ip6t_entry`, its matches, its target, with the name of a
    verdict or chain instead of the kernel's number. *chain* is the `Chain` that the rule belongs to.

    Two rules are equal (`==`) if they say the same; their counters and the order of their matches do not count. (The
    order does count for `iptables -D`, and so for `Chain.delete_rule`.) Do not change a rule while it is a key of a
    dict.
    """

    chain: Chain | None
    _target: Target | None
    _networks: tuple[list[_Network], list[_Network]] | None
    _nfproto = _core.IPV4
    protocols = PROTOCOL_NAMES

    if TYPE_CHECKING:

        def __init__(self, entry: ReadableBuffer | None = None, chain: Chain | None = None) -> None: ...

        @classmethod
        def from_args(cls, specification: str | Iterable[str]) -> Self:
            """Return the rule of a specification, as `read_rule` reads it."""
            ...

        def create_match(self, name: str, revision: int | None = None) -> Match:
            """Add a match of the extension *name* (`-m name`) behind the others, and return it."""
            ...

        def create_target(self, name: str, revision: int | None = None, goto: bool = False) -> Target:
            """Set the target to *name*, with *goto* as by `-g` and otherwise as by `-j`, and return it."""
            ...

        def _decode(self) -> list[Match]:
            """Make the `Match` and `Target` objects of the bytes that were read. Return the matches."""
            ...

    else:
        # compiled as they are: no step of Python's between
        from_args = classmethod(read_rule)
        create_match = extension.create_match
        create_target = extension.create_target
        _decode = extension.read_payloads

    def to_args(self) -> list[str]:
        """Return the words of `str(rule)` as a list."""
        words = split_words(_core.text_bytes(str(self), "a rule"))
        return [word.decode("utf-8", "surrogateescape") for word, _ in words]

    def expand(self) -> list[Rule]:
        """Return a list of rules with one source and one destination each: this rule alone, or one for each pair.

        `-s 10.0.0.1,10.0.0.2` is short for two rules. `iptables -A` appends them in this order.
        """
        if self._networks is None:
            return [self]
        sources, destinations = self._networks
        return [self._with_networks(source, destination) for source in sources for destination in destinations]

    def _with_networks(self, source: tuple[bytes, bytes], destination: tuple[bytes, bytes]) -> Rule:
        """Return a copy with these addresses; each is (address, mask) as bytes in network order."""
        make, arguments = self.__reduce__()
        rule = make(*arguments)
        rule._set_network(0, *source)
        rule._set_network(1, *destination)
        return rule

    # protocol and fragment

    @staticmethod
    def _read_protocol(value: str | int) -> tuple[int, bool]:
        """Return (number, whether it is negated) of what `protocol` is set to."""
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise ParameterTypeError(f"a protocol must be a string or an integer, not {type(value).__name__}")
        text = str(value).lower()
        negated = text.startswith("!")
        if negated:
            text = text[1:].lstrip(" ")
        number = PROTOCOL_NUMBERS.get(text)
        if number is None and text.isascii() and text.isdigit() and text[0] != "0":
            number = int(text)
        if number is None:
            try:
                number = plugins.parse_protocol(text) if text and not text.startswith("-") else -1
            except ParameterError:
                number = -1
        if not 0 <= number <= 255 or (text.isdigit() and int(text) > 255):
            raise ParameterError(f"invalid protocol {value}")
        if negated and number == 0:
            raise ParameterError("rule would never match protocol")
        return number, negated

    @property
    def fragment(self) -> bool | str:
        """Whether the rule is for second and further fragments: True (`-f`), "!" (`! -f`) or False. IPv4 only."""
        given, negated = self._get_fragment()
        return "!" if given and negated else given

    @fragment.setter
    def fragment(self, value: bool | str | None) -> None:
        self._set_fragment(bool(value), isinstance(value, str) and value.startswith("!"))

    # matches and target

    @property
    def matches(self) -> list[Match]:
        """A new list of the `Match` objects, in their order. Changing one of them changes the rule."""
        matches: list[Match] = self._decode() if self._matches is None else self._matches
        return matches[:]

    @property
    def target(self) -> Target | None:
        """The `Target`, or None if the rule was given none."""
        if self._matches is None:
            self._decode()
        return self._target

    @target.setter
    def target(self, target: Target) -> None:
        if not isinstance(target, Target):
            raise ParameterTypeError(f"a target must be a Target, not {type(target).__name__}")
        if self._matches is None:
            self._decode()
        target.rule = self
        self._target = target

    def add_match(self, match: Match) -> None:
        """Add *match* behind the others."""
        if not isinstance(match, Match):
            raise ParameterTypeError(f"a match must be a Match, not {type(match).__name__}")
        matches = self._decode() if self._matches is None else self._matches
        match.rule = self
        matches.append(match)

    def remove_match(self, match: Match) -> None:
        """Remove the first match that equals *match*. Raises `ValueError` if the rule has none."""
        matches = self._decode() if self._matches is None else self._matches
        matches.remove(match)

    def final_check(self) -> None:
        """Raise `ParameterError` if a match or the target lacks a required option, with the message of `iptables`."""
        if self._matches is None:
            return
        for match in self._matches:
            match.final_check()
        if self._target is not None:
            self._target.final_check()

    # the whole

    def _entry(self) -> bytes | None:
        """Return the whole entry as bytes, or None if the rule has no target."""
        return pack(self, True)

    @property
    def rule(self) -> bytes | None:
        """The whole entry as bytes, as libiptc takes it: verdict or chain by name. None if the rule has no target."""
        return self._entry()

    @property
    def mask(self) -> bytes | None:
        """Bytes as long as `rule`: 0xff at the bytes that `iptables -D` compares, 0 at the others."""
        entry = self._entry()
        if entry is None:
            return None
        header, payloads = _core.split_entry(self.nfproto, entry)
        target = self.target
        parts: list[Match | Target] = [*self.matches, *([] if target is None else [target])]
        mask = b"\xff" * (len(entry) - sum(map(len, payloads)))
        for part, payload in zip(parts, payloads):
            mask += b"\xff" * part.usersize + bytes(len(payload) - part.usersize)
        return mask

    @property
    def entry(self) -> bytes:
        """The base part as bytes (`struct ipt_entry` or `ip6t_entry`)."""
        return self._header_bytes()

    def _whole(self) -> bytes:
        """Return the whole entry as bytes. A rule without a target gets the empty one, as iptables writes it."""
        entry = pack(self, False)
        if entry is None:
            entry = self._assemble([match._packed_or_bytes() for match in self._matches] + [VERDICT_PAYLOADS[""]])
        return entry

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule):
            return NotImplemented
        if self is other:
            return True
        if self.nfproto != other.nfproto:
            return False
        return comparing.are_equal(self.nfproto, self._whole(), other._whole())

    def __hash__(self) -> int:
        return comparing.equal_hash(self.nfproto, self._whole())

    def __str__(self) -> str:
        if self._networks is None:
            return printing.render_rule(self) if self._matches is None else printing.render(self.nfproto, self._whole())
        sources, destinations = self._networks
        zeros = bytes(len(sources[0][0]))
        any_network = zeros, zeros
        rest = self._with_networks(any_network, any_network)
        words = []
        for option, networks in (("-s", sources), ("-d", destinations)):
            addresses = []
            for network in networks:
                rest._set_network(0, *network)
                addresses.append(rest.src if network == any_network else str(rest).split(" ", 2)[1])
            if len(networks) > 1 or networks[0] != any_network:
                words += [option, ",".join(addresses)]
        rest._set_network(0, *any_network)
        return " ".join([*words, str(rest)])

    def _shown(self) -> str:
        """The rule as text, also where there is no plugin for a part of it."""
        return str(self) if self._networks else printing.render(self.nfproto, self._whole(), partly=True)

    def __repr__(self) -> str:
        return f"<iptc.{type(self).__name__} {self._shown()}>"

    def __reduce__(self) -> tuple[Callable[..., Rule], tuple[object, ...]]:
        if self._matches is None:
            return _restore_rule, (type(self), self._whole(), None, None, self.counters, self._networks)
        target = self._target
        return _restore_rule, (
            type(self),
            self._whole(),
            [match._state() for match in self._matches],
            None if target is None else target._state(),
            self.counters,
            self._networks,
        )

    # methods of python-iptables that do what the properties do

    @property
    def tables(self) -> list[Table]:
        """The tables of the rule's family that can be opened."""
        # `table` is a higher level than `rule`, so it is imported by its public name when it is needed
        from iptc import Table, Table6

        return (Table if self.nfproto == _core.IPV4 else Table6)._available()

    def get_src(self) -> str:
        """The same as `src`."""
        return self.src

    def set_src(self, src: str) -> None:
        """The same as setting `src`."""
        self.src = src

    def get_dst(self) -> str:
        """The same as `dst`."""
        return self.dst

    def set_dst(self, dst: str) -> None:
        """The same as setting `dst`."""
        self.dst = dst

    def get_in_interface(self) -> str | None:
        """The same as `in_interface`."""
        return self.in_interface

    def set_in_interface(self, interface: str | None) -> None:
        """The same as setting `in_interface`."""
        self.in_interface = interface

    def get_out_interface(self) -> str | None:
        """The same as `out_interface`."""
        return self.out_interface

    def set_out_interface(self, interface: str | None) -> None:
        """The same as setting `out_interface`."""
        self.out_interface = interface

    def get_protocol(self) -> str:
        """The same as `protocol`."""
        return self.protocol

    def set_protocol(self, protocol: str | int) -> None:
        """The same as setting `protocol`."""
        self.protocol = protocol

    def get_fragment(self) -> bool | str:
        """The same as `fragment`."""
        return self.fragment

    def set_fragment(self, fragment: bool | str | None) -> None:
        """The same as setting `fragment`."""
        self.fragment = fragment

    def get_ip(self) -> Rule:
        """Return the rule itself. python-iptables returns `struct ipt_ip` here."""
        return self


def _restore_rule(
    cls: type[Rule],
    entry: bytes,
    matches: list[tuple[object, ...]] | None,
    target: tuple[object, ...] | None,
    counters: tuple[int, int],
    networks: tuple[list[_Network], list[_Network]] | None = None,
) -> Rule:
    rule = cls(entry)
    rule.counters = counters
    rule._networks = networks
    if matches is None:
        return rule
    rule._matches = []
    for state in matches:
        match = Match.__new__(Match)
        match._restore(rule, state)
        rule._matches.append(match)
    if target is not None:
        rule._target = Target.__new__(Target)
        rule._target._restore(rule, target)
    return rule


class Rule6(Rule):
    """One IPv6 rule. Its addresses are IPv6's, and it has no `fragment` (use `-m frag`). All else is as for `Rule`."""

    _nfproto = _core.IPV6

    @property
    def fragment(self) -> bool | str:
        """Not in IPv6."""
        raise ParameterError("`-f' is not supported in IPv6, use -m frag instead")

    @fragment.setter
    def fragment(self, value: bool | str | None) -> None:
        raise ParameterError("`-f' is not supported in IPv6, use -m frag instead")

    def _create_mask(self, bits: int) -> list[int]:
        """Return the mask of an IPv6 address with *bits* leading ones, as 16 integers."""
        if not 0 <= bits <= 128:
            raise ParameterError(f"invalid prefix length {bits}")
        return list(((1 << 128) - (1 << (128 - bits))).to_bytes(16, "big"))
