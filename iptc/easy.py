"""Functions in which tables and chains are names and rules are dicts.

A rule: keys `src dst protocol in-interface out-interface fragment`, one key for each match, `target`, `counters`.
A match is {parameter: value}; adjacent ones of a kind are a list, a later one stands under `name#2`. A value is text,
"" for a flag, ["!", value] for a negation, a list for several words; integers are taken as text. `target` is a verdict,
a chain,
{extension: {parameter: value}} or {"goto": chain}. All take `ipv6`. What cannot be encoded raises.
"""

from __future__ import annotations

from collections.abc import Mapping

from ._applied import telling_functions
from .chain import Chain
from .errors import IPTCError, KernelError, Missing, ParameterError, ParameterTypeError, is_absent
from .rule import Match, Rule, Rule6, Target
from .table import Table, Table6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    from ._core import Counters
    from ._types import RuleDict

    _Result = TypeVar("_Result")

_BASE = {
    "src": "src",
    "dst": "dst",
    "protocol": "protocol",
    "in-interface": "in_interface",
    "out-interface": "out_interface",
    "fragment": "fragment",
}
_OPAQUE = "opaque"
"""Parameter under which the bytes of an extension without a plugin are kept, in hexadecimal."""


# ---------------------------------------------------------------- tables


def get_tables(ipv6: bool = False) -> list[str]:
    """Return the names of the tables that there are or can be made here; raises where one may not or cannot be read."""
    return [name for name in Table.ALL if _is_there(name, ipv6)]


def flush_all(ipv6: bool = False) -> None:
    """Empty every table and delete its user chains; raises as `get_tables` does, before anything is changed."""
    for table in get_tables(ipv6):
        flush_table(table, ipv6)


def flush_table(table: str, ipv6: bool = False, raise_exc: bool = True) -> None:
    """Empty *table* and delete its user chains."""
    _quietly(raise_exc, lambda: _table(table, ipv6).flush())


def zero_all(table: str | None = None, ipv6: bool = False) -> None:
    """Zero the counters of every table; *table* is there for python-iptables' sake, and is not looked at."""
    for name in get_tables(ipv6):
        zero_table(name, ipv6)


def zero_table(table: str, ipv6: bool = False) -> None:
    """Zero the counters of all chains of *table*."""
    with _table(table, ipv6)._together() as found:
        for chain in found.chains:
            chain.zero_counters()


def dump_all(ipv6: bool = False) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return {table: {chain: [rule]}}."""
    return {table: dump_table(table, ipv6) for table in get_tables(ipv6)}


def dump_table(table: str, ipv6: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Return {chain: [rule]}."""
    return {chain.name: [decode_iptc_rule(rule) for rule in chain.rules] for chain in _table(table, ipv6).chains}


# ---------------------------------------------------------------- chains


def get_chains(table: str, ipv6: bool = False) -> list[str]:
    """Return the names of the chains of *table*."""
    return [chain.name for chain in _table(table, ipv6).chains]


def has_chain(table: str, chain: str, ipv6: bool = False) -> bool:
    """Whether *table* has *chain*."""
    return _table(table, ipv6).is_chain(chain)


def add_chain(table: str, chain: str, ipv6: bool = False, raise_exc: bool = True) -> bool:
    """Create *chain*; True if that was done."""
    return _quietly(raise_exc, lambda: bool(_table(table, ipv6).create_chain(chain))) or False


def delete_chain(table: str, chain: str, ipv6: bool = False, flush: bool = False, raise_exc: bool = True) -> None:
    """Delete *chain*, with *flush* its rules first, both at once."""

    def delete() -> None:
        found = _table(table, ipv6)
        if not flush:
            found.delete_chain(chain)
            return
        with found._together():
            _chain(found, chain).flush()
            found.delete_chain(chain)

    _quietly(raise_exc, delete)


def flush_chain(table: str, chain: str, ipv6: bool = False, raise_exc: bool = True) -> None:
    """Delete all rules of *chain*."""
    _quietly(raise_exc, lambda: _find_chain(table, chain, ipv6).flush())


