"""A table in memory: its chains, and what tells its rules from others."""

from ..language import printing


class ChainView:
    """One chain: its policy (None for a user chain) and its rules as entries, read when first asked for.

    *stored*, of nf_tables, says what an entry will be once it is there.
    """

    __slots__ = ("name", "policy", "counters", "_nfproto", "_read", "_entries", "_keys", "_index", "_asked", "_stored")

    def __init__(self, nfproto, name, policy=None, counters=None, read=list, stored=None):
        self.name = name
        self.policy = policy
        self.counters = counters
        self._nfproto = nfproto
        self._read = read
        self._entries = None
        self._keys = None
        self._index = None
        self._asked = False
        self._stored = stored

    @property
    def nfproto(self):
        """The family of its rules."""
        return self._nfproto

    @property
    def entries(self):
        """The rules, as bytes with their targets by name. Not to be changed from outside."""
        if self._entries is None:
            self._entries = self._read()
        return self._entries

    @property
    def keys(self):
        """What tells each rule from others, beside `entries`."""
        if self._keys is None:
            self._keys = [printing.compare_key(self._nfproto, entry) for entry in self.entries]
        return self._keys

    def _as_stored(self, entry):
        return entry if self._stored is None else self._stored(self._nfproto, entry)

    def append(self, entry):
        """Add *entry* at the end."""
        if self._keys is None:
            self.entries.append(self._as_stored(entry))
        else:
            self.insert(len(self.entries), entry)

    def insert(self, position, entry):
        """Add *entry* before the one at *position*."""
        entry = self._as_stored(entry)
        self.entries.insert(position, entry)
        if self._keys is not None:
            key = printing.compare_key(self._nfproto, entry)
            self._keys.insert(position, key)
            if self._index is not None:
                self._put(entry, key)

    def replace(self, position, entry):
        """Put *entry* in the place of the one at *position*."""
        entry = self._as_stored(entry)
        self.entries[position] = entry
        if self._keys is not None:
            self._keys[position] = printing.compare_key(self._nfproto, entry)
        self._index = None

    def delete(self, position):
        """Take the entry at *position* away."""
        del self.entries[position]
        if self._keys is not None:
            del self._keys[position]
        self._index = None

    def clear(self):
        """Take all entries away."""
        self._entries = []
        self._keys = None
        self._index = None

    def has(self, entry):
        """Whether there is a rule that says the same as *entry*, as `iptables -C` finds out; at once, from the third time on."""
        entry = self._as_stored(entry)
        if not self._asked:
            # asked once, a look at each rule costs less than an index of them
            self._asked = True
            return printing.find_like(self._nfproto, self.entries, entry) >= 0
        if self._index is None:
            self._index = {}
            for other, key in zip(self.entries, self.keys):
                self._put(other, key)
        key = printing.compare_key(self._nfproto, entry)
        alike = self._index.get(printing.rough_key(key))
        return alike is not None and alike.has(self._nfproto, entry, key)

    def _put(self, entry, key):
        rough = printing.rough_key(key)
        alike = self._index.get(rough)
        if alike is None:
            alike = self._index[rough] = _Alike()
        alike.put(entry, key)

    def anchor(self, position):
        """Name the rule at *position*: its bytes, and how many of the same bytes stand before it."""
        key = self.keys[position]
        return self.entries[position], key, self.keys[:position].count(key)

    def locate(self, anchor):
        """The position of the rule that *anchor* names, or None."""
        entry, key, skip = anchor
        there = self._as_stored(entry)
        if there is not entry:
            entry, key = there, printing.compare_key(self._nfproto, there)
        if not skip and self._keys is None:
            position = printing.find_like(self._nfproto, self.entries, entry)
            return None if position < 0 else position
        position = -1
        for _ in range(skip + 1):
            try:
                position = self.keys.index(key, position + 1)
            except ValueError:
                break
        else:
            return position
        if skip:
            return None
        for position, other in enumerate(self.keys):
            if printing.same_rule(self._nfproto, entry, key, self.entries[position], other):
                return position
        return None


class _Alike:
    """The rules of a chain that share a `rough_key`: they are the same if their bytes are, or else their text."""

    __slots__ = ("keys", "unread", "texts")

    def __init__(self):
        self.keys = set()
        self.unread = []
        self.texts = set()

    def put(self, entry, key):
        if key not in self.keys:
            self.keys.add(key)
            self.unread.append(entry)

    def has(self, nfproto, entry, key):
        if key in self.keys:
            return True
        if not printing.is_readable(nfproto, entry):
            return False
        self.texts.update(printing.render(nfproto, other) for other in self.unread if printing.is_readable(nfproto, other))
        self.unread.clear()
        return printing.render(nfproto, entry) in self.texts


def _chain_order(chain):
    return (1, chain.name.encode("utf-8", "surrogateescape")) if chain.policy is None else (0, b"")


class View:
    """A table as it was read, with pending edits applied."""

    def __init__(self, nfproto, chains, stored=None):
        self.nfproto = nfproto
        self.chains = {chain.name: chain for chain in chains}
        self._stored = stored

    def add_chain(self, name):
        """Add an empty user chain."""
        self.chains[name] = ChainView(self.nfproto, name, stored=self._stored)
        self.sort()

    def sort(self):
        """Builtin chains in hook order, then user chains by name, as libiptc keeps them."""
        order = sorted(self.chains.values(), key=_chain_order)
        self.chains = {chain.name: chain for chain in order}

    def clear(self):
        """Take all rules and all user chains away."""
        for chain in self.chains.values():
            chain.clear()
        self.chains = {name: chain for name, chain in self.chains.items() if chain.policy is not None}

    def is_referenced(self, name):
        """Whether a rule of any chain jumps to *name*."""
        label = name.encode("utf-8", "surrogateescape")
        return any(key[2] == label for chain in self.chains.values() for key in chain.keys)
