"""Table and Table6: one open table, with the methods that python-iptables documents, and some more."""

from __future__ import annotations

import errno

from . import _core, state
from ._applied import telling_methods
from .chain import Chain, chain_name, checked_position
from .errors import KernelError, ParameterError, ParameterTypeError, TransactionError, is_absent, kernel_error
from .language.specification import refuse_meaningless
from .lock import UNSET, checked_lock_file, checked_wait
from .model import edits
from .model.views import Entry
from .namespace import Place
from .rule import Policy, Rule, Rule6
from .transactions import EditGroup, Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

    from ._core import Counters
    from ._types import LockFile, Netns, Pair, Path, Source, Wait
    from .language.restored_text import RestoredTable
    from .model.views import ChainHead, ChainView, View


@telling_methods
class Table:
    """One IPv4 table. The same name, *backend* and *netns* always give the same object.

    *autocommit*: True (the default) sends each change at once, under the xtables lock, to the table as it is then.
        False collects changes: they show in `chains` and `rules`, and `commit()` sends them together.
    *netns*: the network namespace of the table, as a name, a path, a process id or an open descriptor; None is that of
        the calling thread. A table stays in the namespace in which it was opened.
    *wait*: how long to wait for the xtables lock, in seconds; None (the default) waits for ever, False not at all.
    *lock_file*: the path of another lock file; None (the default) is the host's, False takes no lock.
    *backend*: "legacy", "nft" or "libiptc"; None takes what `iptc.backend()` returns. nf_tables needs no lock.

    Raises `NotFound` if the kernel has no such table, and `AccessDenied` without CAP_NET_ADMIN.
    """

    FILTER = "filter"
    NAT = "nat"
    MANGLE = "mangle"
    RAW = "raw"
    SECURITY = "security"
    ALL = ["filter", "mangle", "raw", "nat", "security"]

    name: str
    autocommit: bool
    _state: state.TableState

    _cache: dict[tuple[int, Netns, str, str], Any] = {}
    existing_table_names: dict[str, bool] = {}
    _nfproto: int = _core.IPV4
    _rule_class = Rule

    def __new__(
        cls,
        name: str,
        autocommit: bool | None = None,
        *,
        backend: str | None = None,
        netns: Netns = None,
        wait: Wait = UNSET,
        lock_file: LockFile = UNSET,
    ) -> Self:
        if not isinstance(name, str):
            raise ParameterTypeError(f"a table name must be a string, not {type(name).__name__}")
        # checked before anything is changed
        settings: dict[str, object] = {} if autocommit is None else {"autocommit": autocommit}
        if wait is not UNSET:
            settings["wait"] = checked_wait(wait)
        if lock_file is not UNSET:
            settings["lock_file"] = checked_lock_file(lock_file)
        place = Place(netns)
        side = state.side_at(place, backend)
        with state.opening():
            key = place.cookie, place.netns, name, side
            table = cls._cache.get(key)
            if table is None:
                table = object.__new__(cls)
                table.name = name
                table.autocommit = True
                table._state = state.open_state(cls._nfproto, name, place, side)
                cls._forget_idle(place.cookie)
                cls._cache[key] = table
            elif table._state.closed:
                table._state.reopen()
            for setting, value in settings.items():
                setattr(table, setting, value)
        return table

    @classmethod
    def _available(cls) -> list[Table]:
        """Return the tables of this family that can be opened."""
        return [cls(name) for name in cls.ALL if _is_available(cls, name)]

    @classmethod
    def _forget_idle(cls, cookie: int) -> None:
        """Forget tables of other namespaces once 64 tables are open. Tables with pending edits stay."""
        if len(cls._cache) < 64:
            return
        for key, table in list(cls._cache.items()):
            if key[0] != cookie and table.autocommit and not table._state.pending and not table._state.gathering:
                del cls._cache[key]

    def __reduce__(self) -> tuple[Callable[..., Table], tuple[type[Table], str, str, Netns]]:
        return _reopened, (type(self), self.name, self.backend, self.netns)

    @property
    def backend(self) -> str:
        """The back end of the table: "legacy", "nft" or "libiptc"."""
        return self._state.backend

    @property
    def netns(self) -> Netns:
        """The *netns* that was given when the table was opened, or None."""
        return self._state.place.netns

    @property
    def wait(self) -> Wait:
        """How long to wait for the xtables lock: seconds, None for ever, False not at all."""
        return self._state.wait

    @wait.setter
    def wait(self, wait: Wait) -> None:
        self._state.wait = checked_wait(wait)

    @property
    def lock_file(self) -> LockFile:
        """The path of the lock file, None for the host's (`XTABLES_LOCKFILE`, else /run/xtables.lock), False for no
        lock."""
        return self._state.lock_file

    @lock_file.setter
    def lock_file(self, path: LockFile) -> None:
        self._state.lock_file = checked_lock_file(path)

    def __repr__(self) -> str:
        return f"<iptc.{type(self).__name__} {self.name}>"

    def _view(self) -> View:
        with self._state.lock:
            self._flush_pending()
            return self._state.load()

    def _find_chain(self, chain: Chain | str) -> ChainView | ChainHead | None:
        """Return the `ChainView` or `ChainHead` of *chain*, or None if there is no such chain."""
        with self._state.lock:
            self._flush_pending()
            return self._state.find_chain(chain_name(chain))

    def _flush_pending(self) -> None:
        """Send the edits that were collected while autocommit was off, if it is on by now."""
        if self.autocommit and self._state.pending and not self._state.gathering:
            state.commit([self._state])

    def _edit(self, operation: edits.Operation) -> int:
        """Send *operation* at once, or collect it. Return whether it changes anything, as far as that is known now."""
        return self._state.edit(self, operation)

    def _edit_together(self, operations: list[edits.Operation]) -> bool:
        """Send or collect *operations*, all or none. Return whether any of them changes anything."""
        with self._together():
            changed = [self._edit(operation) for operation in operations]
            return any(changed)

    def _together(self) -> EditGroup:
        """Return a context manager: the edits made inside are sent in one commit, or not at all after an exception."""
        return EditGroup(self)

    def transaction(self, wait: Wait = UNSET) -> Transaction:
        """Return a `Transaction` for a `with` statement. Edits made inside are sent in one commit at its end.

        If an exception leaves the `with` statement, none of them is sent. *wait* is as for `Table`, and counts for this
        commit alone.
        """
        return Transaction([self], wait)

    # the table

    def commit(self) -> None:
        """Send all changes that were collected since the last commit: all of them, or none if this raises."""
        with self._state.lock:
            self._refuse_inside("commit")
            state.commit([self._state])

    def _refuse_inside(self, what: str) -> None:
        if self._state.gathering:
            raise TransactionError(f"{what} of {self!r} inside its transaction, which is sent or dropped at its end")

    def refresh(self) -> None:
        """Read the table from the kernel again (legacy: `IPT_SO_GET_ENTRIES`).

        With autocommit, changes that were collected are sent first. Without it they are dropped. Inside a transaction
        they stay.
        """
        with self._state.lock:
            self._renew()
            if not self._state.gathering:
                self._state.load()

    def _renew(self) -> None:
        """Do as `refresh`, but read the rules only when they are needed."""
        with self._state.lock:
            if self._state.gathering:
                self._state.forget()
                return
            try:
                self._flush_pending()
            finally:
                self._state.discard()
            self._state.reopen()

    def close(self) -> None:
        """Close the table. Using it raises `KernelError` until `refresh()` or `Table(name)` opens it again."""
        with self._state.lock:
            self._refuse_inside("close")
            if self._state.closed:
                return
            try:
                self._flush_pending()
            finally:
                self._state.close()

    def flush(self) -> None:
        """Delete all rules (`iptables -F`) and then all user chains (`iptables -X`). Policies stay."""
        with self._together():
            if self.autocommit:
                self._state.forget()
            chains = list(self._view().in_order())
            for chain in chains:
                self.flush_entries(chain.name)
            for chain in chains:
                if chain.policy is None:
                    self.delete_chain(chain.name)

    def save(self, counters: bool = False) -> str:
        """Return the table as text, as `iptables-save -t TABLE` prints it.

        With *counters*, each rule has its counters too (`iptables-save -c`).
        """
        with self._state.lock:
            self._flush_pending()
            return self._state.save(counters)

    def restore(
        self,
        source: Source | None = None,
        counters: bool = False,
        flush: bool = True,
        test: bool = False,
        *,
        path: Path | None = None,
    ) -> int:
        """Replace the table by what a text says, as `iptables-restore -T TABLE` does. Return how many rules it has.

        *source*: the text itself, a path or an open file. *path*: always a path. Other tables in the text are ignored.
        *counters*: set the counters that the text has (`-c`). *flush*: False keeps the rules that are there
        (`--noflush`). *test*: check everything and change nothing (`--test`).

        Raises `ParameterError` or `KernelError`, with the number of the line as `line`. Nothing is changed then.
        """
        restoring = self._state.restoring
        source = restoring.one_source(source, path)
        rules = []
        with self._state.lock:
            for restored in restoring.restored_tables(
                self._nfproto, source, counters, flush, self.name, lambda name: self.backend, self._rehearse
            ):
                if test:
                    self._rehearse(restored)
                else:
                    self._restore(restored)
                rules.append(restored.rules)
        if not rules:
            raise ParameterError(f"there is no table {self.name} in this text")
        return sum(rules)

    def _restore(self, restored: RestoredTable) -> None:
        self._flush_pending()
        restoring = self._state.restoring
        try:
            with restoring.AtCommit(restored):
                self._edit(restoring.Restore(restored))
        except KernelError as error:
            self._state.name_rule(error, restored)
            raise

    def _rehearse(self, restored: RestoredTable) -> None:
        self._state.rehearse(self._state.restoring.Restore(restored))

    def strerror(self) -> str:
        """Return "". python-iptables returns libiptc's last error; here errors are raised as exceptions."""
        return ""

    # chains

    @property
    def chains(self) -> list[Chain]:
        """A new list of the `Chain` objects: builtin chains in the order of their hooks, then user chains by name."""
        with self._state.lock:
            self._flush_pending()
            return [Chain(self, chain.name) for chain in self._state.list_chains()]

    def is_chain(self, chain: Chain | str) -> bool:
        """Whether the table has *chain*, as far as it was last read. `chain in table` is the same."""
        return self._find_chain(chain) is not None

    __contains__ = is_chain

    # a table is no sequence of numbered items: a loop over it is refused, since it could mean names or chains
    __iter__ = None

    def __getitem__(self, chain: Chain | str) -> Chain:
        """Return the `Chain` of that name. Raises `NotFound`, which is a `KeyError`, if the table has no such chain."""
        name = chain_name(chain)
        if self._find_chain(name) is None:
            raise kernel_error(f"can't find chain {name} in table {self.name}", errno.ENOENT, edits.NO_CHAIN)
        return Chain(self, name)

    def builtin_chain(self, chain: Chain | str) -> bool:
        """Whether *chain* is a builtin chain, such as INPUT."""
        found = self._find_chain(chain)
        return found is not None and found.policy is not None

    def create_chain(self, chain: Chain | str) -> Chain:
        """Create a user chain (`iptables -N`) and return its `Chain`."""
        name = chain_name(chain)
        edits.check_new_name(self._nfproto, name)
        self._edit(edits.CreateChain(name))
        return Chain(self, name)

    def ensure_chain(self, chain: Chain | str) -> bool:
        """Create user chain *chain* unless it exists. Return whether it was created.

        The xtables lock is held while that is decided, so of several processes one creates the chain.
        """
        return bool(self._edit(edits.EnsureChain(self._own_chain_name(chain))))

    def clear_chain(self, chain: Chain | str) -> bool:
        """Create *chain* if it does not exist, or else delete all its rules. Return whether anything was changed."""
        return bool(self._edit(edits.EnsureChain(self._own_chain_name(chain), empty=True)))

    def _own_chain_name(self, chain: Chain | str) -> str:
        """Return the name of *chain*. Raises `ParameterError` if no chain can have that name."""
        name = chain_name(chain)
        if name not in _core.HOOKS:
            edits.check_new_name(self._nfproto, name)
        return name

    def delete_chain(self, chain: Chain | str) -> None:
        """Delete a user chain (`iptables -X`). It must have no rules, and no rule may jump to it."""
        self._edit(edits.DeleteChain(chain_name(chain)))

    def rename_chain(self, chain: Chain | str, new_name: Chain | str) -> None:
        """Rename user chain *chain* (`iptables -E`). Rules that jump to it then jump to the new name."""
        name = chain_name(chain)
        new = chain_name(new_name)
        edits.check_new_name(self._nfproto, new)
        held = Chain(self, name)
        self._edit(edits.RenameChain(name, new))
        Chain._cache.pop((self, name), None)
        held.name = new
        Chain._cache[self, new] = held

    def flush_entries(self, chain: Chain | str) -> None:
        """Delete all rules of *chain* (`iptables -F CHAIN`)."""
        self._edit(edits.Flush(chain_name(chain)))

    def zero_entries(self, chain: Chain | str) -> None:
        """Set all counters of *chain* to zero (`iptables -Z CHAIN`)."""
        self._edit(edits.Zero(chain_name(chain)))

    def get_policy(self, chain: Chain | str) -> tuple[Policy, Counters] | tuple[None, None]:
        """Return (`Policy`, `Counters`) of a builtin chain as they are now, or (None, None) for a user chain."""
        name = chain_name(chain)
        with self._state.lock:
            found = self._find_chain(name)
            if found is not None and found.policy is not None and self.autocommit and not self._state.gathering:
                self._state.forget()
                found = self._find_chain(name)
        if found is None or found.policy is None:
            return None, None
        return Policy(found.policy), _core.Counters._make(found.counters or (0, 0))

    def set_policy(self, chain: Chain | str, policy: Policy | str, counters: Pair | None = None) -> bool:
        """Set the policy of a builtin chain (`iptables -P`), and its counters if *counters* is a (packets, bytes) pair.

        Return whether the policy or the counters were different before. If changes are collected, that is answered from
        the table as it was last read.
        """
        if isinstance(policy, Policy):
            policy = policy.name
        if not isinstance(policy, str):
            raise ParameterTypeError(f"a policy must be a Policy or a string, not {type(policy).__name__}")
        if not counters:
            counters = None  # restored_tables give 0 for none, which python-iptables takes
        else:
            probe = self._rule_class()
            probe.counters = counters
            counters = probe.counters
        return bool(self._edit(edits.SetPolicy(chain_name(chain), policy, counters)))

    # entries as bytes

    def append_entry(self, chain: Chain | str, entry: bytes) -> None:
        """Append *entry* to *chain*. An entry is bytes, such as `Rule.rule`: `struct ipt_entry`, matches, target."""
        self._edit(edits.Append(chain_name(chain), self._fitting(chain, entry)))

    def insert_entry(self, chain: Chain | str, entry: bytes, position: int) -> None:
        """Insert *entry* (bytes) into *chain* at *position*, which counts from 0."""
        self._edit(edits.Insert(chain_name(chain), self._fitting(chain, entry), checked_position(position)))

    def replace_entry(self, chain: Chain | str, entry: bytes, position: int) -> None:
        """Put *entry* (bytes) in the place of the one at *position*."""
        self._edit(edits.Replace(chain_name(chain), self._fitting(chain, entry), checked_position(position)))

    def delete_entry(self, chain: Chain | str, entry: bytes, mask: bytes | None = None) -> None:
        """Delete the first rule of *chain* that is the same as *entry* (bytes)."""
        anchor = edits.first_like(self._nfproto, self._rule_class(entry)._whole())
        self._edit(edits.Delete(chain_name(chain), anchor=anchor))

    def _fitting(self, chain: Chain | str, entry: bytes) -> bytes:
        """Return *entry* as bytes. Raises `ParameterError` if its sizes do not add up, or if *chain* cannot have it."""
        whole = self._rule_class(entry)._entry()
        if whole is None:
            raise ParameterTypeError(f"an entry must be bytes, not {type(entry).__name__}")
        refuse_meaningless(self._nfproto, chain_name(chain), whole)
        return whole

    def first_rule(self, chain: Chain | str) -> bytes | None:
        """Return the first entry of *chain* as bytes, or None. `next_rule` takes what this returns."""
        return Entry.first(self._view().chains.get(chain_name(chain)))

    def next_rule(self, prev_rule: bytes) -> bytes | None:
        """Return the entry that follows *prev_rule*, or None at the end of the chain."""
        if not isinstance(prev_rule, Entry):
            raise ParameterTypeError("next_rule takes what first_rule or next_rule returned")
        return prev_rule.following()

    def get_target(self, entry: bytes) -> bytes:
        """Return the name of the target of *entry* as bytes: a verdict, a chain or an extension; b"" for none."""
        target = self._rule_class(entry).target
        return b"" if target is None else target.name.encode("utf-8", "surrogateescape")

    def create_rule(self, entry: bytes | None = None, chain: Chain | None = None) -> Rule:
        """Return a `Rule` or `Rule6`, by the family of this table, made of the bytes *entry*."""
        return self._rule_class(entry, chain)


