"""Chain: one chain of an open table, with the methods that python-iptables documents, and some more."""

from __future__ import annotations

import weakref

from . import _core
from ._applied import telling_methods
from .errors import ParameterError, ParameterTypeError
from .language.comments import comments_of
from .model import edits
from .model.recording import checked_entries
from .rule import Rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from iptc import Table

    from ._core import Counters
    from ._types import Pair
    from .rule import Policy


@telling_methods
class Chain:
    """One chain of a table.

    `Chain(table, name)` does not create the chain in the kernel, and does not check that it exists. While an object
    for it exists, the same one is returned.
    """

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

    def __reduce__(self) -> tuple[type[Chain], tuple[Table, str]]:
        return type(self), (self.table, self.name)

    def __repr__(self) -> str:
        return f"<iptc.Chain {self.name} of {self.table!r}>"

    @property
    def rules(self) -> list[Rule]:
        """A new list of the rules in their order, each a copy: changing one changes nothing in the kernel. [] if the
        table has no such chain."""
        chain = self.table._view().chains.get(self.name)
        if chain is None:
            return []
        return _core.load_rules(self.table._rule_class, self.table._nfproto, chain.entries, self, chain.kept)

    def _get_rules(self) -> list[Rule]:
        return self.rules

    def append_rule(self, rule: Rule) -> None:
        """Append *rule* (`iptables -A`)."""
        table = self.table
        table._state.edit_each(table, self.name, rule, edits.Append)

    def insert_rule(self, rule: Rule, position: int = 0) -> None:
        """Insert *rule* before the one at *position*, which counts from 0 (`iptables -I`)."""
        position = checked_position(position)
        self._edit_each(rule, lambda name, entry: edits.Insert(name, entry, position))

    def replace_rule(self, rule: Rule, position: int = 0) -> None:
        """Replace the rule at *position*, which counts from 0, by *rule* (`iptables -R`)."""
        position = checked_position(position)
        if len(self._entries(rule)) > 1:
            raise ParameterError("Replacement rule does not specify a unique address")
        self._edit_each(rule, lambda name, entry: edits.Replace(name, entry, position))

    def delete_rule(self, rule: Rule, missing_ok: bool = False) -> bool:
        """Delete the first rule that is the same as *rule* (`iptables -D`), and return True.

        The same rule has the same matches in the same order. If there is none, raises `NotFound`, or returns False with
        *missing_ok*.
        """
        nfproto = self.table._nfproto
        return self._edit_each(
            rule,
            lambda name, entry: edits.Delete(name, anchor=edits.first_like(nfproto, entry), missing_ok=missing_ok),
            adds=False,
        )

    def delete_rule_at(self, index: int) -> None:
        """Delete the rule at *index*, which counts from 0 (`iptables -D CHAIN NUMBER`).

        If the table was read before, the rule that stood at *index* then is meant. Raises `Conflict` if it is gone.
        """
        self.table._edit(edits.Delete(self.name, checked_position(index)))

    def delete_rules(self, predicate: Callable[[Rule], object] | None = None, comment: str | None = None) -> int:
        """Delete all rules that have the comment *comment* and for which predicate(rule) is true. Return how many.

        One of the two may be left out. *predicate* is called while the xtables lock is held, perhaps several times for
        a rule.
        """
        if not callable(predicate) and (predicate is not None or comment is None):
            raise ParameterTypeError("delete_rules takes a function of a rule, or comment=")
        if comment is not None and not isinstance(comment, str):
            raise ParameterTypeError(f"a comment must be a string, not {type(comment).__name__}")

        wanted = None if comment is None else _core.text_bytes(comment, "a comment")

        def chosen(entry: bytes) -> bool:
            if wanted is not None and wanted not in comments_of(self.table._nfproto, entry):
                return False
            return predicate is None or bool(predicate(self.table.create_rule(entry, self)))

        return int(self.table._edit(edits.DeleteRules(self.name, chosen)))

    def ensure_rule(self, rule: Rule, position: int | None = None) -> bool:
        """Append *rule*, or insert it at *position*, unless the chain has it already. Return whether it was added.

        The xtables lock is held while that is decided. If several processes ensure the same rule, it is added once.
        """
        position = None if position is None else checked_position(position)
        return self._edit_each(rule, lambda name, entry: edits.EnsureRule(name, entry, position))

    def has_rule(self, rule: Rule) -> bool:
        """Whether the chain has the same rule (`iptables -C`), as the table was last read. `rule in chain` is the same.

        From the third call on, an index of the rules answers it in constant time.
        """
        entries = self._entries(rule)
        with self.table._state.lock:
            chain = self.table._view().chains.get(self.name)
            return chain is not None and all(chain.find(entry) is not None for entry in entries)

    __contains__ = has_rule

    def _find_rule(self, rule: Rule) -> tuple[int, Rule] | None:
        """Return (position, rule) of the first rule that is the same as *rule*, or None."""
        (entry,) = self._entries(rule)
        with self.table._state.lock:
            chain = self.table._view().chains.get(self.name)
            if chain is None:
                return None
            position = chain.find(entry)
            return None if position is None else (position, self.table.create_rule(chain.entry(position), self))

    def _entries(self, rule: Rule) -> list[bytes]:
        return checked_entries(self.table, rule, None)

    def _edit_each(self, rule: Rule, operation: Callable[[str, bytes], edits.Operation], adds: bool = True) -> bool:
        return self.table._state.edit_each(self.table, self.name, rule, operation, adds)

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
        """Return the `Counters` of the policy, or None for a user chain, which has no policy."""
        return self.table.get_policy(self.name)[1]

    def get_policy(self) -> Policy | None:
        """Return the `Policy`, or None for a user chain."""
        return self.table.get_policy(self.name)[0]

    def set_policy(self, policy: Policy | str, counters: Pair | None = None) -> bool:
        """Set the policy, given as a `Policy` or by name (`iptables -P`). Return whether that changes anything.

        *counters*: the (packets, bytes) that the policy starts with; None leaves its counters as they are.
        """
        return self.table.set_policy(self.name, policy, counters)

    def is_builtin(self) -> bool:
        """Whether this is a builtin chain, such as INPUT."""
        return self.table.builtin_chain(self.name)

    def get_target(self, rule: Rule) -> bytes:
        """Return the name of the target of *rule* as bytes: a verdict, a chain or an extension."""
        return self.table.get_target(self._entries(rule)[0])


def checked_position(position: int) -> int:
    """Return *position*, which counts from 0. Raises `ParameterTypeError` or `ParameterError` if it is no position."""
    if not isinstance(position, int) or isinstance(position, bool):
        raise ParameterTypeError(f"a position must be an integer, not {type(position).__name__}")
    if position < 0:
        raise ParameterError(f"a position counts from 0, not {position}")
    # libiptc counts in 32 bits; the handle refuses a larger position as too big
    return min(position, 0xFFFFFFFF)


def chain_name(chain: Chain | str) -> str:
    """Return the name of *chain*, which is a `Chain` or a name."""
    if isinstance(chain, Chain):
        return chain.name
    _core.chain_label(chain)
    return chain