def zero_chain(table: str, chain: str, ipv6: bool = False) -> None:
    """Zero the counters of *chain*."""
    _find_chain(table, chain, ipv6).zero_counters()


def dump_chain(table: str, chain: str, ipv6: bool = False) -> list[dict[str, Any]]:
    """Return the rules of *chain*, a dict each."""
    return [decode_iptc_rule(rule) for rule in _find_chain(table, chain, ipv6).rules]


def get_policy(table: str, chain: str, ipv6: bool = False) -> str | None:
    """Return the name of the policy of *chain*, or None for a user chain."""
    policy = _find_chain(table, chain, ipv6).get_policy()
    return None if policy is None else policy.name


def set_policy(table: str, chain: str, policy: str = "ACCEPT", ipv6: bool = False) -> bool:
    """Set the policy of *chain*; return whether it was another."""
    return _find_chain(table, chain, ipv6).set_policy(policy)


# ----------------------------------------------------------------- rules


def has_rule(table: str, chain: str, rule_d: RuleDict, ipv6: bool = False) -> bool:
    """Whether *chain* has the rule *rule_d*, its matches in the same order (`iptables -C`)."""
    return _find_chain(table, chain, ipv6).has_rule(encode_iptc_rule(rule_d, ipv6))


def add_rule(table: str, chain: str, rule_d: RuleDict, position: int = 0, ipv6: bool = False) -> None:
    """Add a rule: *position* 0 is the end, 1 the beginning, n before the n-th, -1 before the last.

    A position that the chain does not have is the end of it, or the beginning where it is negative.
    """
    _add(_find_chain(table, chain, ipv6), encode_iptc_rule(rule_d, ipv6), position)


def insert_rule(table: str, chain: str, rule_d: RuleDict, ipv6: bool = False) -> None:
    """Add a rule at the beginning."""
    add_rule(table, chain, rule_d, position=1, ipv6=ipv6)


def _add(chain: Chain, rule: Rule, position: int) -> None:
    if not isinstance(position, int):
        raise ParameterTypeError(f"a position must be an integer, not {type(position).__name__}")
    if position == 0:
        chain.append_rule(rule)
        return
    count = len(chain.rules) if position != 1 else 0
    place = position - 1 if position > 0 else max(0, position + count)
    if place and place >= count:
        chain.append_rule(rule)
    else:
        chain.insert_rule(rule, place)


def delete_rule(table: str, chain: str, rule_d: RuleDict, ipv6: bool = False, raise_exc: bool = True) -> None:
    """Delete the first rule that is the same as *rule_d*."""
    _quietly(raise_exc, lambda: _find_chain(table, chain, ipv6).delete_rule(encode_iptc_rule(rule_d, ipv6)))


def get_rule(
    table: str,
    chain: str,
    position: int = 0,
    ipv6: bool = False,
    raise_exc: bool = True,
) -> Any:
    """Return all rules for *position* 0, else the n-th from 1, or from the end for a negative one."""
    if position == 0:
        return _quietly(raise_exc, lambda: dump_chain(table, chain, ipv6))

    def one() -> Any:
        rules = _find_chain(table, chain, ipv6).rules
        return decode_iptc_rule(rules[position - 1 if position > 0 else position])

    return _quietly(raise_exc, one)


def replace_rule(table: str, chain: str, old_rule_d: RuleDict, new_rule_d: RuleDict, ipv6: bool = False) -> None:
    """Put a rule in the place of the first that is the same as *old_rule_d*."""
    new = encode_iptc_rule(new_rule_d, ipv6)
    found = _find_chain(table, chain, ipv6)
    found.replace_rule(new, _index(found, old_rule_d, ipv6)[0])


def get_rule_counters(table: str, chain: str, rule_d: RuleDict, ipv6: bool = False) -> Counters:
    """Return (packets, bytes) of the first rule that is the same as *rule_d*."""
    return _index(_find_chain(table, chain, ipv6), rule_d, ipv6)[1].get_counters()


