"""Rule, Match, Target and Policy: one rule of a chain as an object that owns its bytes."""

from __future__ import annotations

from . import _core
from .errors import ParameterError, ParameterTypeError, XTablesError
from .language import comparing, plugins, printing
from .language.extension import Extension, new_match, new_verdict, pack, read_payloads
from .language.specification import read_rule
from .language.words import split_words
from .policy import Policy as Policy
from .protocols import PROTOCOL_NAMES, PROTOCOL_NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Self

    from iptc import Table

    from ._types import Family

_VERDICTS = {name: _core.standard_target(name) for name in _core.VERDICTS}
_state: Any = None  # the module, once a target is made by its name: only that asks which tables are open


def _load_state() -> Any:
    global _state
    from . import state

    _state = state
    return state


class IPTCModule(Extension):
    """What matches and targets have in common; a class of Python's, on which programs may set what they want."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_extension, (type(self), *self._base_state(), self._state())


class Match(IPTCModule):
    """One match of a rule (`-m`). Every option of the extension is an attribute, `-` written as `_`.

    >>> match = Match(Rule(), "tcp")
    >>> match.dport = "!80"
    >>> match.parameters
    {'dport': '!80'}

    A value is a string, or a list of strings for an option of several words; a leading `!` negates, a flag takes `""`.
    Reading an option that is not set gives None. *match* is the payload as bytes (`struct xt_entry_match`).
    """

    def __init__(self, rule: Rule, name: str | None = None, match: Any = None, revision: int | None = None) -> None:
        if not name and not match:
            raise ParameterError("can't create match based on nothing")
        _check_rule(rule)
        if match:
            self._take(rule, False, _payload(match))
        else:
            self._begin(rule, False, _checked_name(name), revision)

    @property
    def match_buf(self) -> bytes:
        """The payload as bytes, `struct xt_entry_match` included."""
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
    """What happens to a packet that a rule matches (`-j`, `-g`): a verdict, a chain, or an extension as in `Match`.

    The name of a chain is a jump; with `goto=True` the rule does not come back from there. `""` is no target at all.
    *target* is the payload as bytes (`struct xt_entry_target`, a chain by its name).
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
        target: Any = None,
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
        name = _checked_name(name)
        if name in _VERDICTS:
            self._become_verdict(rule, _VERDICTS[name], bool(goto))
        elif (_state or _load_state()).is_user_chain(rule.nfproto, name):
            self._become_verdict(rule, _core.standard_target(name), bool(goto))
        elif not goto and plugins.find_target(rule.nfproto, name, revision) is not None:
            self._begin(rule, True, name, revision)
        elif (_state or _load_state()).is_user_chain(rule.nfproto, name, look_again=True):
            self._become_verdict(rule, _core.standard_target(name), bool(goto))
        else:
            raise XTablesError(f"goto '{name}' is not a chain" if goto else f"can't find target {name}")

    @property
    def standard_target(self) -> str:
        """The verdict or chain that this target names; setting it makes the target that verdict or jump."""
        return self.name

    @standard_target.setter
    def standard_target(self, name: str) -> None:
        self._become_verdict(None, _core.standard_target(_checked_name(name)), self.goto)

    @property
    def target(self) -> bytes:
        """The payload as bytes, `struct xt_entry_target` included."""
        return self._bytes()

    @property
    def expressions(self) -> list[str] | None:
        """What a rule of `nft` that has no form in iptables consists of, `["meta", "lookup @set", …]`; None: it is not
        one."""
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


def _restore_extension(cls: Any, nfproto: Family, header: bytes, state: Any) -> Match | Target:
    rule = (Rule if nfproto == _core.IPV4 else Rule6)()
    rule._load_header(nfproto, header)
    extension: Match | Target = cls.__new__(cls)
    extension._restore(rule, state)
    return extension


def _check_rule(rule: object) -> None:
    if not isinstance(rule, _core.RuleValue):
        raise ParameterTypeError(f"a match or target belongs to a Rule, not to {type(rule).__name__}")


def _payload_key(extension: Match | Target) -> tuple[bytes, bytes]:
    """(name, revision and content): without what stands behind the name, and without the kernel's own bytes."""
    payload = extension._packed_or_bytes()
    return payload[2:31].partition(b"\0")[0], payload[31 : extension.usersize]


