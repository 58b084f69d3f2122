"""Chain: one chain of an open table, as python-iptables documents it."""

from __future__ import annotations

import weakref

from . import _core
from ._applied import telling_methods
from .errors import ParameterError, ParameterTypeError
from .language import extension
from .language.specification import refuse_meaningless
from .model import edits
from .rule import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from iptc import Table

    from ._core import Counters
    from ._types import Pair
    from .rule import Policy


@telling_methods
class Chain:
    """One chain of a table; the same object as long as somebody holds it. Making it neither creates nor checks it."""

    table: Table
    name: str

    _cache: weakref.WeakValueDictionary[tuple[Table, str], Chain] = weakref.WeakValueDictionary()

    def __new__(cls, table: Table, name: str) -> Chain:
        if not isinstance(name, str):
            raise ParameterTypeError(f"a chain name must be a string, not {type(name).__name__}")
        if not hasattr(table, "_state"):
            raise ParameterTypeError(f"a chain is one of a Table, such as Table('filter'), not of {table!r}")
        key = (table, name)
        chain = Chain._cache.get(key)
        if chain is None:
            chain = object.__new__(cls)
            chain.table = table
            chain.name = name
            Chain._cache[key] = chain
        return chain

    def __getnewargs__(self) -> tuple[Table, str]:
        return self.table, self.name

    def __getstate__(self) -> None:
        return None

    def __repr__(self) -> str:
        return f"<iptc.Chain {self.name} of {self.table!r}>"

    @property
    def rules(self) -> list[Rule]:
        """The rules, in order, each an own copy: a new list; [] where there is no such chain."""
        chain = self.table._view().chains.get(self.name)
        if chain is None:
            return []
        return _core.load_rules(self.table._rule_class, self.table._nfproto, chain.entries, self)

    def _get_rules(self) -> list[Rule]:
        return self.rules

    def append_rule(self, rule: Rule) -> None:
        """Append *rule* (`iptables -A`)."""
        self._edit_each(rule, edits.Append)

    def insert_rule(self, rule: Rule, position: int = 0) -> None:
        """Insert *rule* before the one at *position*, which counts from 0 (`iptables -I`)."""
        position = checked_position(position)
        self._edit_each(rule, lambda name, entry: edits.Insert(name, entry, position))

    def replace_rule(self, rule: Rule, position: int = 0) -> None:
        """Put *rule* in the place of the one at *position*, which counts from 0 (`iptables -R`)."""
        position = checked_position(position)
        if len(self._entries(rule)) > 1:
            raise ParameterError("Replacement rule does not specify a unique address")
        self._edit_each(rule, lambda name, entry: edits.Replace(name, entry, position))

    def delete_rule(self, rule: Rule, missing_ok: bool = False) -> bool:
        """Delete the first rule that is the same as *rule*, the order of matches included (`iptables -D`), and return
        True.

        Where there is none: `NotFound`, or False with *missing_ok*.
        """
        nfproto = self.table._nfproto
        return self._edit_each(
            rule,
            lambda name, entry: edits.Delete(name, anchor=edits.first_like(nfproto, entry), missing_ok=missing_ok),
            adds=False,
        )

    def delete_rule_at(self, index: int) -> None:
        """Delete the rule at *index*, which counts from 0 (`iptables -D CHAIN NUMBER`).

        Where the table was read before, the rule that stood there is meant: `Conflict` if it is gone.
        """
        self.table._edit(edits.Delete(self.name, checked_position(index)))

    def delete_rules(self, predicate: Callable[[Rule], object] | None = None, comment: str | None = None) -> int:
        """Delete all rules with *comment*, or for which predicate(rule) is true, and return how many there were.

        Both given, both must hold. *predicate* is called under the xtables lock, perhaps more than once for a rule.
        """
        if not callable(predicate) and (predicate is not None or comment is None):
            raise ParameterTypeError("delete_rules takes a function of a rule, or comment=")
        if comment is not None and not isinstance(comment, str):
            raise ParameterTypeError(f"a comment must be a string, not {type(comment).__name__}")

        def chosen(entry: bytes) -> bool:
            rule = self.table.create_rule(entry, self)
            if comment is not None and not any(m.name == "comment" and m.comment == comment for m in rule.matches):
                return False
            return predicate is None or bool(predicate(rule))

        return int(self.table._edit(edits.DeleteRules(self.name, chosen)))

    def ensure_rule(self, rule: Rule, position: int | None = None) -> bool:
        """Append *rule*, or insert it at *position*, unless the chain has it already; return whether it was added.

        That is decided under the xtables lock, on the table as it is then: processes that ensure the same rule add it
        once.
        """
        position = None if position is None else checked_position(position)
        return self._edit_each(rule, lambda name, entry: edits.EnsureRule(name, entry, position))

    def has_rule(self, rule: Rule) -> bool:
        """Whether there is the same rule, the order of matches included (`iptables -C`), as the table was last read; so
        does `rule in chain`. At once, from the third question on."""
        entries = self._entries(rule)
        with self.table._state.lock:
            chain = self.table._view().chains.get(self.name)
            return chain is not None and all(chain.find(entry) is not None for entry in entries)

    __contains__ = has_rule

    def _find_rule(self, rule: Rule) -> tuple[int, Rule] | None:
        """(position, rule) of the first rule that is the same as *rule*, or None."""
        (entry,) = self._entries(rule)
        with self.table._state.lock:
            chain = self.table._view().chains.get(self.name)
            if chain is None:
                return None
            position = chain.find(entry)
            return None if position is None else (position, self.table.create_rule(chain.entry(position), self))

    def _entries(self, rule: Rule) -> list[Any]:
        """The bytes of *rule*, once it is whole and of this table's family: a list, of one entry for each pair of
        addresses."""
        if not isinstance(rule, Rule) or rule.nfproto != self.table._nfproto:
            raise ParameterTypeError(
                f"a rule of {self.table!r} must be a {self.table._rule_class.__name__}, not {type(rule).__name__}"
            )
        # nearly all rules have one address on a side, and building them is to be fast
        entries = (
            [extension.pack(rule, True)]
            if rule._networks is None
            else [extension.pack(one, True) for one in rule.expand()]
        )
        if entries[0] is None:
            raise ParameterError("invalid rule")
        return entries

    def _edit_each(self, rule: Rule, operation: Callable[[str, bytes], Any], adds: bool = True) -> bool:
        """Do operation(name of the chain, entry) for each entry of *rule*, together; whether any of them changed
        anything.

        *adds*: it puts them into this chain.
        """
        entries = self._entries(rule)
        for entry in entries if adds else ():
            refuse_meaningless(self.table._nfproto, self.name, entry)
        if len(entries) == 1:
            return bool(self.table._edit(operation(self.name, entries[0])))
        with self.table._together():
            changed = [self.table._edit(operation(self.name, entry)) for entry in entries]
            return any(changed)

    def flush(self) -> None:
        """Delete all rules (`iptables -F CHAIN`)."""
        self.table.flush_entries(self.name)

    def rename(self, new_name: str) -> None:
        """Give the chain another name (`iptables -E`); jumps to it follow."""
        self.table.rename_chain(self, new_name)

    def delete(self) -> None:
        """Delete the chain (`iptables -X CHAIN`); it must be empty and nothing may jump to it."""
        self.table.delete_chain(self.name)

    def zero_counters(self) -> None:
        """Set the counters of the policy and of all rules to zero (`iptables -Z CHAIN`)."""
        self.table.zero_entries(self.name)

    def get_counters(self) -> Counters | None:
        """Return the `Counters` of the policy, or None for a user chain, where the kernel keeps none."""
        return self.table.get_policy(self.name)[1]

    def get_policy(self) -> Policy | None:
        """Return the `Policy`, or None for a user chain."""
        return self.table.get_policy(self.name)[0]

    def set_policy(self, policy: Policy | str, counters: Pair | None = None) -> bool:
        """Set the policy, a `Policy` or its name (`iptables -P`), and its (packets, bytes) if they are given; return
        whether that changed anything."""
        return self.table.set_policy(self.name, policy, counters)

    def is_builtin(self) -> bool:
        """Whether the chain is one of the kernel's own."""
        return self.table.builtin_chain(self.name)

    def get_target(self, rule: Rule) -> bytes:
        """Return the verdict or the chain that *rule* jumps to as bytes, b"" for an extension."""
        return self.table.get_target(self._entries(rule)[0])


def checked_position(position: int) -> int:
    """*position*, which counts from 0, as far as the kernel can count."""
    if not isinstance(position, int) or isinstance(position, bool):
        raise ParameterTypeError(f"a position must be an integer, not {type(position).__name__}")
    if position < 0:
        raise ParameterError(f"a position counts from 0, not {position}")
    # libiptc counts in 32 bits, and says itself that this is too big
    return min(position, 0xFFFFFFFF)


def chain_name(chain: Chain | str) -> str:
    """The name of *chain*, which is a `Chain` or a name."""
    if isinstance(chain, Chain):
        return chain.name
    _core.chain_label(chain)
    return chain
