"""Table and Chain: python-iptables' documented faces of a table that is open."""

import weakref

from . import _core, _plugins, _xtables, edits, kernel
from .errors import IPTCError, ParameterError, ParameterTypeError
from .rule import Policy, Rule, Rule6


class Chain:
    """One chain of a table; the same object as long as somebody holds it. Making it neither creates nor checks it."""

    _cache = weakref.WeakValueDictionary()

    def __new__(cls, table, name):
        if not isinstance(name, str):
            raise ParameterTypeError(f"a chain name must be a string, not {type(name).__name__}")
        key = (type(table).__name__, table.name, name)
        chain = Chain._cache.get(key)
        if chain is None or chain.table is not table:
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

    @property
    def rules(self):
        """The rules, in order, each an own copy: a new list; [] where there is no such chain."""
        chain = self.table._view().chains.get(self.name)
        if chain is None:
            return []
        return _core.load_rules(self.table._rule_class, self.table._nfproto, chain.entries, self)

    def append_rule(self, rule):
        """Append *rule* (`iptables -A`)."""
        self.table._edit(edits.Append(self.name, self._entry(rule)))

    def insert_rule(self, rule, position=0):
        """Insert *rule* before the one at *position*, which counts from 0 (`iptables -I`)."""
        self.table._edit(edits.Insert(self.name, self._entry(rule), _position(position)))

    def replace_rule(self, rule, position=0):
        """Put *rule* in the place of the one at *position*, which counts from 0 (`iptables -R`)."""
        self.table._edit(edits.Replace(self.name, self._entry(rule), _position(position)))

    def delete_rule(self, rule):
        """Delete the first rule that says the same as *rule* (`iptables -D`); `NotFound` if there is none."""
        anchor = edits.first_like(self.table._nfproto, self._entry(rule))
        self.table._edit(edits.Delete(self.name, anchor=anchor))

    def _entry(self, rule):
        """The bytes of *rule*, once it is whole and of this table's family."""
        if not isinstance(rule, Rule) or rule.nfproto != self.table._nfproto:
            raise ParameterTypeError(f"a rule of {self.table!r} must be a {self.table._rule_class.__name__}, "
                                     f"not {type(rule).__name__}")  # fmt: skip
        entry = _xtables.pack(rule, True)
        if entry is None:
            raise ParameterError("invalid rule")
        return entry

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
        """Return the (packets, bytes) of the policy, or None for a user chain, where the kernel keeps none."""
        return self.table.get_policy(self.name)[1]

    def get_policy(self):
        """Return the `Policy`, or None for a user chain."""
        return self.table.get_policy(self.name)[0]

    def set_policy(self, policy, counters=None):
        """Set the policy, a `Policy` or its name (`iptables -P`), and its (packets, bytes) if they are given."""
        self.table.set_policy(self.name, policy, counters)

    def is_builtin(self):
        """Whether the chain is one of the kernel's own."""
        return self.table.builtin_chain(self.name)

    def get_target(self, rule):
        """Return the verdict or the chain that *rule* jumps to as bytes, b"" for an extension."""
        return self.table.get_target(self._entry(rule))


def _position(position):
    if not isinstance(position, int) or isinstance(position, bool):
        raise ParameterTypeError(f"a position must be an integer, not {type(position).__name__}")
    if position < 0:
        raise ParameterError(f"a position counts from 0, not {position}")
    # libiptc counts in 32 bits, and says itself that this is too big
    return min(position, 0xFFFFFFFF)


def _chain_name(chain):
    if isinstance(chain, Chain):
        return chain.name
    _core.chain_label(chain)
    return chain