class Table6(Table):
    """One IPv6 table. Everything else is as for `Table`."""

    _cache: dict[tuple[int, Netns, str, str], Any] = {}
    existing_table_names: dict[str, bool] = {}
    _nfproto = _core.IPV6
    _rule_class = Rule6


def _reopened(cls: type[Table], name: str, backend: str, netns: Netns) -> Table:
    return cls(name, backend=backend, netns=netns)


def _is_available(cls: type[Table], name: str) -> bool:
    if name not in cls.existing_table_names:
        try:
            cls(name)
            cls.existing_table_names[name] = True
        except KernelError as error:
            if not is_absent(error):
                raise
            cls.existing_table_names[name] = False
    return cls.existing_table_names[name]


def is_table_available(name: str) -> bool:
    """Whether the kernel has, or can load, an IPv4 table *name*. The answer is remembered.

    Raises `AccessDenied` without CAP_NET_ADMIN, and `KernelError` if the kernel cannot be asked.
    """
    return _is_available(Table, name)


def is_table6_available(name: str) -> bool:
    """Whether the kernel has, or can load, an IPv6 table *name*. The answer is remembered.

    Raises `AccessDenied` without CAP_NET_ADMIN, and `KernelError` if the kernel cannot be asked.
    """
    return _is_available(Table6, name)
