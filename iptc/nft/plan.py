"""Plans edits as messages of nf_tables: one batch for one or several tables."""

from __future__ import annotations

import errno
from functools import partial

from .. import _core
from .._rope import Row, Sequence
from ..errors import IPTCError, KernelError
from ..model.views import ChainView, Jumps, View, os_error
from . import codec
from .arranging import ArrangesByMessages
from .chains import ChainPlan
from .reader import BUILTIN_CHAINS, NftScan
from .restore import append_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .._netlink import Batch, Socket
    from ..language.restored_text import RestoredTable, Run
    from ..model.backend_table import BackEndTable

    _Note = tuple[int, int, int | None, str, str, bytes | Run | None]
    """What a message of the batch is for: its number, then as in `_Step`. A `Run` has one message for each rule."""

    _Step = tuple[int, int | None, str, str, bytes | None]
    """One step of a batch: (family, line of a text, verb, chain, entry)."""


_FEW = 8
"""Up to so many chains or rules are read one by one. If more are needed, all are read at once."""

_NEW = -1
"""The handle of a chain that the batch makes."""

_POLICIES = {"DROP": 0, "ACCEPT": 1}


def entries_of(nfproto: int, messages: bytes, socket: Socket | None = None) -> list[bytes]:
    """Return the rules in the kernel's *messages* as bytes. Interfaces get the names that they have in the network
    namespace of *socket*, or without it in that of this thread."""
    return [entry for _, entry in codec.decode_rules(nfproto, messages, socket)]


def step_of(steps: list[_Note], number: int) -> _Step | None:
    """Return (family, line of a text, verb, chain, entry) of the step that message *number* belongs to, or None."""
    for first, nfproto, line, verb, chain, entry in reversed(steps):
        if first > number:
            continue
        if entry is None or isinstance(entry, bytes):
            return (nfproto, line, verb, chain, entry) if first == number else None
        # the step is a run of rules of a text, one message for each
        line, rule = entry.rules()[number - first]
        return nfproto, line, verb, chain, rule
    return None


def _is_opaque(nfproto: int, entry: bytes) -> bool:
    """Whether this is a rule that only `nft` can read. Such a rule may refer to something that no second rule can refer
    to at the same time, so it cannot be replaced by a copy."""
    target = _core.split_entry(nfproto, entry)[1][-1]
    return target[2:6] == b"nft\0" and target != _core.standard_target("nft")


def _place(rule: int | Row) -> dict[str, int]:
    """Return the arguments with which a message of the batch names *rule*: its handle, or the number of its message."""
    return {"handle": rule} if isinstance(rule, int) else {"number": rule.number}