class Table:
    """One IPv4 table; the same object for a name as long as the process lives.

    With *autocommit* (the default) each change is sent at once, under the xtables lock, to the table as it is then. Without
    it changes gather, show in `chains` and `rules`, and go to the kernel together with `commit()`.
    `IPTCError` if there is no such table, or the privilege (CAP_NET_ADMIN) is missing.
    """

    FILTER = "filter"
    NAT = "nat"
    MANGLE = "mangle"
    RAW = "raw"
    SECURITY = "security"
    ALL = ["filter", "mangle", "raw", "nat", "security"]

    _cache = {}
    existing_table_names = {}
    _nfproto = _core.IPV4
    _rule_class = Rule

    def __new__(cls, name, autocommit=None):
        if not isinstance(name, str):
            raise ParameterTypeError(f"a table name must be a string, not {type(name).__name__}")
        table = cls._cache.get(name)
        if table is None:
            table = object.__new__(cls)
            table.name = name
            table.autocommit = True if autocommit is None else autocommit
            table._state = kernel.open_table(cls._nfproto, name)
            cls._cache[name] = table
            return table
        if table._state.closed:
            table._state.reopen()
        if autocommit is not None:
            table.autocommit = autocommit
        return table

    def __getnewargs__(self):
        return (self.name,)

    def __getstate__(self):
        return None

    def __repr__(self):
        return f"<iptc.{type(self).__name__} {self.name}>"

    def _view(self):
        with self._state.lock:
            self._flush_pending()
            return self._state.view

    def _flush_pending(self):
        """Edits gathered while autocommit was off go out with the first use after it was switched on."""
        if self.autocommit and self._state.pending:
            self._state.commit()

    def _edit(self, operation):
        with self._state.lock:
            if self.autocommit:
                self._flush_pending()
                self._state.execute(operation)
            else:
                self._state.record(operation)

    def _together(self):
        """Gather the edits made inside and commit them at once, or none of them on an exception."""
        return _Together(self)

    # the table

    def commit(self):
        """Send what was changed since the last commit; raises what the kernel said, and nothing is changed then."""
        with self._state.lock:
            self._state.commit()

    def refresh(self):
        """Read the table again. Gathered changes are sent first with autocommit, and dropped without it."""
        with self._state.lock:
            if self._state.closed:
                self._state.reopen()
                return
            try:
                self._flush_pending()
            finally:
                self._state.discard()
            self._state.view

    def close(self):
        """Let go of the table; its use raises until `refresh()` or `Table(name)` opens it again."""
        with self._state.lock:
            if self._state.closed:
                return
            try:
                self._flush_pending()
            finally:
                self._state.close()

    def flush(self):
        """Empty all chains, and delete the user chains; policies stay."""
        if self.autocommit:
            self.refresh()
        with self._together():
            chains = list(self._view().chains.values())
            for chain in chains:
                self.flush_entries(chain.name)
            for chain in chains:
                if chain.policy is None:
                    self.delete_chain(chain.name)

    def strerror(self):
        """Errors are raised here; kept for programs that print it."""
        return b""

    # chains

    @property
    def chains(self):
        """The chains: builtin ones in hook order, then user chains by name. A new list of the same objects."""
        return [Chain(self, name) for name in self._view().chains]

    def is_chain(self, chain):
        """Whether the table, as it was last read, has *chain*."""
        return _chain_name(chain) in self._view().chains

    def builtin_chain(self, chain):
        """Whether *chain* is one of the kernel's own."""
        found = self._view().chains.get(_chain_name(chain))
        return found is not None and found.policy is not None

    def create_chain(self, chain):
        """Create a user chain (`iptables -N`) and return its `Chain`."""
        name = _chain_name(chain)
        _check_new_name(self._nfproto, name)
        self._edit(edits.CreateChain(name))
        return Chain(self, name)

    def delete_chain(self, chain):
        """Delete a user chain (`iptables -X`), which must be empty and without references."""
        self._edit(edits.DeleteChain(_chain_name(chain)))

    def rename_chain(self, chain, new_name):
        """Give *chain* another name (`iptables -E`)."""
        name = _chain_name(chain)
        new = _chain_name(new_name)
        _check_new_name(self._nfproto, new)
        held = Chain(self, name)
        self._edit(edits.RenameChain(name, new))
        Chain._cache.pop((type(self).__name__, self.name, name), None)
        held.name = new
        Chain._cache[type(self).__name__, self.name, new] = held

    def flush_entries(self, chain):
        """Delete all rules of *chain* (`iptables -F CHAIN`)."""
        self._edit(edits.Flush(_chain_name(chain)))

    def zero_entries(self, chain):
        """Set all counters of *chain* to zero (`iptables -Z CHAIN`)."""
        self._edit(edits.Zero(_chain_name(chain)))

    def get_policy(self, chain):
        """Return (`Policy`, (packets, bytes)) as they are now, or (None, None) for a user chain."""
        name = _chain_name(chain)
        with self._state.lock:
            found = self._view().chains.get(name)
            if found is None or found.policy is None:
                return None, None
            if self.autocommit:
                self._state.forget()
                found = self._view().chains[name]
        return Policy(found.policy), found.counters

    def set_policy(self, chain, policy, counters=None):
        """Set the policy of a builtin chain (`iptables -P`); its counters stay if none are given."""
        if isinstance(policy, Policy):
            policy = policy.name
        if not isinstance(policy, str):
            raise ParameterTypeError(f"a policy must be a Policy or a string, not {type(policy).__name__}")
        if counters is not None:
            probe = self._rule_class()
            probe.counters = counters
            counters = probe.counters
        self._edit(edits.SetPolicy(_chain_name(chain), policy, counters))

    # entries as bytes

    def append_entry(self, chain, entry):
        """Append *entry* (bytes, as `Rule.rule`) to *chain*."""
        self._edit(edits.Append(_chain_name(chain), self._checked(entry)))

    def insert_entry(self, chain, entry, position):
        """Insert *entry* (bytes) into *chain* at *position*, which counts from 0."""
        self._edit(edits.Insert(_chain_name(chain), self._checked(entry), _position(position)))

    def replace_entry(self, chain, entry, position):
        """Put *entry* (bytes) in the place of the one at *position*."""
        self._edit(edits.Replace(_chain_name(chain), self._checked(entry), _position(position)))

    def delete_entry(self, chain, entry, mask=None):
        """Delete the first rule of *chain* that says the same as *entry* (bytes)."""
        anchor = edits.first_like(self._nfproto, self._checked(entry))
        self._edit(edits.Delete(_chain_name(chain), anchor=anchor))

    def _checked(self, entry):
        """*entry* as bytes that are known to be whole."""
        return self._rule_class(entry)._entry()

    def first_rule(self, chain):
        """Return the first entry of *chain* (bytes that `next_rule` takes), or None."""
        return _Entry.first(self._view().chains.get(_chain_name(chain)))

    def next_rule(self, prev_rule):
        """Return the entry behind *prev_rule*, or None."""
        if not isinstance(prev_rule, _Entry):
            raise ParameterTypeError("next_rule takes what first_rule or next_rule returned")
        return prev_rule.following()

    def get_target(self, entry):
        """Return the verdict or the chain that *entry* (bytes) jumps to as bytes, b"" for none; an extension's name."""
        return self._rule_class(entry).target.name.encode("utf-8", "surrogateescape")

    def create_rule(self, entry=None, chain=None):
        """Return a `Rule` (of this table's family) of *entry*."""
        return self._rule_class(entry, chain)