def get_rule_position(table: str, chain: str, rule_d: RuleDict, ipv6: bool = False) -> int:
    """Return the position, from 0, of the first rule that is the same as *rule_d*."""
    return _index(_find_chain(table, chain, ipv6), rule_d, ipv6)[0]


def _index(chain: Chain, rule_d: RuleDict, ipv6: bool) -> tuple[int, Rule]:
    found = chain._find_rule(encode_iptc_rule(rule_d, ipv6))
    if found is None:
        raise Missing(f"Chain <{chain.name}@{chain.table.name}> has no rule <{rule_d}>")
    return found


def test_rule(rule_d: RuleDict, ipv6: bool = False) -> bool:
    """Whether *rule_d* makes a rule."""
    return _holds(lambda: encode_iptc_rule(rule_d, ipv6).final_check())


def test_match(name: str, value: Any, ipv6: bool = False) -> bool:
    """Whether match *name* takes *value*."""
    return _holds(lambda: _set_match(_new_rule(ipv6), name, value))


def test_target(name: str, value: Any, ipv6: bool = False) -> bool:
    """Whether target *name* takes *value*."""
    return _holds(lambda: _set_target(_new_rule(ipv6), {name: value}))


def _holds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except KernelError:
        raise  # says nothing of the rule
    except (IPTCError, TypeError):
        return False
    return True


# ----------------------------------------------------------------- batches


def batch_begin(table: str | None = None, ipv6: bool = False) -> None:
    """Gather the changes of *table* (or of all tables) until `batch_end`."""
    for name in [table] if table else get_tables(ipv6):
        _table(name, ipv6).autocommit = False


def batch_end(table: str | None = None, ipv6: bool = False) -> None:
    """Send what was gathered since `batch_begin`, one atomic commit for each table."""
    for name in [table] if table else get_tables(ipv6):
        found = _table(name, ipv6)
        found.autocommit = True
        found.commit()


def batch_add_chains(table: str, chains: Iterable[str], ipv6: bool = False, flush: bool = True) -> None:
    """Create those of *chains* that are not there, and with *flush* empty all, in one commit or not at all."""
    with _table(table, ipv6)._together() as found:
        for name in chains:
            chain = Chain(found, name) if found.is_chain(name) else found.create_chain(name)
            if flush:
                chain.flush()


def batch_delete_chains(table: str, chains: Iterable[str], ipv6: bool = False) -> None:
    """Empty and delete those of *chains* that are there, in one commit or not at all."""
    with _table(table, ipv6)._together() as found:
        present = [name for name in chains if found.is_chain(name)]
        for name in present:
            found.flush_entries(name)
        for name in present:
            found.delete_chain(name)


def batch_add_rules(table: str, batch_rules: Iterable[tuple[str, RuleDict, int]], ipv6: bool = False) -> None:
    """Add the rules (chain, rule_d, position), in one commit or not at all."""
    with _table(table, ipv6)._together() as found:
        for name, rule_d, position in batch_rules:
            _add(_chain(found, name), encode_iptc_rule(rule_d, ipv6), position)


def batch_delete_rules(
    table: str,
    batch_rules: Iterable[tuple[str, RuleDict]],
    ipv6: bool = False,
    raise_exc: bool = True,
) -> None:
    """Delete the rules (chain, rule_d), in one commit or not at all."""

    def delete() -> None:
        with _table(table, ipv6)._together() as found:
            for name, rule_d in batch_rules:
                _chain(found, name).delete_rule(encode_iptc_rule(rule_d, ipv6))

    _quietly(raise_exc, delete)


# ------------------------------------------------------- dict and rule


