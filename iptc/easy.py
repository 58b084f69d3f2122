"""Functions in which tables and chains are names, and rules are dicts.

A rule is a dict with the keys `src`, `dst`, `protocol`, `in-interface`, `out-interface`, `fragment`, `target`,
`counters`, and one key for each match:

    {"protocol": "tcp", "tcp": {"dport": "22"}, "target": "ACCEPT", "counters": (0, 0)}

The value of a match is {option: value}. Adjacent matches of the same name are a list of such dicts; a later match of
that name has the key `name#2`. The value of an option is text, "" for a flag, ["!", value] for a negation, or a list of
several words; an integer is taken as text. `target` is a verdict, a chain, {extension: {option: value}} or
{"goto": chain}.

*ipv6* selects the family in every function. With `raise_exc=False` a function returns None (or False) where it would
raise. A dict of which no rule can be made raises `ParameterError`, a chain or rule that does not exist `Missing`.
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
"""The option under which the bytes of an extension without a plugin are kept, in hexadecimal."""


# ---------------------------------------------------------------- tables


def get_tables(ipv6: bool = False) -> list[str]:
    """Return the names of the tables that the kernel has or can load. Raises `KernelError` if one cannot be read."""
    return [name for name in Table.ALL if _is_there(name, ipv6)]


def flush_all(ipv6: bool = False) -> None:
    """Delete all rules and user chains of all tables. If a table cannot be read, raises before anything is changed."""
    for table in get_tables(ipv6):
        flush_table(table, ipv6)


def flush_table(table: str, ipv6: bool = False, raise_exc: bool = True) -> None:
    """Delete all rules of *table* (`iptables -F`) and then its user chains (`iptables -X`). Policies stay."""
    _quietly(raise_exc, lambda: _table(table, ipv6).flush())


def zero_all(table: str | None = None, ipv6: bool = False) -> None:
    """Set the counters of all tables to zero (`iptables -Z`). *table* is ignored, as in python-iptables."""
    for name in get_tables(ipv6):
        zero_table(name, ipv6)


def zero_table(table: str, ipv6: bool = False) -> None:
    """Set the counters of all chains of *table* to zero (`iptables -Z`)."""
    with _table(table, ipv6)._together() as found:
        for chain in found.chains:
            chain.zero_counters()


def dump_all(ipv6: bool = False) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return {table: {chain: [rule]}} for all tables; each rule is a dict."""
    return {table: dump_table(table, ipv6) for table in get_tables(ipv6)}


