"""Table: one open table, as python-iptables documents it."""

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
from .transactions import Batch, Transaction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from ._core import Counters
    from ._types import LockFile, Netns, Pair, Path, Source, Wait


@telling_methods
class Table:
    """One IPv4 table; the same object for a name, and a *netns*, as long as the process lives.

    With *autocommit* (the default) each change is sent at once, under the xtables lock, to the table as it is then.
    Without it changes gather, show in `chains` and `rules`, and go to the kernel together with `commit()`. *netns* is
    its network namespace: a name, a path, a process id or an open descriptor; else that of the calling thread. A table
    stays bound to the namespace in which it was opened. *wait* is how long to wait for the xtables lock: seconds, None
    for ever (the default), False not at all. *lock_file* is another file for it, False for no lock, None for the
    host's. *backend* is "legacy" or "nft", else what `iptc.backend()` says; nf_tables needs no lock, and takes none.
    `IPTCError` if there is no such table, or the privilege (CAP_NET_ADMIN) is missing.
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

    _cache: dict[Any, Any] = {}
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
        settings: dict[str, Any] = {} if autocommit is None else {"autocommit": autocommit}
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
                table._state = state.open_table(cls._nfproto, name, place, side)
                cls._forget_idle(place.cookie)
                cls._cache[key] = table
            elif table._state.closed:
                table._state.reopen()
            for setting, value in settings.items():
                setattr(table, setting, value)
        return table

    @classmethod
    def _available(cls) -> list[Table]:
        """The tables of the family that can be opened here."""
        return [cls(name) for name in cls.ALL if _is_available(cls, name)]

    @classmethod
    def _forget_idle(cls, cookie: int) -> None:
        """Let go of tables of other namespaces that have nothing pending, once there are many."""
        if len(cls._cache) < 64:
            return
        for key, table in list(cls._cache.items()):
            if key[0] != cookie and table.autocommit and not table._state.pending and not table._state.gathering:
                del cls._cache[key]

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.name,), {"backend": self.backend, "netns": self.netns}

    def __getstate__(self) -> None:
        return None

    @property
    def backend(self) -> str:
        """The back end of the table, "legacy" or "nft"."""
        return self._state.backend

    @property
    def netns(self) -> Netns:
        """What the network namespace was named by when the table was opened, or None."""
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

    def _view(self) -> Any:
        with self._state.lock:
            self._flush_pending()
            return self._state.load()

    def _find_chain(self, chain: Chain | str) -> Any:
        """What is known of *chain*, rules aside, or None."""
        with self._state.lock:
            self._flush_pending()
            return self._state.find_chain(chain_name(chain))

    def _flush_pending(self) -> None:
        """Edits gathered while autocommit was off go out with the first use after it was switched on."""
        if self.autocommit and self._state.pending and not self._state.gathering:
            state.commit([self._state])

    def _edit(self, operation: Any) -> Any:
        """Do *operation*, at once or with what is gathered; whether it changed anything, as far as is known by then."""
        own = self._state
        with own.lock:
            if self.autocommit and not own.gathering:
                self._flush_pending()
                own.execute(operation)
            else:
                own.record(operation)
        return operation.changed

    def _together(self) -> Batch:
        """Gather the edits made inside and commit them at once, or none of them on an exception."""
        return Batch(self)

    def transaction(self, wait: Wait = UNSET) -> Transaction:
        """Return a `Transaction` for `with`: what is edited inside is sent as one commit at its end, or not at all.

        *wait* is how long to wait for the xtables lock then, as for `Table`.
        """
        return Transaction([self], wait)

    # the table

    def commit(self) -> None:
        """Send what was changed since the last commit; raises what the kernel said, and nothing is changed then."""
        with self._state.lock:
            self._refuse_inside("commit")
            state.commit([self._state])

    def _refuse_inside(self, what: str) -> None:
        if self._state.gathering:
            raise TransactionError(f"{what} of {self!r} inside its transaction, which is sent or dropped at its end")

    def refresh(self) -> None:
        """Read the table again. Gathered changes are sent first with autocommit, and dropped without it; not in a
        transaction."""
        with self._state.lock:
            self._renew()
            if not self._state.gathering:
                self._state.load()

    def _renew(self) -> None:
        """As `refresh`, but rules are read when they are asked for."""
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
        """Let go of the table; its use raises until `refresh()` or `Table(name)` opens it again."""
        with self._state.lock:
            self._refuse_inside("close")
            if self._state.closed:
                return
            try:
                self._flush_pending()
            finally:
                self._state.close()

    def flush(self) -> None:
        """Empty all chains, and delete the user chains; policies stay."""
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
        """Return the table as text, as `iptables-save -t TABLE` writes it; with *counters* those of the rules too
        (`-c`)."""
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
        """Make the table what *source* says, as `iptables-restore -T TABLE`; return how many rules it has.

        *source* is text, a path or a file, *path* always a path; its other tables are passed over. With *counters* the
        counters of the text are set (`-c`); without *flush* the rules that are there stay (`--noflush`); with *test*
        nothing is changed (`--test`). `ParameterError` or `KernelError` with the number of the line as `line`; nothing
        is changed then.
        """
        restoring = self._state.restoring
        source = restoring.one_source(source, path)
        rules = []
        with self._state.lock:
            for program in restoring.programs(
                self._nfproto, source, counters, flush, self.name, lambda name: self.backend, self._rehearse
            ):
                if test:
                    self._rehearse(program)
                else:
                    self._restore(program)
                rules.append(program.rules)
        if not rules:
            raise ParameterError(f"there is no table {self.name} in this text")
        return sum(rules)

    def _restore(self, program: Any) -> None:
        self._flush_pending()
        restoring = self._state.restoring
        try:
            with restoring.AtCommit(program):
                self._edit(restoring.Restore(program))
        except KernelError as error:
            self._state.name_rule(error, program)
            raise

    def _rehearse(self, program: Any) -> None:
        self._state.rehearse(self._state.restoring.Restore(program))

    def strerror(self) -> str:
        """Errors are raised here; kept for programs that print it."""
        return ""

    # chains

    @property
    def chains(self) -> list[Chain]:
        """The chains: builtin ones in hook order, then user chains by name. A new list of the same objects."""
        with self._state.lock:
            self._flush_pending()
            return [Chain(self, chain.name) for chain in self._state.list_chains()]

    def is_chain(self, chain: Chain | str) -> bool:
        """Whether the table, as it was last read, has *chain*; so does `chain in table`."""
        return self._find_chain(chain) is not None

    __contains__ = is_chain

    # what is indexed by names is not a sequence: a loop has to say whether it means names or chains
    __iter__ = None

    def __getitem__(self, chain: Chain | str) -> Chain:
        """Return `Chain(table, chain)`; `NotFound`, which is a `KeyError`, where the table has no such chain."""
        name = chain_name(chain)
        if self._find_chain(name) is None:
            raise kernel_error(f"can't find chain {name} in table {self.name}", errno.ENOENT, edits.NO_CHAIN)
        return Chain(self, name)

    def builtin_chain(self, chain: Chain | str) -> bool:
        """Whether *chain* is one of the kernel's own."""
        found = self._find_chain(chain)
        return found is not None and found.policy is not None

    def create_chain(self, chain: Chain | str) -> Chain:
        """Create a user chain (`iptables -N`) and return its `Chain`."""
        name = chain_name(chain)
        edits.check_new_name(self._nfproto, name)
        self._edit(edits.CreateChain(name))
        return Chain(self, name)

    def ensure_chain(self, chain: Chain | str) -> bool:
        """Create user chain *chain* unless there is one, and return whether it was created. Decided under the xtables
        lock."""
        return bool(self._edit(edits.EnsureChain(self._own_chain_name(chain))))

    def clear_chain(self, chain: Chain | str) -> bool:
        """Leave *chain* empty: create it, or delete its rules; return whether there was anything to do."""
        return bool(self._edit(edits.EnsureChain(self._own_chain_name(chain), empty=True)))

    def _own_chain_name(self, chain: Chain | str) -> str:
        """The name of *chain*, which is a builtin one or may be that of a user chain."""
        name = chain_name(chain)
        if name not in _core.HOOKS:
            edits.check_new_name(self._nfproto, name)
        return name

    def delete_chain(self, chain: Chain | str) -> None:
        """Delete a user chain (`iptables -X`), which must be empty and without references."""
        self._edit(edits.DeleteChain(chain_name(chain)))

    def rename_chain(self, chain: Chain | str, new_name: Chain | str) -> None:
        """Give *chain* another name (`iptables -E`)."""
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
        """Return (`Policy`, (packets, bytes)) as they are now, or (None, None) for a user chain."""
        name = chain_name(chain)
        with self._state.lock:
            found = self._find_chain(name)
            if found is None or found.policy is None:
                return None, None
            if self.autocommit and not self._state.gathering:
                self._state.forget()
                found = self._find_chain(name)
        return Policy(found.policy), _core.Counters._make(found.counters)

    def set_policy(self, chain: Chain | str, policy: Policy | str, counters: Pair | None = None) -> bool:
        """Set the policy of a builtin chain (`iptables -P`); its counters stay if none are given. Return whether any of
        them were others: in the table as it is now, or as it is known where changes gather."""
        if isinstance(policy, Policy):
            policy = policy.name
        if not isinstance(policy, str):
            raise ParameterTypeError(f"a policy must be a Policy or a string, not {type(policy).__name__}")
        if not counters:
            counters = None  # programs give 0 for none, which python-iptables takes
        else:
            probe = self._rule_class()
            probe.counters = counters
            counters = probe.counters
        return bool(self._edit(edits.SetPolicy(chain_name(chain), policy, counters)))

    # entries as bytes

    def append_entry(self, chain: Chain | str, entry: bytes) -> None:
        """Append *entry* (bytes, as `Rule.rule`) to *chain*."""
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
        """*entry* as bytes that are known to be whole, and that may be in *chain*."""
        whole: Any = self._rule_class(entry)._entry()
        refuse_meaningless(self._nfproto, chain_name(chain), whole)
        return bytes(whole)

    def first_rule(self, chain: Chain | str) -> Any:
        """Return the first entry of *chain* (bytes that `next_rule` takes), or None."""
        entries: Any = Entry
        return entries.first(self._view().chains.get(chain_name(chain)))

    def next_rule(self, prev_rule: bytes) -> Any:
        """Return the entry behind *prev_rule*, or None."""
        if not isinstance(prev_rule, Entry):
            raise ParameterTypeError("next_rule takes what first_rule or next_rule returned")
        return prev_rule.following()

    def get_target(self, entry: bytes) -> bytes:
        """Return the verdict or the chain that *entry* (bytes) jumps to as bytes, b"" for none; an extension's name."""
        target = self._rule_class(entry).target
        return b"" if target is None else target.name.encode("utf-8", "surrogateescape")

    def create_rule(self, entry: bytes | None = None, chain: Chain | None = None) -> Rule:
        """Return a `Rule` (of this table's family) of *entry*."""
        return self._rule_class(entry, chain)


class Table6(Table):
    """One IPv6 table; the same as `Table` but for its family."""

    _cache: dict[Any, Any] = {}
    existing_table_names: dict[str, bool] = {}
    _nfproto = _core.IPV6
    _rule_class = Rule6


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
    """Whether there is an IPv4 table *name* or it can be made here; remembered. Raises where it may not or cannot be
    read."""
    return _is_available(Table, name)


def is_table6_available(name: str) -> bool:
    """Whether there is an IPv6 table *name* or it can be made here; remembered. Raises where it may not or cannot be
    read."""
    return _is_available(Table6, name)