def encode_iptc_rule(rule_d: RuleDict, ipv6: bool = False) -> Rule:
    """Return the `Rule` or `Rule6` of *rule_d*, which is not changed."""
    if not isinstance(rule_d, dict):
        raise ParameterTypeError(f"a rule must be a dict, not {type(rule_d).__name__}")
    rule = _new_rule(ipv6)
    # matches may look at the base part: that one first
    for key, attribute in _BASE.items():
        if key in rule_d:
            _set_base(rule, key, attribute, rule_d[key])
    for key, value in rule_d.items():
        name = key.partition("#")[0] if isinstance(key, str) else key
        if key == "counters":
            if value is not None:
                rule.counters = _counters(value)
        elif key in _BASE:
            # the match `dst` of IPv6 has the name of an address
            for item in _alternatives(value):
                if isinstance(item, dict):
                    _set_match(rule, name, item)
        elif key != "target":
            _set_match(rule, name, value)
    _set_target(rule, rule_d.get("target", ""))
    return rule


def _counters(value: Any) -> Any:
    """(packets, bytes) of a pair, or of a dict with these keys."""
    if not isinstance(value, Mapping):
        return value
    if not value or not set(value) <= {"packets", "bytes"}:
        raise ParameterError(f"counters have packets and bytes, not {value!r}")
    return value.get("packets", 0), value.get("bytes", 0)


def _set_base(rule: Rule, key: str, attribute: str, value: Any) -> None:
    """Set one attribute of the base part, which has one value; the dicts beside it are matches of that name."""
    values = [item for item in _alternatives(value) if not isinstance(item, dict)]
    if len(values) > 1 or value is None or value in ([], ()):
        raise ParameterTypeError(f"{key} must have one value, not {value!r}")
    for item in values:
        setattr(rule, attribute, item)


def decode_iptc_rule(iptc_rule: Rule, ipv6: bool = False) -> dict[str, Any]:
    """Return the dict of *iptc_rule*; its family is the rule's own, whatever *ipv6* says."""
    rule = iptc_rule
    v4 = isinstance(rule, Rule) and not isinstance(rule, Rule6)
    decoded = {}
    for which, key in enumerate(("src", "dst")):
        if not rule._address_is_any(which):
            decoded[key] = _cidr(rule, which, getattr(rule, key)) if v4 else getattr(rule, key)
    if rule.protocol != "ip":
        decoded["protocol"] = rule.protocol
    if rule.in_interface is not None:
        decoded["in-interface"] = rule.in_interface
    if rule.out_interface is not None:
        decoded["out-interface"] = rule.out_interface
    if v4 and rule.fragment:
        decoded["fragment"] = rule.fragment
    last = None
    for match in rule.matches:
        last = _put_match(decoded, match.name, _parameters(match), last)
    target = rule.target
    if target is not None and target.name:
        parameters = _parameters(target)
        if target.goto:
            decoded["target"] = {"goto": target.name}
        elif parameters:
            decoded["target"] = {target.name: parameters}
        else:
            decoded["target"] = target.name
    decoded["counters"] = tuple(rule.counters)
    return decoded


def _cidr(rule: Rule, which: int, text: str) -> str:
    """`a/mask` as `a/prefix`; a mask with holes stays."""
    prefix = rule._address_prefix(which)
    return text if prefix is None else f"{text.partition('/')[0]}/{prefix}"


def _parameters(extension: Match | Target) -> dict[str, Any]:
    if extension.opaque:
        return {_OPAQUE: extension._bytes().hex()}
    return {name: _shortest(extension, name, words) for name, words in extension.get_all_parameters().items()}


def _shortest(extension: Match | Target, name: str, words: list[str]) -> str | list[str]:
    """[] -> "", ["x"] -> "x"; a list stays where text would be read as a negation."""
    if not words:
        return ""
    if len(words) > 1 or extension._looks_negated(name, words):
        return words
    return words[0]