class TablePlan(ArrangesByMessages):
    """A handle (see `model.edits`) whose verbs plan messages of a batch. Chains and rules are read when needed."""

    def __init__(self, socket: Socket, batch: Batch, steps: list[_Note], table: BackEndTable) -> None:
        self._socket = socket
        self._batch = batch
        self._steps = steps
        self.nfproto = table.nfproto
        self._label = table.name.encode()
        self._scan = NftScan(table.nfproto, table.name, socket)
        self._builtins = {
            _core.HOOKS[hook]: (hook, kind.encode(), priority) for hook, kind, priority in BUILTIN_CHAINS[table.name]
        }
        self._chains: dict[str, ChainPlan | None] = {}
        self._listed: dict[str, tuple[str | None, int]] | None = None
        self._made = False
        self._renamed: dict[str, ChainPlan] = {}
        """old name -> chain, of chains that this batch renames, in that order. Until the batch is applied, the kernel
        knows them by their old names."""
        self._jumps: Jumps | None = None
        self._read: dict[bytes, tuple[bytes, list[int]]] = {}
        self._to_zero: list[tuple[ChainPlan, int]] = []
        self.line: int | None = None
        """The line of the restored text that is being carried out, or None."""
        self.depends = False

    def view(self) -> View:
        """Return the table as it is in the kernel, as a `View`. Rules are read when they are needed."""
        self.depends = True
        rows = self._scan.list_chains()
        return View(
            self.nfproto,
            [
                ChainView(self.nfproto, name, policy, counters, partial(self._entries, name), codec.stored)
                for name, policy, counters, *_ in rows
            ],
            codec.stored,
        )

    def is_at(self, generation: int) -> bool:
        """Whether the ruleset is still the one of *generation*. The kernel will refuse the batch if it is not any more
        when the batch is sent."""
        self.depends = True
        return self._socket.generation() == generation

    def know(self, name: str, handles: list[int]) -> None:
        """Note that the kernel's rules in chain *name* have these *handles*, so that they need not be read."""
        self.depends = True
        chain = self._chain(name)
        if chain.rules is None:
            chain.load(list(handles))

    def current(self, name: str, positions: list[int]) -> dict[int, bytes]:
        """Return {position: entry} for *positions* of chain *name*, with the counters that the kernel has now."""
        if len(positions) <= _FEW:
            try:
                return self._current_few(name, positions)
            except KernelError as error:
                # the kernel says EPERM if a rule is longer than its answer can be: only a dump has room for it
                if error.errno != errno.EPERM:
                    raise
        entries = self._entries(name)
        return {position: entries[position] for position in positions}

    def _current_few(self, name: str, positions: list[int]) -> dict[int, bytes]:
        chain = self._chain(name)
        current = {}
        for position in positions:
            rule = self._loaded(chain)[position]
            if isinstance(rule, int):
                message = self._socket.get_rule(self.nfproto, self._label, chain.label, rule)
                current[position] = entries_of(self.nfproto, message, self._socket)[0]
            else:
                current[position] = rule.entry
        return current

    def lacks(self, name: str) -> bool:
        """Whether there is no chain of that name after the batch so far."""
        chain = self._find(name)
        return chain is None or not chain.handle

    def seal(self) -> None:
        """Add the last messages of the batch: those that rename chains."""
        for old, chain in self._renamed.items():
            label = _core.chain_label(chain.name)
            if chain.name != old:
                self._noted(
                    self._batch.rename_chain(self.nfproto, self._label, chain.handle, label), "CHAIN_RENAME", chain
                )

    def finish(self, socket: Socket) -> None:
        """After the batch is applied: zero the counters of rules that cannot be replaced (`NFT_MSG_GETRULE_RESET`)."""
        for chain, handle in self._to_zero:
            socket.zero_rule(self.nfproto, self._label, chain.label, handle)

    # reading the kernel's chains and rules

    def _rules(self, label: bytes) -> tuple[bytes, list[int]]:
        """Return (messages, handles) of the kernel's rules in the chain that it knows as *label*."""
        self.depends = True
        if label not in self._read:
            self._read[label] = self._scan.chain_rules(label)
        return self._read[label]

    def _entries(self, name: str) -> list[bytes]:
        return entries_of(self.nfproto, self._rules(_core.text_bytes(name, "a chain name"))[0], self._socket)

    def _look(self, name: str) -> tuple[str | None, int] | None:
        """Return (policy, handle) of a chain as the kernel has it, or None."""
        if name in self._builtins or self._listed is None and len(self._chains) < _FEW:
            return self._scan.find_chain(_core.text_bytes(name, "a chain name"))
        if self._listed is None:
            self._listed = {name: (policy, handle) for name, policy, _, handle, _ in self._scan.list_chains()}
        return self._listed.get(name)

    def _find(self, name: str) -> ChainPlan | None:
        """Return the `ChainPlan` of *name*, or None if there is no such chain."""
        if name not in self._chains:
            label, hook = _core.text_bytes(name, "a chain name"), self._builtins.get(name)
            found = self._look(name)
            if found is not None:
                self._chains[name] = ChainPlan(name, label, found[0], found[1], hook)
            else:
                self._chains[name] = None if hook is None else ChainPlan(name, label, "ACCEPT", 0, hook, [])
        return self._chains[name]

    def _chain(self, name: str) -> ChainPlan:
        """Return the `ChainPlan` of *name*, or raise `OSError` (ENOENT)."""
        chain = None if name is None else self._find(name)
        if chain is None:
            raise os_error(errno.ENOENT)
        return chain

    def _loaded(self, chain: ChainPlan) -> Sequence[int | Row]:
        """Return the rules of *chain*; they are read if they are not known."""
        if chain.rules is None:
            chain.load(self._rules(chain.label)[1])
        return chain.known_rules()

    # messages

    def _noted(self, number: int, verb: str, chain: ChainPlan, entry: bytes | Run | None = None) -> int:
        """Note which step message *number* is for. *verb* is the name that iptables-nft prints for such a step."""
        self._steps.append((number, self.nfproto, self.line, verb, chain.name, entry))
        return number

    def _make_table(self) -> None:
        if not self._made:
            self._made = True
            self._batch.add_table(self.nfproto, self._label)

    def _base(self, chain: ChainPlan, policy: str, counters: tuple[int, int] | None) -> None:
        """Create a base chain, or change it."""
        self._make_table()
        assert chain.hook is not None
        hook, kind, priority = chain.hook
        number = self._batch.add_base_chain(
            self.nfproto, self._label, chain.label, hook, kind, priority, _POLICIES[policy], counters
        )
        self._noted(number, "CHAIN_UPDATE" if chain.handle else "CHAIN_ADD", chain)
        chain.policy = policy
        if not chain.handle:
            self.depends = True
            chain.handle = _NEW

    def _used(self, name: str) -> ChainPlan:
        """Return the chain. A builtin chain that does not exist yet is created."""
        chain = self._chain(name)
        if not chain.handle:
            self._base(chain, "ACCEPT", (0, 0))
        return chain

    def _encoded(self, entry: bytes) -> bytes:
        if self._renamed:
            # the kernel knows a chain by its old name until the batch is applied
            name = self._jump_of(entry)
            chain = self._chains.get(name)
            if chain is not None and self._renamed.get(chain.old_name) is chain:
                entry = _core.retarget(self.nfproto, entry, name, chain.old_name) or entry
        return codec.encode(self.nfproto, entry)

    def _jump_of(self, entry: bytes) -> str:
        """Return the name of the chain that *entry* jumps to, or ""."""
        return _core.jump_of(self.nfproto, entry).decode("utf-8", "surrogateescape")

    def _decoded(self, chain: ChainPlan) -> dict[int, bytes]:
        """Return {handle: entry} of the kernel's rules in *chain*. Jumps to chains that this batch renames have the new
        names."""
        there = dict(codec.decode_rules(self.nfproto, self._rules(chain.label)[0], self._socket))
        for handle, entry in there.items() if self._renamed else ():
            moved = self._renamed.get(self._jump_of(entry))
            if moved is not None:
                there[handle] = _core.retarget(self.nfproto, entry, moved.old_name, moved.name) or entry
        return there

    def _new(self, chain: ChainPlan, number: int, verb: str, entry: bytes) -> Row:
        """Return the `Row` of the rule that message *number* makes."""
        row = Row(entry, self._noted(number, verb, chain, entry))
        if self._jumps is not None:
            self._jumps.note(row, chain)
        return row

    def _gone(self, rule: int | Row) -> None:
        """Note that *rule* will be deleted or replaced."""
        if self._jumps is not None and not isinstance(rule, int):
            self._jumps.forget(rule)

    def _insert(self, chain: ChainPlan, entry: bytes, **place: int) -> Row:
        number = self._batch.insert_rule(self.nfproto, self._label, chain.label, self._encoded(entry), **place)
        return self._new(chain, number, "RULE_INSERT", entry)

    def _replace(self, chain: ChainPlan, position: int, entry: bytes) -> None:
        rule = chain.known_rules()[position]
        if isinstance(rule, int):
            number = self._batch.replace_rule(self.nfproto, self._label, chain.label, self._encoded(entry), rule)
            chain.replace(position, self._new(chain, number, "RULE_REPLACE", entry))
        else:
            # the kernel replaces only what is there already
            chain.replace(position, self._insert(chain, entry, **_place(rule)))
            self._delete(chain, rule)

    def _delete(self, chain: ChainPlan, rule: int | Row) -> None:
        self._gone(rule)
        self._noted(
            self._batch.delete_rule(self.nfproto, self._label, chain.label, **_place(rule)), "RULE_DELETE", chain
        )

    # the verbs

    def append(self, name: str, entry: bytes) -> None:
        """`iptables -A`."""
        chain = self._used(name)
        number = self._batch.add_rule(self.nfproto, self._label, chain.label, self._encoded(entry))
        chain.append(self._new(chain, number, "RULE_APPEND", entry))

    def insert(self, name: str, entry: bytes, position: int) -> None:
        """`iptables -I`; *position* counts from 0."""
        chain = self._used(name)
        if not position:
            chain.insert(0, self._insert(chain, entry))
            return
        rules = self._loaded(chain)
        if position > len(rules):
            raise os_error(errno.E2BIG)
        if position == len(rules):
            self.append(name, entry)
        else:
            chain.insert(position, self._insert(chain, entry, **_place(rules[position])))

    def replace(self, name: str, entry: bytes, position: int) -> None:
        """`iptables -R`."""
        chain = self._chain(name)
        self._check_position(chain, position)
        self._replace(chain, position, entry)

    def delete(self, name: str, position: int) -> None:
        """`iptables -D`, by number."""
        chain = self._chain(name)
        self._check_position(chain, position)
        self._delete(chain, chain.delete(position))

    def _check_position(self, chain: ChainPlan, position: int) -> None:
        if position >= len(self._loaded(chain)):
            raise os_error(errno.E2BIG)

    def flush(self, name: str) -> None:
        """`iptables -F CHAIN`."""
        self._flush(self._chain(name))

    def _flush(self, chain: ChainPlan) -> None:
        if chain.handle and (chain.rules is None or len(chain.rules)):
            self._noted(self._batch.delete_rule(self.nfproto, self._label, chain.label), "RULE_FLUSH", chain)
        if self._jumps is not None:
            for rule in chain.new_rules():
                self._gone(rule)
        chain.clear()

    def zero(self, name: str) -> None:
        """`iptables -Z CHAIN`: each rule that has counted is replaced by itself with counters of zero."""
        chain = self._chain(name)
        if chain.hook is not None and chain.handle:
            self._base(chain, chain.policy or "ACCEPT", (0, 0))
        for position in range(len(self._loaded(chain))):
            self._zero_at(chain, position)

    def zero_rule(self, name: str, position: int) -> None:
        """`iptables -Z CHAIN NUMBER`."""
        chain = self._chain(name)
        self._check_position(chain, position)
        self._zero_at(chain, position)

    def _view_of(self, chain: ChainPlan) -> ChainView:
        """Return the `ChainView` of a chain after the batch so far."""
        rules = self._loaded(chain)
        if chain.view is None:
            there = self._decoded(chain) if chain.handle != _NEW else {}
            entries = [
                there[rule] if isinstance(rule, int) else codec.stored(self.nfproto, rule.entry) for rule in rules
            ]
            chain.view = ChainView(self.nfproto, chain.name, read=lambda: entries, stored=codec.stored)
        return chain.view

    def _zero_at(self, chain: ChainPlan, position: int) -> None:
        rule = chain.known_rules()[position]
        entry = self._view_of(chain).entry(position)
        zeroed = _core.without_counters(self.nfproto, [entry])[0]
        if zeroed == entry:
            return
        if isinstance(rule, int) and _is_opaque(self.nfproto, entry):
            self._to_zero.append((chain, rule))
        else:
            self._replace(chain, position, zeroed)

    def create_chain(self, name: str) -> None:
        """`iptables -N`."""
        label = _core.chain_label(name)
        if name in self._builtins:
            raise os_error(errno.EEXIST)
        self._vacate(name)
        self._make_table()
        chain = self._chains[name] = ChainPlan(name, label, None, _NEW, None, [])
        self._noted(self._batch.add_chain(self.nfproto, self._label, label), "CHAIN_USER_ADD", chain)

    def delete_chain(self, name: str) -> None:
        """`iptables -X CHAIN`."""
        chain = self._chain(name)
        if chain.hook is not None:
            raise os_error(errno.EINVAL)
        self._renamed.pop(chain.old_name, None)
        self._drop_chain(chain)

    def _drop_chain(self, chain: ChainPlan) -> None:
        """Delete an empty chain. A builtin one is created again when it is used."""
        self._noted(self._batch.delete_chain(self.nfproto, self._label, chain.label), "CHAIN_DEL", chain)
        self._chains[chain.name] = (
            None if chain.hook is None else ChainPlan(chain.name, chain.label, "ACCEPT", 0, chain.hook, [])
        )

    def drop_chain(self, name: str) -> None:
        """Delete an empty builtin chain, as if no program had ever used it."""
        chain = self._chain(name)
        if chain.handle:
            self._drop_chain(chain)

    def drop_table(self) -> None:
        """Delete the table, which must be empty."""
        self._batch.delete_table(self.nfproto, self._label)

    def rename_chain(self, name: str, new: str) -> None:
        """`iptables -E`."""
        _core.chain_label(new)
        chain = self._chain(name)
        if new in self._builtins:
            raise os_error(errno.EEXIST)
        if chain.hook is not None:
            raise os_error(errno.ENOENT)
        if self._find(new) is not None:
            raise os_error(errno.EEXIST)
        if new != chain.old_name:
            self._vacate(new)
        if chain.handle == _NEW:
            self._rename_new(chain, name, new)
            return
        self.depends = True
        if new == chain.old_name:
            del self._renamed[new]
        else:
            self._renamed[chain.old_name] = chain
        known = self._find_jumps()
        for row, other in known.to(name):
            known.forget(row)
            row.entry = _core.retarget(self.nfproto, row.entry, name, new) or row.entry
            known.note(row, other)
        for other in filter(None, self._chains.values()):
            other.view = None
        self._chains[name], self._chains[new] = None, chain
        chain.name = new

    def _rename_new(self, chain: ChainPlan, name: str, new: str) -> None:
        """Rename a chain that this batch creates. It has no handle yet, so another chain is created instead."""
        jumps = [(other, self._loaded(other).position(row), row.entry) for row, other in self._find_jumps().to(name)]
        self._supplant(chain, new, [row.entry for row in chain.new_rules()], jumps)

    def _vacate(self, label: str) -> None:
        """Make the name *label* free. A chain that this batch renames keeps its old name until the batch is applied; if
        another chain is to have that name, the renamed one is deleted, and a copy with the new name is created."""
        chain = self._renamed.get(label)
        if chain is None:
            return
        name = chain.name
        entries = self._view_of(chain).entries
        jumps = []
        for other in map(self._chain, self.chain_names(False)):
            for position, entry in enumerate(self._view_of(other).entries):
                if self._jump_of(entry) == name:
                    jumps.append((other, position, entry))
        del self._renamed[label]
        chain.name = label
        self._supplant(chain, name, entries, jumps)

    def _supplant(
        self, chain: ChainPlan, new: str, entries: list[bytes], jumps: list[tuple[ChainPlan, int, bytes]]
    ) -> None:
        """Create a chain *new* with the rules *entries*, turn all *jumps* to it, and delete *chain*.

        *jumps*: [(chain, position, entry)] of the rules that jump to *chain*.
        """
        name = chain.name
        self.create_chain(new)
        for entry in entries:
            self.append(new, _core.retarget(self.nfproto, entry, name, new) or entry)
        for other, position, entry in jumps:
            if other is not chain:
                self._replace(other, position, _core.retarget(self.nfproto, entry, name, new) or entry)
        self._flush(chain)
        self._drop_chain(chain)

    def _find_jumps(self) -> Jumps:
        """Return the `Jumps` of the rules that this batch makes."""
        if self._jumps is None:
            jumps = self._jumps = Jumps(self.nfproto)
            for chain in filter(None, self._chains.values()):
                for row in chain.new_rules():
                    jumps.note(row, chain)
        return self._jumps

    def set_policy(self, name: str, policy: str, counters: tuple[int, int] | None = None) -> bool:
        """`iptables -P`, and the counters if they are given. Return whether any of them differed."""
        chain = self._chain(name)
        if chain.policy is None:
            raise os_error(errno.ENOENT)
        if policy not in _POLICIES:
            raise os_error(errno.EINVAL)
        differs = policy != chain.policy
        if counters is not None and self.line is None:
            # a restored text does not need the answer, which costs a read
            differs = differs or tuple(counters) != self._policy_counters(name)
        if counters is None and not chain.handle:
            counters = (0, 0)
        self._base(chain, policy, counters)
        return differs

    def _policy_counters(self, name: str) -> tuple[int, int]:
        """Return the (packets, bytes) of the policy of a builtin chain, as the kernel has them."""
        self.depends = True
        found = next((counters for each, _, counters, *_ in self._scan.list_chains() if each == name), None)
        return found or (0, 0)

    # verbs that only restored texts use

    def begin(self, restored: RestoredTable) -> None:
        """Delete all rules and chains, unless *restored* keeps them. As by iptables-nft-restore, a builtin chain that
        the text does not name is deleted too, with its policy."""
        listed = (
            [(name, policy) for name, policy, _, handle, _ in self._scan.list_chains() if handle]
            if restored.flush
            else []
        )
        if listed:
            self.depends = True
        named = restored.declared() if listed else ()
        for name, _ in listed:
            self.flush(name)
        for name, _ in listed:
            if name not in named:
                self._drop_chain(self._chain(name))

    def take(self, rule: Run) -> bytes:
        """Return the bytes of a rule. The kernel checks where it jumps to."""
        return rule.entry

    def append_run(self, run: Run) -> None:
        """Append the rules of commands `-A` that follow each other."""
        for self.line, name, part in run.parts():
            self._append_part(name, part)

    def _append_part(self, name: str, run: Run) -> None:
        """Append the rules of *run*, which are all for chain *name*."""
        if self._renamed or self._jumps is not None:
            for self.line, entry in run.rules():
                self.append(name, entry)
            return
        chain = self._used(name)
        try:
            first = append_run(self._batch, self._label, chain.label, run)
        except IPTCError as error:
            self.line = error.line or self.line
            raise
        chain.append_run(self._noted(first, "RULE_APPEND", chain, run), run)

    def chain_names(self, of_users: bool) -> list[str]:
        """Return the names of all chains, or with *of_users* of the user chains, after the batch so far."""
        self.depends = True
        for name, *_ in self._scan.list_chains():
            if name not in self._chains and name not in self._renamed:
                self._find(name)
        return [
            name
            for name, chain in self._chains.items()
            if chain is not None and chain.handle and not (of_users and chain.hook is not None)
        ]

    def policy_of(self, name: str) -> str | None:
        """Return the policy of a chain, "" for a user chain, None if there is no such chain."""
        chain = self._find(name)
        return None if chain is None else chain.policy or ""

    def locate(self, name: str, rule: Run) -> int:
        """Return the position of the first rule that is the same as *rule*, or raise `OSError` (ENOENT)."""
        position = self._view_of(self._chain(name)).find(rule.entry)
        if position is None:
            raise os_error(errno.ENOENT)
        return position