class _Together:
    """What `Table._together` returns, as a context manager of the table.

    Inside a batch of the caller's own the edits stay pending, and only they are taken back. Other threads wait.
    """

    def __init__(self, table):
        self._table = table

    def __enter__(self):
        table = self._table
        table._state.lock.acquire()
        try:
            table._flush_pending()
            self._before, table.autocommit = table.autocommit, False
            self._mark = table._state.mark()
        except BaseException:
            table._state.lock.release()
            raise
        return table

    def __exit__(self, kind, error, traceback):
        table = self._table
        try:
            if kind is not None:
                table._state.rollback(self._mark)
            elif self._before:
                table._state.commit()
        except BaseException:
            table._state.rollback(self._mark)
            raise
        finally:
            table.autocommit = self._before
            table._state.lock.release()


class _Entry(bytes):
    """An entry that knows what follows it, for `first_rule` and `next_rule`."""

    @classmethod
    def first(cls, chain):
        return cls._at(chain.entries, 0) if chain is not None else None

    @classmethod
    def _at(cls, entries, position):
        if position >= len(entries):
            return None
        entry = cls(entries[position])
        entry._entries, entry._position = entries, position
        return entry

    def following(self):
        return self._at(self._entries, self._position + 1)


class Table6(Table):
    """One IPv6 table; the same as `Table` but for its family."""

    _cache = {}
    existing_table_names = {}
    _nfproto = _core.IPV6
    _rule_class = Rule6


def _check_new_name(nfproto, name):
    """Refuse what `iptables -N` refuses as the name of a chain."""
    if name[0] in "-!":
        raise ParameterError(f"chain name not allowed to start with `{name[0]}'")
    if any(c in " \t\n\v\f\r" for c in name):
        raise ParameterError(f"Invalid chain name `{name}'")
    if name in _plugins.VERDICTS or _plugins.find_target(nfproto, name) is not None:
        raise ParameterError("chain name may not clash with target name")


def _is_available(cls, name):
    if name not in cls.existing_table_names:
        try:
            cls(name)
            cls.existing_table_names[name] = True
        except IPTCError:
            cls.existing_table_names[name] = False
    return cls.existing_table_names[name]


def is_table_available(name):
    """Whether IPv4 table *name* can be opened here; remembered."""
    return _is_available(Table, name)


def is_table6_available(name):
    """Whether IPv6 table *name* can be opened here; remembered."""
    return _is_available(Table6, name)


def _tables_of(rule):
    cls = Table if rule.nfproto == _core.IPV4 else Table6
    return [cls(name) for name in cls.ALL if _is_available(cls, name)]


# tables stand above rules; python-iptables lets a rule name those of its family
Rule.tables = property(_tables_of, doc="The tables of the rule's family that can be opened here.")