def _put_match(decoded: dict[str, Any], name: str, parameters: Mapping[str, Any], last: str | None) -> str:
    """Add one match to *decoded* and return its key; *last* is the key of the match before it."""
    if name in _BASE:
        # beside the address of that name
        decoded[name] = [*_alternatives(decoded.get(name)), parameters]
        if len(decoded[name]) == 1:
            decoded[name] = parameters
        return name
    if last is not None and last.partition("#")[0] == name:
        before = decoded[last]
        decoded[last] = [*before, parameters] if isinstance(before, list) else [before, parameters]
        return last
    key, number = name, 1
    while key in decoded:
        number += 1
        key = f"{name}#{number}"
    decoded[key] = parameters
    return key


def _alternatives(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _set_match(rule: Rule, name: str, value: Any) -> None:
    if isinstance(value, (list, tuple)):
        if not value:
            raise ParameterError(f"match {name}: an empty list says nothing")
        for item in value:
            _set_match(rule, name, item)
    elif isinstance(value, dict):
        if set(value) == {_OPAQUE}:
            rule.add_match(Match(rule, match=_opaque(value)))
            return
        _set_parameters(rule.create_match(name), value)
    else:
        _set_parameters(rule.create_match(name), {name: value})


def _set_target(rule: Rule, value: Any) -> None:
    if not isinstance(value, dict):
        rule.create_target(value)
        return
    if len(value) != 1:
        raise ParameterError(f"a target must have one name, not {len(value)}: {value!r}")
    ((name, parameters),) = value.items()
    if name == "goto":
        rule.create_target(parameters, goto=True)
    elif isinstance(parameters, dict) and set(parameters) == {_OPAQUE}:
        rule.target = Target(rule, target=_opaque(parameters))
    elif isinstance(parameters, dict):
        _set_parameters(rule.create_target(name), parameters)
    else:
        raise ParameterTypeError(f"the parameters of target {name} must be a dict, not {type(parameters).__name__}")


def _opaque(parameters: Mapping[str, Any]) -> bytes:
    try:
        return bytes.fromhex(parameters[_OPAQUE])
    except (TypeError, ValueError) as error:
        raise ParameterError(f"not the bytes of an extension: {parameters[_OPAQUE]!r}") from error


def _set_parameters(extension: Match | Target, parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if not isinstance(name, str):
            raise ParameterTypeError(f"the name of a parameter must be a string, not {type(name).__name__}")
        if isinstance(value, (list, tuple)):
            value = [_as_text(name, word) for word in value]
        elif value is not None:
            value = _as_text(name, value)
        extension.set_parameter(name, value)
    kept = extension._state()[-1]
    if kept is not None and len(kept) < len(parameters):
        # set one after the other, the later takes the place of the earlier
        raise ParameterError(f"{extension.name}: of {', '.join(parameters)} some exclude each other")


def _as_text(name: str, value: Any) -> str:
    if value is True:
        return ""
    if isinstance(value, int) and value is not False:
        return str(value)
    if not isinstance(value, str):
        raise ParameterTypeError(f"parameter {name} must be text or an integer, not {value!r}")
    return value


# ----------------------------------------------------------------- helpers


def _new_rule(ipv6: bool) -> Rule:
    return Rule6() if ipv6 else Rule()


def _table(name: str, ipv6: bool) -> Table:
    """The table as it is now; inside a batch, with what was gathered."""
    table = (Table6 if ipv6 else Table)(name)
    if table.autocommit:
        table._renew()
    return table


def _is_there(name: str, ipv6: bool) -> bool:
    try:
        _table(name, ipv6)
    except KernelError as error:
        if is_absent(error):
            return False
        raise
    return True


def _chain(table: Table, name: str) -> Chain:
    if not table.is_chain(name):
        raise Missing(f"Table <{table.name}> has no chain <{name}>")
    return Chain(table, name)


def _find_chain(table: str, name: str, ipv6: bool) -> Chain:
    return _chain(_table(table, ipv6), name)


def _quietly(raise_exc: bool, action: Callable[[], _Result]) -> _Result | None:
    """Do *action*; with *raise_exc* false a failure returns None instead."""
    try:
        return action()
    except (IPTCError, LookupError, TypeError):
        if raise_exc:
            raise
        return None


telling_functions(globals())
