"""Plans edits as messages of nf_tables: one batch for one or several tables."""

from __future__ import annotations

import errno
from functools import partial

from .. import _core
from .._rope import Row
from ..errors import IPTCError
from ..model.views import ChainView, Jumps, View, refusal
from . import codec
from .arranging import ArrangesByMessages
from .chains import ChainPlan
from .reader import BUILTIN_CHAINS, NftScan
from .restore import append_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .._netlink import Batch, Socket
    from ..language.program import Program, Run


_FEW = 8
"""So many chains or rules are asked for by name; for more of them all are listed."""

_NEW = -1
"""The handle of a chain that the batch makes."""

_POLICIES = {"DROP": 0, "ACCEPT": 1}


def entries_of(nfproto: int, messages: bytes, socket: Socket | None = None) -> Any:
    """The rules in *messages* of the kernel, as bytes; interfaces by their names where *socket* is, else where this
    thread is."""
    return [entry for _, entry in codec.decode_rules(nfproto, messages, socket)]


def step_of(steps: list[Any], number: int) -> Any:
    """What message *number* of the batch is for: (family, line of a text, verb, chain, entry); None where nothing was
    noted."""
    for first, *step, entry in reversed(steps):
        if first > number:
            continue
        if entry is None or isinstance(entry, bytes):
            return (*step, entry) if first == number else None
        # a run of rules of a text
        nfproto, _, verb, chain = step
        line, entry = entry.rules()[number - first]
        return nfproto, line, verb, chain, entry
    return None


def _is_opaque(nfproto: int, entry: Any) -> bool:
    """Whether this is a rule of `nft`, which has no matches and targets: it may hold on to what no second rule can
    have."""
    target = _core.split_entry(nfproto, entry)[1][-1]
    return target[2:6] == b"nft\0" and target != _core.standard_target("nft")


def _place(rule: int | Row) -> dict[str, int]:
    """How a message of the batch names *rule*."""
    return {"handle": rule} if isinstance(rule, int) else {"number": rule.number}


