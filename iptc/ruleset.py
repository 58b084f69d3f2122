"""All tables of a family as the text of iptables-save, and back: save, restore, check."""

from __future__ import annotations

from . import _core, state, trial
from ._applied import telling
from .errors import KernelError, ParameterError, ParameterTypeError
from .language import printing
from .lock import checked_lock_file, checked_wait
from .model.restoring import AtCommit, Restore, one_source, restored_tables
from .model.saved import rule_line, text_of_empty
from .namespace import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ._types import Family, LockFile, Netns, Pair, Path, Source, Wait
    from .language.restored_text import RestoredTable
    from .model.backend_table import BackEndTable
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
    """Return all tables of a family as text, as `iptables-save` prints them.

    *counters*: print the counters of the rules too (`-c`). *table*: only this table (`-t`).
    *all_tables*: print tables that are not in use too, as empty ones. Restoring such a text also deletes rules that
        were added to those tables later. Tables that the kernel does not have are left out.

    Without *all_tables* only tables that are in use are printed; none is created by looking. Each table is read at one
    moment, different tables at different moments.
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
    """Replace the tables of a family by what a text says, as `iptables-restore` does. Return how many rules it has.

    *source*: the text (a string with a line break), a path, or an open file, which is read in pieces.
    *path*: always a path; given instead of *source*.
    *counters*: set the counters that the text has (`-c`).
    *flush*: False keeps the rules that are there (`--noflush`).
    *table*: restore only this table (`-T`).
    *test*: check everything and send nothing (`--test`).
    *progress*: called as progress(bytes) after each piece of the text, with the size of the piece.
    *backend*, *netns*, *wait* and *lock_file* are as for `Table`.

    Each table is sent at its `COMMIT`. If a later table has a mistake, the earlier ones stay restored, and the later
    one is not changed. Raises `ParameterError` or `KernelError` with iptables' message and the number of the `line`.
    """
    given = _Given(ipv6, table, backend, netns, wait, lock_file)
    rules = 0
    for restored in given.restored_tables(one_source(source, path), counters, flush, progress):
        if test:
            given.rehearse(restored)
        else:
            given.send(restored)
        rules += restored.rules
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
    """Find out whether `restore` with the same arguments would succeed. Return how many rules the text has.

    This finds more than restore(test=True). With CAP_SYS_ADMIN the text is also restored into a new network namespace,
    since the kernel refuses some rules only at COMMIT. The tables themselves are not changed.
    """
    given = _Given(ipv6, table, backend, netns, wait, lock_file)
    rules = 0
    for restored in given.restored_tables(one_source(source, path), counters, flush, progress):
        given.rehearse(restored)
        with AtCommit(restored):
            refused = trial.kernel_refusal(given.table_of(restored), restored)
            if refused is not None:
                raise refused
        rules += restored.rules
    return rules


class _Given:
    """The arguments of one call of `restore` or `check`."""

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
        self._wait: Wait = checked_wait(wait)
        self._lock_file: LockFile = checked_lock_file(lock_file)

    def _table_at(self, name: str) -> BackEndTable:
        return state.table_at(self._nfproto, name, self._place, self._backend)

    def table_of(self, restored: RestoredTable) -> BackEndTable:
        """Return the back end's table that *restored* is for."""
        return self._table_at(restored.table)

    def rehearse(self, restored: RestoredTable) -> None:
        """Do *restored* as `send` does it, but send nothing to the kernel."""
        state.rehearse(self.table_of(restored), [Restore(restored)], self._wait, self._lock_file)

    def send(self, restored: RestoredTable) -> None:
        """Send *restored* to the kernel. If it refuses a legacy table, find out which rule is the reason."""
        table = self.table_of(restored)
        try:
            with AtCommit(restored):
                state.send(table, [Restore(restored)], self._wait, self._lock_file)
        except KernelError as error:
            trial.name_rule(error, table, restored)
            raise

    def _begun(self, name: str) -> str:
        there = self._table_at(name)
        there.require()
        return there.backend

    def restored_tables(
        self,
        source: Source,
        counters: bool,
        flush: bool,
        progress: Callable[[int], object] | None,
    ) -> Iterator[RestoredTable]:
        """Yield a `RestoredTable` for each table of *source*."""
        return restored_tables(self._nfproto, source, counters, flush, self._only, self._begun, self.rehearse, progress)


def parse(
    source: Source,
    ipv6: bool = False,
    counters: bool = False,
    flush: bool = True,
    table: str | None = None,
    progress: Callable[[int], object] | None = None,
    backend: str | None = None,
) -> int:
    """Read *source* as `restore` does, without asking the kernel. Return how many rules it has.

    Mistakes that depend on the table are not found, such as a chain or a position that does not exist. *backend* says
    which tool's language it is; None takes that of the back end in use.
    """
    table = _checked_name(table)
    try:
        side = state.side_at(Place(None), backend)
    except KernelError:
        side = None
    found = restored_tables(
        _family(ipv6), source, counters, flush, table, lambda name: side, lambda restored: None, progress
    )
    return sum(restored.rules for restored in found)


def chains(table: str, ipv6: bool = False, netns: Netns = None) -> list[ChainView]:
    """Return the chains of a table, as they are now, as a list of `model.views.ChainView`."""
    return list(state.table_at(_family(ipv6), table, Place(netns)).read().in_order())


def side_of(netns: Netns = None) -> str:
    """Return the name of the back end that is in use in the network namespace *netns*, or in that of the caller."""
    return state.side_at(Place(netns))


def listing(chains: Iterable[ChainView], counters: bool = False) -> str:
    """Return *chains* as text, as `iptables -S` prints them; with *counters* as `iptables -S -v`.

    A rule that only `nft` can read is followed by the names of its expressions.
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
                # names in nf_tables may have any characters, also those that control a terminal
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
    """Return the expressions of a rule that only `nft` can read, as `Target.expressions` does, or None."""
    if b"nft\0" not in entry:
        return None
    from .nft.codec import entry_expressions

    return entry_expressions(chain.nfproto, entry)


def _checked_name(table: object) -> str | None:
    """Return *table*, a name or None for all tables. Raises `ParameterTypeError` for anything else."""
    if table is not None and not isinstance(table, str):
        raise ParameterTypeError(f"a table name must be a string, not {type(table).__name__}")
    return table


def _family(ipv6: bool) -> Family:
    return _core.IPV6 if ipv6 else _core.IPV4
