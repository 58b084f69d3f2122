"""A whole host's rules: all tables of a family as the text of iptables-save, and back."""

from __future__ import annotations

from . import _core, state, trial
from ._applied import telling
from .errors import KernelError, ParameterError, ParameterTypeError
from .language import printing
from .lock import checked_lock_file, checked_wait
from .model.restoring import AtCommit, Restore, one_source, programs
from .model.saved import rule_line, text_of_empty
from .namespace import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ._types import Family, LockFile, Netns, Pair, Path, Source, Wait
    from .model.views import ChainView


def save(
    ipv6: bool = False,
    counters: bool = False,
    *,
    table: str | None = None,
    all_tables: bool = False,
    backend: str | None = None,
    netns: Netns = None,
) -> str:
    """Return all tables of a family as text, as `iptables-save` writes them; with *counters* those of the rules too
    (`-c`).

    Only tables that are in use, or that named *table* (`-t`): looking creates none. Each table is of one moment, the
    tables are not of the same. With *all_tables* those that are not in use are in the text too, empty: to restore it
    takes away what has been added to them since. Tables that this kernel does not have are left out, as far as it can
    be asked.
    """
    nfproto = _family(ipv6)
    place = Place(netns)
    table = _checked_name(table)
    if table is not None and all_tables:
        raise ParameterError("one table is to be saved, or all of them: not both")
    names = state.tables_in_use(nfproto, place, backend) if table is None else [table]
    texts = [state.table_at(nfproto, name, place, backend).save(counters) for name in names]
    if all_tables:
        others = {name: chains for name, chains in state.builtin_chains().items() if name not in names}
        legacy = state.side_at(place, backend) != "nft"
        lacking = legacy and trial.lacking(nfproto, others) or ()
        texts += [text_of_empty(name, chains) for name, chains in others.items() if name not in lacking]
    return "".join(texts)