class TablePlan(ArrangesByMessages):
    """The verbs of `model.edits`, as messages of a batch. What was not read is not known, and is read when it is
    needed."""

    def __init__(self, socket: Socket, batch: Batch, steps: list[Any], table: Any) -> None:
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
        """The chains that get another name, by the one that the kernel knows until the batch is applied; in the order
        in which they first did."""
        self._jumps: Jumps | None = None
        self._read: dict[bytes, tuple[bytes, list[int]]] = {}
        self._to_zero: list[tuple[ChainPlan, int]] = []
        self.line: int | None = None
        """The line of the text that is being done."""
        self.depends = False

    def view(self) -> View:
        """The table as it is in the kernel; rules are read when they are asked for."""
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
        """Whether the ruleset is what it was at *generation*; what is planned on it holds as long as nobody changes
        any."""
        self.depends = True
        return self._socket.generation() == generation

    def know(self, name: str, handles: list[int]) -> None:
        """Take *handles* for those of the rules that the kernel has in chain *name*: it need not be asked."""
        self.depends = True
        chain = self._chain(name)
        if chain.rules is None:
            chain.load(list(handles))

    def current(self, name: str, positions: list[int]) -> Any:
        """{position: rule} of the rules at *positions* of chain *name*, as the kernel has them now: bytes with their
        counters."""
        if len(positions) > _FEW:
            entries = self._entries(name)
            return {position: entries[position] for position in positions}
        chain = self._chain(name)
        messages = {
            position: self._socket.get_rule(self.nfproto, self._label, chain.label, self._loaded(chain)[position])
            for position in positions
        }
        return {position: entries_of(self.nfproto, message, self._socket)[0] for position, message in messages.items()}

    def lacks(self, name: str) -> bool:
        """Whether there is no chain of that name, with what the batch does so far."""
        chain = self._find(name)
        return chain is None or not chain.handle

    def seal(self) -> None:
        """What must stand at the end of the batch: chains get the names that they have at last."""
        for old, chain in self._renamed.items():
            label = _core.chain_label(chain.name)
            if chain.name != old:
                self._noted(
                    self._batch.rename_chain(self.nfproto, self._label, chain.handle, label), "CHAIN_RENAME", chain
                )

    def finish(self, socket: Socket) -> None:
        """What can be done only once the batch is applied: zero the rules that cannot be replaced."""
        for chain, handle in self._to_zero:
            socket.zero_rule(self.nfproto, self._label, chain.label, handle)

    # what is there

    def _rules(self, label: bytes) -> Any:
        """(messages, handles) of the rules that the kernel has in the chain that it knows as *label*."""
        self.depends = True
        if label not in self._read:
            self._read[label] = self._scan.chain_rules(label)
        return self._read[label]

    def _entries(self, name: str) -> Any:
        return entries_of(self.nfproto, self._rules(_core.text_bytes(name, "a chain name"))[0], self._socket)

    def _look(self, name: str) -> tuple[str | None, int] | None:
        """(policy, handle) of a chain, or None."""
        if name in self._builtins or self._listed is None and len(self._chains) < _FEW:
            return self._scan.find_chain(_core.text_bytes(name, "a chain name"))
        if self._listed is None:
            self._listed = {name: (policy, handle) for name, policy, _, handle, _ in self._scan.list_chains()}
        return self._listed.get(name)

    def _find(self, name: str) -> ChainPlan | None:
        """The `ChainPlan` of *name*, or None where there is none."""
        if name not in self._chains:
            label, hook = _core.text_bytes(name, "a chain name"), self._builtins.get(name)
            found = self._look(name)
            if found is not None:
                self._chains[name] = ChainPlan(name, label, found[0], found[1], hook)
            else:
                self._chains[name] = None if hook is None else ChainPlan(name, label, "ACCEPT", 0, hook, [])
        return self._chains[name]

    def _chain(self, name: str) -> ChainPlan:
        """The chain that the present operation is about."""
        chain = None if name is None else self._find(name)
        if chain is None:
            raise refusal(errno.ENOENT)
        return chain

    def _loaded(self, chain: ChainPlan) -> Any:
        """The rules of *chain*, read if they must be."""
        if chain.rules is None:
            chain.load(self._rules(chain.label)[1])
        return chain.rules

    # messages

    def _noted(self, number: int, verb: str, chain: ChainPlan, entry: Any = None) -> Any:
        """Say what message *number* is for, in the word that iptables has for it."""
        self._steps.append((number, self.nfproto, self.line, verb, chain.name, entry))
        return number

    def _make_table(self) -> None:
        if not self._made:
            self._made = True
            self._batch.add_table(self.nfproto, self._label)

    def _base(self, chain: ChainPlan, policy: str, counters: tuple[int, int] | None) -> None:
        """Create a base chain, or change it."""
        self._make_table()
        hook, kind, priority = chain.hook
        number = self._batch.add_base_chain(
            self.nfproto, self._label, chain.label, hook, kind, priority, _POLICIES[policy], counters
        )
        self._noted(number, "CHAIN_UPDATE" if chain.handle else "CHAIN_ADD", chain)
        chain.policy = policy
        if not chain.handle:
            self.depends = True
            chain.handle = _NEW

    def _used(self, name: str) -> Any:
        """The chain, made if it is a base chain that nobody has used yet."""
        chain = self._chain(name)
        if not chain.handle:
            self._base(chain, "ACCEPT", (0, 0))
        return chain

    def _encoded(self, entry: Any) -> Any:
        if self._renamed:
            # the kernel knows a chain by its old name until the batch is applied
            name = self._jump_of(entry)
            chain = self._chains.get(name)
            if chain is not None and self._renamed.get(chain.old_name) is chain:
                entry = _core.retarget(self.nfproto, entry, name, chain.old_name)
        return codec.encode(self.nfproto, entry)

    def _jump_of(self, entry: bytes) -> str:
        """The name of the chain that *entry* jumps to, or ""."""
        return _core.jump_of(self.nfproto, entry).decode("utf-8", "surrogateescape")

    def _decoded(self, chain: ChainPlan) -> Any:
        """{handle: rule} of the rules that the kernel has in *chain*, which jump to chains by the names that these have
        by now."""
        there = dict(codec.decode_rules(self.nfproto, self._rules(chain.label)[0], self._socket))
        for handle, entry in there.items() if self._renamed else ():
            moved = self._renamed.get(self._jump_of(entry))
            if moved is not None:
                there[handle] = _core.retarget(self.nfproto, entry, moved.old_name, moved.name) or entry
        return there

    def _new(self, chain: ChainPlan, number: int, verb: str, entry: Any) -> Any:
        """The row of a rule that message *number* makes."""
        row = Row(entry, self._noted(number, verb, chain, entry))
        if self._jumps is not None:
            self._jumps.note(row, chain)
        return row

    def _gone(self, rule: int | Row) -> None:
        """Note that *rule* is to be deleted or replaced."""
        if self._jumps is not None and not isinstance(rule, int):
            self._jumps.forget(rule)

    def _insert(self, chain: ChainPlan, entry: Any, **place: int) -> Any:
        number = self._batch.insert_rule(self.nfproto, self._label, chain.label, self._encoded(entry), **place)
        return self._new(chain, number, "RULE_INSERT", entry)

    def _replace(self, chain: ChainPlan, position: int, entry: Any) -> None:
        rule = chain.rules[position]
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

    def append(self, name: str, entry: Any) -> None:
        """`iptables -A`."""
        chain = self._used(name)
        number = self._batch.add_rule(self.nfproto, self._label, chain.label, self._encoded(entry))
        chain.append(self._new(chain, number, "RULE_APPEND", entry))

    def insert(self, name: str, entry: Any, position: int) -> None:
        """`iptables -I`; *position* counts from 0."""
        chain = self._used(name)
        if not position:
            chain.insert(0, self._insert(chain, entry))
            return
        rules = self._loaded(chain)
        if position > len(rules):
            raise refusal(errno.E2BIG)
        if position == len(rules):
            self.append(name, entry)
        else:
            chain.insert(position, self._insert(chain, entry, **_place(rules[position])))

    def replace(self, name: str, entry: Any, position: int) -> None:
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
            raise refusal(errno.E2BIG)

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
        """`iptables -Z CHAIN`: each rule that has counted is replaced."""
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
        """The `ChainView` of a chain, with what this batch has done so far."""
        rules = self._loaded(chain)
        if chain.view is None:
            there = self._decoded(chain) if chain.handle != _NEW else {}
            entries = [
                there[rule] if isinstance(rule, int) else codec.stored(self.nfproto, rule.entry) for rule in rules
            ]
            chain.view = ChainView(self.nfproto, chain.name, read=lambda: entries, stored=codec.stored)
        return chain.view

    def _zero_at(self, chain: ChainPlan, position: int) -> None:
        rule = chain.rules[position]
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
            raise refusal(errno.EEXIST)
        self._vacate(name)
        self._make_table()
        chain = self._chains[name] = ChainPlan(name, label, None, _NEW, None, [])
        self._noted(self._batch.add_chain(self.nfproto, self._label, label), "CHAIN_USER_ADD", chain)

    def delete_chain(self, name: str) -> None:
        """`iptables -X CHAIN`."""
        chain = self._chain(name)
        if chain.hook is not None:
            raise refusal(errno.EINVAL)
        self._renamed.pop(chain.old_name, None)
        self._drop_chain(chain)

    def _drop_chain(self, chain: ChainPlan) -> None:
        """Delete a chain that is empty; a builtin one is made again when it is used."""
        self._noted(self._batch.delete_chain(self.nfproto, self._label, chain.label), "CHAIN_DEL", chain)
        self._chains[chain.name] = (
            None if chain.hook is None else ChainPlan(chain.name, chain.label, "ACCEPT", 0, chain.hook, [])
        )

    def drop_chain(self, name: str) -> None:
        """Delete a builtin chain that is empty, so that it is as if nobody had used it."""
        chain = self._chain(name)
        if chain.handle:
            self._drop_chain(chain)

    def drop_table(self) -> None:
        """Delete the table, in which there is nothing any more."""
        self._batch.delete_table(self.nfproto, self._label)

    def rename_chain(self, name: str, new: str) -> None:
        """`iptables -E`."""
        _core.chain_label(new)
        chain = self._chain(name)
        if new in self._builtins:
            raise refusal(errno.EEXIST)
        if chain.hook is not None:
            raise refusal(errno.ENOENT)
        if self._find(new) is not None:
            raise refusal(errno.EEXIST)
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
            row.entry = _core.retarget(self.nfproto, row.entry, name, new)
            known.note(row, other)
        for other in filter(None, self._chains.values()):
            other.view = None
        self._chains[name], self._chains[new] = None, chain
        chain.name = new

    def _rename_new(self, chain: ChainPlan, name: str, new: str) -> None:
        """A chain that this batch makes has no handle to be renamed by."""
        jumps = [(other, self._loaded(other).position(row), row.entry) for row, other in self._find_jumps().to(name)]
        self._supplant(chain, new, [row.entry for row in chain.rules], jumps)

    def _vacate(self, label: str) -> None:
        """Let no chain of the kernel have the name *label*: one that has got another name has it until the batch is
        applied, in the way of whatever else is to have it."""
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
        """Let another chain, with the name *new* and these rules, take the place of *chain*; *jumps*: chain, position
        and bytes of the rules that jump to it."""
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
        """Where the rules of this batch jump to."""
        if self._jumps is None:
            jumps = self._jumps = Jumps(self.nfproto)
            for chain in filter(None, self._chains.values()):
                for row in chain.new_rules():
                    jumps.note(row, chain)
        return self._jumps

    def set_policy(self, name: str, policy: str, counters: tuple[int, int] | None = None) -> Any:
        """`iptables -P`, and the counters if they are given; whether they were others."""
        chain = self._chain(name)
        if chain.policy is None:
            raise refusal(errno.ENOENT)
        if policy not in _POLICIES:
            raise refusal(errno.EINVAL)
        differs = policy != chain.policy
        if counters is not None and self.line is None:
            # of a text nobody asks
            differs = differs or tuple(counters) != self._policy_counters(name)
        if counters is None and not chain.handle:
            counters = (0, 0)
        self._base(chain, policy, counters)
        return differs

    def _policy_counters(self, name: str) -> tuple[int, int]:
        """What the policy of a builtin chain has counted in the kernel."""
        self.depends = True
        found = [counters for each, _, counters, *_ in self._scan.list_chains() if each == name]
        return (found and found[0]) or (0, 0)

    # what a restored text needs

    def begin(self, program: Program) -> None:
        """Begin with an empty table, unless the rules that are there are to stay. As with iptables-nft-restore, a
        builtin chain that the text does not name is not there any more then: its policy goes with it."""
        listed = (
            [(name, policy) for name, policy, _, handle, _ in self._scan.list_chains() if handle]
            if program.flush
            else []
        )
        if listed:
            self.depends = True
        named = program.declared() if listed else ()
        for name, _ in listed:
            self.flush(name)
        for name, _ in listed:
            if name not in named:
                self._drop_chain(self._chain(name))

    def take(self, rule: Run) -> bytes:
        """The bytes of a rule; where it jumps to is looked at by the kernel."""
        return rule.entry

    def append_run(self, run: Run) -> None:
        """Commands `-A` that follow each other: nearly all that a text has."""
        for self.line, name, part in run.parts():
            self._append_part(name, part)

    def _append_part(self, name: str, run: Run) -> None:
        """Those of one chain."""
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
        """The names of the chains that are used, with what this batch has done so far."""
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
        """The policy of a chain, "" of a user chain, None where there is none."""
        chain = self._find(name)
        return None if chain is None else chain.policy or ""

    def locate(self, name: str, rule: Run) -> int:
        """The position of the first rule that is the same as *rule*."""
        position = self._view_of(self._chain(name)).find(rule.entry)
        if position is None:
            raise refusal(errno.ENOENT)
        return position