def dump_table(table: str, ipv6: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Return {chain: [rule]} for the chains of *table*; each rule is a dict."""
    return {chain.name: [decode_iptc_rule(rule) for rule in chain.rules] for chain in _table(table, ipv6).chains}


# ---------------------------------------------------------------- chains


def get_chains(table: str, ipv6: bool = False) -> list[str]:
    """Return the names of the chains of *table*: builtin chains in the order of their hooks, then the user chains."""
    return [chain.name for chain in _table(table, ipv6).chains]


def has_chain(table: str, chain: str, ipv6: bool = False) -> bool:
    """Whether *table* has *chain*."""
    return _table(table, ipv6).is_chain(chain)


def add_chain(table: str, chain: str, ipv6: bool = False, raise_exc: bool = True) -> bool:
    """Create user chain *chain* (`iptables -N`). Return whether it was created."""
    return _quietly(raise_exc, lambda: bool(_table(table, ipv6).create_chain(chain))) or False


def delete_chain(table: str, chain: str, ipv6: bool = False, flush: bool = False, raise_exc: bool = True) -> None:
    """Delete user chain *chain* (`iptables -X`). With *flush*, its rules are deleted in the same commit."""

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
    """Delete all rules of *chain* (`iptables -F CHAIN`)."""
    _quietly(raise_exc, lambda: _find_chain(table, chain, ipv6).flush())


def zero_chain(table: str, chain: str, ipv6: bool = False) -> None:
    """Set the counters of *chain* and its rules to zero (`iptables -Z CHAIN`)."""
    _find_chain(table, chain, ipv6).zero_counters()


def dump_chain(table: str, chain: str, ipv6: bool = False) -> list[dict[str, Any]]:
    """Return the rules of *chain*, as a list of dicts."""
    return [decode_iptc_rule(rule) for rule in _find_chain(table, chain, ipv6).rules]


def get_policy(table: str, chain: str, ipv6: bool = False) -> str | None:
    """Return the name of the policy of *chain*, or None for a user chain."""
    policy = _find_chain(table, chain, ipv6).get_policy()
    return None if policy is None else policy.name


def set_policy(table: str, chain: str, policy: str = "ACCEPT", ipv6: bool = False) -> bool:
    """Set the policy of *chain* (`iptables -P`). Return whether it was a different one before."""
    return _find_chain(table, chain, ipv6).set_policy(policy)


# ----------------------------------------------------------------- rules


def has_rule(table: str, chain: str, rule_d: RuleDict, ipv6: bool = False) -> bool:
    """Whether *chain* has the rule *rule_d*, with its matches in the same order (`iptables -C`)."""
    return _find_chain(table, chain, ipv6).has_rule(encode_iptc_rule(rule_d, ipv6))


def add_rule(table: str, chain: str, rule_d: RuleDict, position: int = 0, ipv6: bool = False) -> None:
    """Add a rule to *chain*. *position* 0 appends it, 1 makes it the first, n the n-th; -1 puts it before the last one.

    A position behind the end appends the rule. A negative one before the beginning makes it the first.
    """
    _add(_find_chain(table, chain, ipv6), encode_iptc_rule(rule_d, ipv6), position)


def insert_rule(table: str, chain: str, rule_d: RuleDict, ipv6: bool = False) -> None:
    """Add a rule at the beginning of *chain* (`iptables -I`)."""
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
    """Delete the first rule of *chain* that is the same as *rule_d* (`iptables -D`)."""
    _quietly(raise_exc, lambda: _find_chain(table, chain, ipv6).delete_rule(encode_iptc_rule(rule_d, ipv6)))


def get_rule(
    table: str,
    chain: str,
    position: int = 0,
    ipv6: bool = False,
    raise_exc: bool = True,
) -> Any:
    """Return the list of all rules if *position* is 0, and otherwise one rule.

    1 is the first rule, -1 the last one.
    """
    if position == 0:
        return _quietly(raise_exc, lambda: dump_chain(table, chain, ipv6))

    def one() -> Any:
        rules = _find_chain(table, chain, ipv6).rules
        return decode_iptc_rule(rules[position - 1 if position > 0 else position])

    return _quietly(raise_exc, one)


def replace_rule(table: str, chain: str, old_rule_d: RuleDict, new_rule_d: RuleDict, ipv6: bool = False) -> None:
    """Replace the first rule that is the same as *old_rule_d* by *new_rule_d* (`iptables -R`)."""
    new = encode_iptc_rule(new_rule_d, ipv6)
    found = _find_chain(table, chain, ipv6)
    found.replace_rule(new, _index(found, old_rule_d, ipv6)[0])


def get_rule_counters(table: str, chain: str, rule_d: RuleDict, ipv6: bool = False) -> Counters:
    """Return the `Counters` (packets, bytes) of the first rule that is the same as *rule_d*."""
    return _index(_find_chain(table, chain, ipv6), rule_d, ipv6)[1].get_counters()


def get_rule_position(table: str, chain: str, rule_d: RuleDict, ipv6: bool = False) -> int:
    """Return the position of the first rule that is the same as *rule_d*. It counts from 0."""
    return _index(_find_chain(table, chain, ipv6), rule_d, ipv6)[0]


def _index(chain: Chain, rule_d: RuleDict, ipv6: bool) -> tuple[int, Rule]:
    found = chain._find_rule(encode_iptc_rule(rule_d, ipv6))
    if found is None:
        raise Missing(f"Chain <{chain.name}@{chain.table.name}> has no rule <{rule_d}>")
    return found


def test_rule(rule_d: RuleDict, ipv6: bool = False) -> bool:
    """Whether a rule can be made of *rule_d*, with all options that its extensions require."""
    return _holds(lambda: encode_iptc_rule(rule_d, ipv6).final_check())


def test_match(name: str, value: object, ipv6: bool = False) -> bool:
    """Whether match *name* accepts *value*."""
    return _holds(lambda: _set_match(_new_rule(ipv6), name, value))


def test_target(name: str, value: object, ipv6: bool = False) -> bool:
    """Whether target *name* accepts *value*."""
    return _holds(lambda: _set_target(_new_rule(ipv6), {name: value}))


def _holds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except KernelError:
        raise  # the kernel or the process failed: the rule may be right
    except (IPTCError, TypeError):
        return False
    return True


# ----------------------------------------------------------------- batches


def batch_begin(table: str | None = None, ipv6: bool = False) -> None:
    """Collect the changes of *table*, or of all tables, until `batch_end`."""
    for name in [table] if table else get_tables(ipv6):
        _table(name, ipv6).autocommit = False


def batch_end(table: str | None = None, ipv6: bool = False) -> None:
    """Send the changes that were collected since `batch_begin`, in one commit for each table."""
    for name in [table] if table else get_tables(ipv6):
        found = _table(name, ipv6)
        found.autocommit = True
        found.commit()


def batch_add_chains(table: str, chains: Iterable[str], ipv6: bool = False, flush: bool = True) -> None:
    """Create those of *chains* that do not exist, and with *flush* delete the rules of all of them.

    All in one commit: everything is done, or nothing if this raises.
    """
    with _table(table, ipv6)._together() as found:
        for name in chains:
            chain = Chain(found, name) if found.is_chain(name) else found.create_chain(name)
            if flush:
                chain.flush()


def batch_delete_chains(table: str, chains: Iterable[str], ipv6: bool = False) -> None:
    """Delete those of *chains* that exist, with their rules. All in one commit: all are deleted, or none."""
    with _table(table, ipv6)._together() as found:
        present = [name for name in chains if found.is_chain(name)]
        for name in present:
            found.flush_entries(name)
        for name in present:
            found.delete_chain(name)


def batch_add_rules(table: str, batch_rules: Iterable[tuple[str, RuleDict, int]], ipv6: bool = False) -> None:
    """Add rules, given as (chain, rule_d, position) as for `add_rule`. All in one commit: all are added, or none."""
    with _table(table, ipv6)._together() as found:
        for name, rule_d, position in batch_rules:
            _add(_chain(found, name), encode_iptc_rule(rule_d, ipv6), position)


def batch_delete_rules(
    table: str,
    batch_rules: Iterable[tuple[str, RuleDict]],
    ipv6: bool = False,
    raise_exc: bool = True,
) -> None:
    """Delete rules, given as (chain, rule_d). All in one commit: all are deleted, or none."""

    def delete() -> None:
        with _table(table, ipv6)._together() as found:
            for name, rule_d in batch_rules:
                _chain(found, name).delete_rule(encode_iptc_rule(rule_d, ipv6))

    _quietly(raise_exc, delete)


# ------------------------------------------------------- dict and rule


def encode_iptc_rule(rule_d: RuleDict, ipv6: bool = False) -> Rule:
    """Return the `Rule` or `Rule6` that *rule_d* describes. *rule_d* is not changed."""
    if not isinstance(rule_d, dict):
        raise ParameterTypeError(f"a rule must be a dict, not {type(rule_d).__name__}")
    rule = _new_rule(ipv6)
    # first the base part: an extension may look at it when its options are read
    for key, attribute in _BASE.items():
        if key in rule_d:
            _set_base(rule, key, attribute, rule_d[key])
    for key, value in rule_d.items():
        name = key.partition("#")[0] if isinstance(key, str) else key
        if key == "counters":
            if value is not None:
                rule.counters = _counters(value)
        elif key in _BASE:
            # `dst` is also a match of IPv6: dicts under this key are that match, text is the address
            for item in _alternatives(value):
                if isinstance(item, dict):
                    _set_match(rule, name, item)
        elif key != "target":
            _set_match(rule, name, value)
    _set_target(rule, rule_d.get("target", ""))
    return rule


def _counters(value: Any) -> Any:
    """Return (packets, bytes), given as a pair or as a dict with these keys."""
    if not isinstance(value, Mapping):
        return value
    if not value or not set(value) <= {"packets", "bytes"}:
        raise ParameterError(f"counters have packets and bytes, not {value!r}")
    return value.get("packets", 0), value.get("bytes", 0)


def _set_base(rule: Rule, key: str, attribute: str, value: object) -> None:
    """Set an attribute of the base part. It must have one value. Dicts beside that value are left to `_set_match`."""
    values = [item for item in _alternatives(value) if not isinstance(item, dict)]
    if len(values) > 1 or value is None or value in ([], ()):
        raise ParameterTypeError(f"{key} must have one value, not {value!r}")
    for item in values:
        setattr(rule, attribute, item)


def decode_iptc_rule(iptc_rule: Rule, ipv6: bool = False) -> dict[str, Any]:
    """Return the dict that describes *iptc_rule*. *ipv6* is ignored: the rule knows its family."""
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
    """Return the address *text* with its mask as a prefix length. A mask with holes stays as it is."""
    prefix = rule._address_prefix(which)
    return text if prefix is None else f"{text.partition('/')[0]}/{prefix}"


def _parameters(extension: Match | Target) -> dict[str, Any]:
    if extension.opaque:
        return {_OPAQUE: extension._bytes().hex()}
    return {name: _shortest(extension, name, words) for name, words in extension.get_all_parameters().items()}


def _shortest(extension: Match | Target, name: str, words: list[str]) -> str | list[str]:
    """Return "" for no word and the word itself for one. A list stays if the word alone would be read as a negation."""
    if not words:
        return ""
    if len(words) > 1 or extension._looks_negated(name, words):
        return words
    return words[0]


def _put_match(decoded: dict[str, Any], name: str, parameters: Mapping[str, object], last: str | None) -> str:
    """Add a match to *decoded* and return its key. *last* is the key of the match before it."""
    if name in _BASE:
        # `dst` is also the key of an address: the match stands beside it
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


def _alternatives(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _set_match(rule: Rule, name: str, value: object) -> None:
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


def _set_parameters(extension: Match | Target, parameters: Mapping[str, object]) -> None:
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
        # an option that is set later replaces an earlier one that it excludes
        raise ParameterError(f"{extension.name}: of {', '.join(parameters)} some exclude each other")


def _as_text(name: str, value: object) -> str:
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
    """Return the table, read anew unless a batch is collecting changes."""
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
    """Return action(). If it fails and *raise_exc* is false, return None."""
    try:
        return action()
    except (IPTCError, LookupError, TypeError):
        if raise_exc:
            raise
        return None


telling_functions(globals())