def _says_the_same(one: Match | Target, other: Match | Target) -> bool:
    """Whether two payloads are the same; a few plugins leave in unused bytes what their parameters do not show."""
    mine, theirs = _payload_key(one), _payload_key(other)
    if mine == theirs:
        return True
    if mine[0] != theirs[0] or one.revision != other.revision or one.opaque or other.opaque:
        return False
    parameters = one.get_all_parameters()
    return bool(parameters) and parameters == other.get_all_parameters()


def _shown(extension: Match | Target) -> Any:
    """What `repr` says of an extension: its parameters, or its bytes where no plugin here reads them."""
    if not extension.opaque:
        return extension.parameters
    # behind the size, the name and the revision
    content = extension._bytes()[32:]
    return (
        f"revision {extension.revision}, {len(content)} bytes {content[:16].hex()}{'...' if len(content) > 16 else ''}"
    )


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise ParameterTypeError(f"the name of a match or target must be a string, not {type(name).__name__}")
    return name


def _payload(buffer: Any) -> bytes:
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

    *entry* is a whole entry as bytes (`struct ipt_entry` or `ip6t_entry` with matches and target, a chain by its
    name), *chain* the chain it belongs to. Compared and hashed by what it says: not by counters, nor by the order of
    its matches, which counts where a chain looks for a rule. It may be changed, so do not change it while it is a key.
    """

    _target: Target | None
    _nfproto = _core.IPV4
    protocols = PROTOCOL_NAMES

    if TYPE_CHECKING:

        @classmethod
        def from_args(cls, specification: str | Iterable[str]) -> Self:
            """Return the rule of a specification, as `read_rule` reads it."""

    else:
        # compiled as it is: no step of Python's between
        from_args = classmethod(read_rule)

    def to_args(self) -> list[str]:
        """Return the words of `str(rule)`, as a list."""
        words = split_words(_core.text_bytes(str(self), "a rule"))
        return [word.decode("utf-8", "surrogateescape") for word, _ in words]

    def expand(self) -> list[Rule]:
        """Return the rules that this one stands for: itself, or one for each pair of a source and a destination.

        `-s 10.0.0.1,10.0.0.2` is short for two rules, which a chain takes in this order (`iptables -A`).
        """
        if self._networks is None:
            return [self]
        sources, destinations = self._networks
        return [self._with_networks(source, destination) for source in sources for destination in destinations]

    def _with_networks(self, source: tuple[bytes, bytes], destination: tuple[bytes, bytes]) -> Rule:
        """A copy with these addresses, (address, mask) as bytes."""
        make, arguments = self.__reduce__()
        rule: Rule = make(*arguments)
        rule._set_network(0, *source)
        rule._set_network(1, *destination)
        return rule

    # protocol and fragment

    @property
    def protocol(self) -> str:
        """Protocol by lower-case name, or by number where it has no common one; a leading `!` negates."""
        number, negated = self._get_proto()
        return ("!" if negated else "") + PROTOCOL_NAMES.get(number, str(number))

    @protocol.setter
    def protocol(self, value: str | int) -> None:
        if value in PROTOCOL_NUMBERS:
            self._set_proto(PROTOCOL_NUMBERS[value], False)
            return
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise ParameterTypeError(f"a protocol must be a string or an integer, not {type(value).__name__}")
        text = str(value).lower()
        negated = text.startswith("!")
        if negated:
            text = text[1:].lstrip(" ")
        number = PROTOCOL_NUMBERS.get(text)
        if number is None:
            try:
                number = plugins.parse_protocol(text) if text and not text.startswith("-") else -1
            except ParameterError:
                number = -1
        if not 0 <= number <= 255 or (text.isdigit() and int(text) > 255):
            raise ParameterError(f"invalid protocol {value}")
        if negated and number == 0:
            raise ParameterError("rule would never match protocol")
        self._set_proto(number, negated)

    @property
    def fragment(self) -> bool | str:
        """`-f`: True for second and further fragments, "!" for `! -f`, False for not given. IPv4 only."""
        given, negated = self._get_fragment()
        return "!" if given and negated else given

    @fragment.setter
    def fragment(self, value: bool | str | None) -> None:
        self._set_fragment(bool(value), isinstance(value, str) and value.startswith("!"))

    # matches and target

    def _decode(self) -> list[Match]:
        """Make Match and Target objects of the bytes that were read, when they are first asked for; return the
        matches."""
        read_payloads(Match, Target, self)
        matches: list[Match] = self._matches
        return matches

    @property
    def matches(self) -> list[Match]:
        """The matches, in their order: a new list of the rule's own objects."""
        matches: list[Match] = self._decode() if self._matches is None else self._matches
        return matches[:]

    @property
    def target(self) -> Target | None:
        """The target; None on a rule that was not given one."""
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

    def create_match(self, name: str, revision: int | None = None) -> Match:
        """Add a match of extension *name* (`-m`) and return it."""
        if self._matches is None:
            self._decode()
        if type(name) is not str:
            name = _checked_name(name)
        return new_match(Match, self, name, revision)

    def create_target(self, name: str, revision: int | None = None, goto: bool = False) -> Target:
        """Set the target to *name* (`-j`, or `-g` with *goto*) and return it."""
        if name in _VERDICTS and not goto:
            target = new_verdict(Target, self, _VERDICTS[name])
        else:
            target = Target(self, name, None, revision, goto)
        if self._matches is None:
            self._decode()
        self._target = target
        return target

    def add_match(self, match: Match) -> None:
        """Add *match* behind the others."""
        if not isinstance(match, Match):
            raise ParameterTypeError(f"a match must be a Match, not {type(match).__name__}")
        matches = self._decode() if self._matches is None else self._matches
        match.rule = self
        matches.append(match)

    def remove_match(self, match: Match) -> None:
        """Remove *match*; `ValueError` if the rule has none like it."""
        matches = self._decode() if self._matches is None else self._matches
        matches.remove(match)

    def final_check(self) -> None:
        """Raise `ParameterError` where a match or the target lacks something, as `iptables` would."""
        if self._matches is None:
            return
        for match in self._matches:
            match.final_check()
        if self._target is not None:
            self._target.final_check()

    # the whole

    def _entry(self) -> bytes | None:
        """The whole entry as bytes, or None without a target."""
        return pack(self, True)

    @property
    def rule(self) -> bytes | None:
        """The whole entry as bytes, as libiptc takes it (a chain by its name), or None without a target."""
        return self._entry()

    @property
    def mask(self) -> bytes | None:
        """Bytes as long as `rule`, 0xff where they say something about it: what `iptables -D` compares."""
        entry = self._entry()
        if entry is None:
            return None
        header, payloads = _core.split_entry(self.nfproto, entry)
        parts: list[Any] = [*self.matches, self.target]
        mask = b"\xff" * (len(entry) - sum(map(len, payloads)))
        for part, payload in zip(parts, payloads):
            mask += b"\xff" * part.usersize + bytes(len(payload) - part.usersize)
        return mask

    @property
    def entry(self) -> bytes:
        """The base part as bytes (`struct ipt_entry` or `ip6t_entry`)."""
        return self._header_bytes()

    def _whole(self) -> bytes:
        """The entry as it is now; a rule without a target gets one that says nothing."""
        entry = pack(self, False)
        if entry is None:
            entry = self._assemble([match._packed_or_bytes() for match in self._matches] + [_VERDICTS[""]])
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

    def __repr__(self) -> str:
        return f"<iptc.{type(self).__name__} {self}>"

    def __reduce__(self) -> tuple[Any, ...]:
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

    # the accessors of python-iptables

    @property
    def tables(self) -> list[Table]:
        """The tables of the rule's family that can be opened here."""
        # tables stand above rules, and are asked for by their public name
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
        """The base part: this rule itself."""
        return self


def _restore_rule(
    cls: Any,
    entry: bytes,
    matches: Any,
    target: Any,
    counters: tuple[int, int],
    networks: Any = None,
) -> Rule:
    rule: Rule = cls(entry)
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
    """One IPv6 rule; the same as `Rule` but for its addresses, and without `fragment` (use `-m frag`)."""

    _nfproto = _core.IPV6

    @property
    def fragment(self) -> bool | str:
        """Not in IPv6."""
        raise ParameterError("`-f' is not supported in IPv6, use -m frag instead")

    @fragment.setter
    def fragment(self, value: bool | str | None) -> None:
        raise ParameterError("`-f' is not supported in IPv6, use -m frag instead")

    def _create_mask(self, bits: int) -> list[int]:
        """Return *bits* ones as the mask of an IPv6 address: 16 integers."""
        if not 0 <= bits <= 128:
            raise ParameterError(f"invalid prefix length {bits}")
        return list(((1 << 128) - (1 << (128 - bits))).to_bytes(16, "big"))