@telling
def restore(
    source: Source | None = None,
    ipv6: bool = False,
    counters: bool = False,
    flush: bool = True,
    test: bool = False,
    *,
    path: Path | None = None,
    table: str | None = None,
    backend: str | None = None,
    netns: Netns = None,
    wait: Wait = None,
    lock_file: LockFile = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Make the tables of a family what *source* says, as `iptables-restore`; return how many rules it has.

    *source* is text (a string with a line break), a path or an open file, which is read in pieces; *path*, in its
    stead, is always a path. Each table is sent where its `COMMIT` stands, so a mistake in a later one leaves those
    before it restored, and changes nothing of its own; with *test* none is sent (`--test`). With *counters* the
    counters of the text are set (`-c`); without *flush* the rules that are there stay (`--noflush`). Only *table* is
    restored, where one is named (`-T`). *backend*, *wait* and *lock_file* are as for `Table`. progress(bytes) is called
    as the text is read.

    `ParameterError` or `KernelError` with the number of the line as `line`, and iptables' own message.
    """
    given = _Given(ipv6, table, backend, netns, wait, lock_file)
    rules = 0
    for program in given.programs(one_source(source, path), counters, flush, progress):
        if test:
            given.rehearse(program)
        else:
            given.send(program)
        rules += program.rules
    return rules


def check(
    source: Source | None = None,
    ipv6: bool = False,
    counters: bool = False,
    flush: bool = True,
    *,
    path: Path | None = None,
    table: str | None = None,
    backend: str | None = None,
    netns: Netns = None,
    wait: Wait = None,
    lock_file: LockFile = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Find out whether `restore` could do *source*, with the same arguments; return how many rules it has.

    Beyond restore(test=True) the kernel is asked, in a network namespace of its own, for what it refuses only at
    COMMIT, where the right to make one is there (CAP_SYS_ADMIN).
    """
    given = _Given(ipv6, table, backend, netns, wait, lock_file)
    rules = 0
    for program in given.programs(one_source(source, path), counters, flush, progress):
        given.rehearse(program)
        with AtCommit(program):
            refused = trial.refusal(given.table_of(program), program)
            if refused is not None:
                raise refused
        rules += program.rules
    return rules


class _Given:
    """Where a text is restored, and how: the arguments of `restore`."""

    def __init__(
        self,
        ipv6: bool,
        table: str | None,
        backend: str | None,
        netns: Netns,
        wait: Wait,
        lock_file: LockFile,
    ) -> None:
        self._nfproto = _family(ipv6)
        self._only = _checked_name(table)
        self._backend = backend
        self._place = Place(netns)
        self.settings: dict[str, Any] = {"wait": checked_wait(wait), "lock_file": checked_lock_file(lock_file)}

    def _table_at(self, name: str) -> Any:
        return state.table_at(self._nfproto, name, self._place, self._backend)

    def table_of(self, program: Any) -> Any:
        """The table that *program* is for."""
        return self._table_at(program.table)

    def rehearse(self, program: Any) -> None:
        """Do *program* as it will be done, and send nothing."""
        state.rehearse(self.table_of(program), [Restore(program)], **self.settings)

    def send(self, program: Any) -> None:
        """Do *program*; what the kernel refuses of a legacy table as a whole is looked for, and named."""
        table = self.table_of(program)
        try:
            with AtCommit(program):
                state.send(table, [Restore(program)], **self.settings)
        except KernelError as error:
            trial.name_rule(error, table, program)
            raise

    def _begun(self, name: str) -> Any:
        there = self._table_at(name)
        there.require()
        return there.backend

    def programs(
        self,
        source: Any,
        counters: bool,
        flush: bool,
        progress: Callable[[int], object] | None,
    ) -> Any:
        """The programs of *source*, a table each."""
        return programs(self._nfproto, source, counters, flush, self._only, self._begun, self.rehearse, progress)


def parse(
    source: Source,
    ipv6: bool = False,
    counters: bool = False,
    flush: bool = True,
    table: str | None = None,
    progress: Callable[[int], object] | None = None,
    backend: str | None = None,
) -> int:
    """Read *source* as `restore` does, without the kernel, and return how many rules it has.

    What depends on a table is not found out: whether a chain is there, or a position. It is read as on *backend*, else
    on that in use here.
    """
    table = _checked_name(table)
    try:
        side = state.side_at(Place(None), backend)
    except KernelError:
        side = None
    found = programs(_family(ipv6), source, counters, flush, table, lambda name: side, lambda program: None, progress)
    return sum(program.rules for program in found)


def chains(table: str, ipv6: bool = False, netns: Netns = None) -> list[ChainView]:
    """Return the chains of a table as they are now, as `views.ChainView`s."""
    return list(state.table_at(_family(ipv6), table, Place(netns)).read().in_order())


def side_of(netns: Netns = None) -> str:
    """The name of the back end in use in the namespace *netns*, or in that of the caller."""
    return state.side_at(Place(netns))


def listing(chains: Iterable[ChainView], counters: bool = False) -> str:
    """Return *chains* as `iptables -S` prints them, with *counters* as `iptables -S -v`.

    Behind a rule that only `nft` can read stands what it consists of.
    """
    lines = []
    for chain in chains:
        count = " -c {} {}".format(*chain.counters or (0, 0)) if counters and chain.policy is not None else ""
        lines.append(f"-N {chain.name}\n" if chain.policy is None else f"-P {chain.name} {chain.policy}{count}\n")
    for chain in chains:
        for entry in chain.entries:
            lines.append(rule_line(chain, entry, counters))
            expressions = expressions_of(chain, entry)
            if expressions:
                text = ", ".join(expressions)
                # names in nf_tables may hold anything
                text = text if text.isprintable() else ascii(text)[1:-1]
                lines[-1] = f"{lines[-1][:-1].rstrip()} # {text}\n"
    return "".join(lines)


def rules_of(chain: ChainView) -> list[tuple[Pair, str, list[str] | None]]:
    """Return [((packets, bytes), text, expressions)] for the rules of a chain of `chains`; see `expressions_of`."""
    nfproto = chain.nfproto
    return [
        (_core.counters_of(nfproto, entry), printing.render(nfproto, entry), expressions_of(chain, entry))
        for entry in chain.entries
    ]


def expressions_of(chain: ChainView, entry: bytes) -> list[str] | None:
    """Return what a rule of `nft` consists of, as `Target.expressions` says it, or None."""
    if b"nft\0" not in entry:
        return None
    from .nft.codec import entry_expressions

    return entry_expressions(chain.nfproto, entry)


def _checked_name(table: object) -> str | None:
    """*table*, which may be None for all."""
    if table is not None and not isinstance(table, str):
        raise ParameterTypeError(f"a table name must be a string, not {type(table).__name__}")
    return table


def _family(ipv6: bool) -> Family:
    return _core.IPV6 if ipv6 else _core.IPV4
