"""Chain: one chain of an open table, as python-iptables documents it."""

import weakref

from . import _core
from ._applied import telling_methods
from .errors import ParameterError, ParameterTypeError
from .language import extension
from .language.specification import refuse_meaningless
from .model import edits
from .rule import Rule


@telling_methods
class Chain:
    """One chain of a table; the same object as long as somebody holds it. Making it neither creates nor checks it."""

    _cache = weakref.WeakValueDictionary()

    def __new__(cls, table, name):
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

    def __getnewargs__(self):
        return self.table, self.name

    def __getstate__(self):
        return None

    def __repr__(self):
        return f"<iptc.Chain {self.name} of {self.table!r}>"

    def _get_rules(self):
        """The rules, in order, each an own copy: a new list; [] where there is no such chain."""
        chain = self.table._view().chains.get(self.name)
        if chain is None:
            return []
        return _core.load_rules(self.table._rule_class, self.table._nfproto, chain.entries, self)

    rules = property(_get_rules)

    def append_rule(self, rule):
        """Append *rule* (`iptables -A`)."""
        self._edit_each(rule, edits.Append)

    def insert_rule(self, rule, position=0):
        """Insert *rule* before the one at *position*, which counts from 0 (`iptables -I`)."""
        position = checked_position(position)
        self._edit_each(rule, lambda name, entry: edits.Insert(name, entry, position))

    def replace_rule(self, rule, position=0):
        """Put *rule* in the place of the one at *position*, which counts from 0 (`iptables -R`)."""
        position = checked_position(position)
        if len(self._entries(rule)) > 1:
            raise ParameterError("Replacement rule does not specify a unique address")
        self._edit_each(rule, lambda name, entry: edits.Replace(name, entry, position))

    def delete_rule(self, rule, missing_ok=False):
        """Delete the first rule that is the same as *rule*, the order of matches included (`iptables -D`), and return True.

        Where there is none: `NotFound`, or False with *missing_ok*.
        """
        nfproto = self.table._nfproto
        return self._edit_each(
            rule, lambda name, entry: edits.Delete(name, anchor=edits.first_like(nfproto, entry), missing_ok=missing_ok), adds=False)

    def delete_rule_at(self, index):
        """Delete the rule at *index*, which counts from 0 (`iptables -D CHAIN NUMBER`).

        Where the table was read before, the rule that stood there is meant: `Conflict` if it is gone.
        """
        self.table._edit(edits.Delete(self.name, checked_position(index)))

    def delete_rules(self, predicate=None, comment=None):
        """Delete all rules with *comment*, or for which predicate(rule) is true, and return how many there were.

        Both given, both must hold. *predicate* is called under the xtables lock, perhaps more than once for a rule.
        """
        if not callable(predicate) and (predicate is not None or comment is None):
            raise ParameterTypeError("delete_rules takes a function of a rule, or comment=")
        if comment is not None and not isinstance(comment, str):
            raise ParameterTypeError(f"a comment must be a string, not {type(comment).__name__}")

        def chosen(entry):
            rule = self.table.create_rule(entry, self)
            if comment is not None and not any(m.name == "comment" and m.comment == comment for m in rule.matches):
                return False
            return predicate is None or predicate(rule)

        return self.table._edit(edits.DeleteRules(self.name, chosen))

    def ensure_rule(self, rule, position=None):
        """Append *rule*, or insert it at *position*, unless the chain has it already; return whether it was added.

        That is decided under the xtables lock, on the table as it is then: processes that ensure the same rule add it once.
        """
        position = None if position is None else checked_position(position)
        return self._edit_each(rule, lambda name, entry: edits.EnsureRule(name, entry, position))

    def has_rule(self, rule):
        """Whether there is the same rule, the order of matches included (`iptables -C`), as the table was last read; so does
        `rule in chain`. At once, from the third question on."""
        entries = self._entries(rule)
        with self.table._state.lock:
            chain = self.table._view().chains.get(self.name)
            return chain is not None and all(chain.find(entry) is not None for entry in entries)

    __contains__ = has_rule

    def _find_rule(self, rule):
        """(position, rule) of the first rule that is the same as *rule*, or None."""
        (entry,) = self._entries(rule)
        with self.table._state.lock:
            chain = self.table._view().chains.get(self.name)
            position = None if chain is None else chain.find(entry)
            return None if position is None else (position, self.table.create_rule(chain.entry(position), self))

    def _entries(self, rule):
        """The bytes of *rule*, once it is whole and of this table's family: a list, of one entry for each pair of addresses."""
        if not isinstance(rule, Rule) or rule.nfproto != self.table._nfproto:
            raise ParameterTypeError(f"a rule of {self.table!r} must be a {self.table._rule_class.__name__}, "
                                     f"not {type(rule).__name__}")  # fmt: skip
        # nearly all rules have one address on a side, and building them is to be fast
        entries = [extension.pack(rule, True)] if rule._networks is None else [extension.pack(one, True) for one in rule.expand()]
        if entries[0] is None:
            raise ParameterError("invalid rule")
        return entries

    def _edit_each(self, rule, operation, adds=True):
        """Do operation(name of the chain, entry) for each entry of *rule*, together; whether any of them changed anything.

        *adds*: it puts them into this chain.
        """
        entries = self._entries(rule)
        for entry in entries if adds else ():
            refuse_meaningless(self.table._nfproto, self.name, entry)
        if len(entries) == 1:
            return self.table._edit(operation(self.name, entries[0]))
        with self.table._together():
            return any([self.table._edit(operation(self.name, entry)) for entry in entries])

    def flush(self):
        """Delete all rules (`iptables -F CHAIN`)."""
        self.table.flush_entries(self.name)

    def rename(self, new_name):
        """Give the chain another name (`iptables -E`); jumps to it follow."""
        self.table.rename_chain(self, new_name)

    def delete(self):
        """Delete the chain (`iptables -X CHAIN`); it must be empty and nothing may jump to it."""
        self.table.delete_chain(self.name)

    def zero_counters(self):
        """Set the counters of the policy and of all rules to zero (`iptables -Z CHAIN`)."""
        self.table.zero_entries(self.name)

    def get_counters(self):
        """Return the `Counters` of the policy, or None for a user chain, where the kernel keeps none."""
        return self.table.get_policy(self.name)[1]

    def get_policy(self):
        """Return the `Policy`, or None for a user chain."""
        return self.table.get_policy(self.name)[0]

    def set_policy(self, policy, counters=None):
        """Set the policy, a `Policy` or its name (`iptables -P`), and its (packets, bytes) if they are given; return whether that
        changed anything."""
        return self.table.set_policy(self.name, policy, counters)

    def is_builtin(self):
        """Whether the chain is one of the kernel's own."""
        return self.table.builtin_chain(self.name)

    def get_target(self, rule):
        """Return the verdict or the chain that *rule* jumps to as bytes, b"" for an extension."""
        return self.table.get_target(self._entries(rule)[0])


def checked_position(position):
    """*position*, which counts from 0, as far as the kernel can count."""
    if not isinstance(position, int) or isinstance(position, bool):
        raise ParameterTypeError(f"a position must be an integer, not {type(position).__name__}")
    if position < 0:
        raise ParameterError(f"a position counts from 0, not {position}")
    # libiptc counts in 32 bits, and says itself that this is too big
    return min(position, 0xFFFFFFFF)


def chain_name(chain):
    """The name of *chain*, which is a `Chain` or a name."""
    if isinstance(chain, Chain):
        return chain.name
    _core.chain_label(chain)
    return chain
