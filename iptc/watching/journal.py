"""A journal of changes: a folder of files to which lines are added. The rules of any moment can be read from it.

Each file begins with all rules at that time, and then has a line of JSON for each change. So a file can be read without
the others, and old files can be deleted. A line is written at once. A last line that a crash has cut off is ignored.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import time
from datetime import datetime
from io import FileIO

from .. import _core
from ..errors import KernelError, NotFound, ParameterError, kernel_error
from ..nft.reader import BUILTIN_CHAINS
from .watch import FAMILIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Any, Self

    from .._types import Path
    from ..managing.difference import ChainDifference
    from ..managing.ruleset_value import Ruleset
    from .watch import TableChange

    _State = dict[str, dict[str, dict[str, dict[str, "_Chain"]]]]
    """{back end: {family: {table: {chain: …}}}}"""
    _Chain = tuple[str | None, list[str]]

DEFAULT = "/var/lib/iptc/journal"
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z(-[0-9]+)?\.jsonl")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


# ------------------------------------------------------------------ states


def state_of(rulesets: dict[str, Ruleset]) -> _State:
    """Return the state to store for {back end: ruleset}."""
    state: _State = {}
    for backend, ruleset in rulesets.items():
        families = state.setdefault(backend, {})
        for table in ruleset.tables:
            tables = families.setdefault(FAMILIES[table.ip_version], {})
            tables[table.name] = {chain.name: (chain.policy, list(chain.rules)) for chain in table}
    return state


def _said(state: _State, backend: str) -> dict[tuple[str, str, str], _Chain]:
    """Return the chains of a back end, except those that the kernel has without our doing."""
    return {
        (family, table, name): chain
        for family, tables in state.get(backend, {}).items()
        for table, chains in tables.items()
        for name, chain in chains.items()
        if chain[0] != "ACCEPT" or chain[1]
    }


def _tables_of(ruleset: Ruleset) -> dict[str, list[str]]:
    """Return {family: the tables that exist}."""
    return {
        family: [table.name for table in ruleset.tables if table.ip_version == version]
        for version, family in FAMILIES.items()
    }


def tables_text(state: _State, backend: str, family: str) -> str:
    """Return the tables of a family as `iptables-save` prints them, without counters."""
    lines = []
    for name, chains in state.get(backend, {}).get(family, {}).items():
        lines.append(f"*{name}\n")
        lines += [f":{chain} {policy or '-'} [0:0]\n" for chain, (policy, _) in chains.items()]
        lines += [f"-A {chain} {rule}".rstrip(" ") + "\n" for chain, (_, rules) in chains.items() for rule in rules]
        lines.append("COMMIT\n")
    return "".join(lines)


def _edit_of(chain: ChainDifference) -> dict[str, Any]:
    """Return the edit that turns the old chain of a state into the new one."""
    if chain.deleted:
        return {"chain": chain.name, "gone": True}
    hunks = [
        [start, end, [chain.new.rule(position) for position in range(new_start, new_end)]]
        for start, end, new_start, new_end in chain.hunks
    ]
    edit: dict[str, Any] = {"chain": chain.name, "rules": hunks}
    if chain.created or chain.policy:
        edit["policy"] = chain.new.policy
    return edit


def _plain(table: str) -> dict[str, _Chain]:
    """Return the builtin chains of a table that no program has used."""
    return {_core.HOOKS[hook]: ("ACCEPT", []) for hook, *_ in BUILTIN_CHAINS[table]}


def _do(tables: dict[str, dict[str, _Chain]], table: str, edits: list[dict[str, Any]]) -> None:
    chains = tables.setdefault(table, _plain(table))
    for edit in edits:
        name = edit["chain"]
        if edit.get("gone"):
            chains.pop(name, None)
            continue
        policy, rules = chains.get(name, (None, []))
        rules = rules[:]
        for start, end, new in reversed(edit["rules"]):
            rules[start:end] = new
        chains[name] = (edit.get("policy", policy), rules)


def _settled(tables: dict[str, dict[str, _Chain]]) -> dict[str, dict[str, _Chain]]:
    """Return the chains in the order in which they are printed: builtin chains, then user chains by name."""
    return {
        table: dict(
            [
                *((name, chain) for name, chain in chains.items() if chain[0] is not None),
                *sorted((name, chain) for name, chain in chains.items() if chain[0] is None),
            ]
        )
        for table, chains in tables.items()
    }


# ----------------------------------------------------------------- writing


class Journal:
    """A folder to which changes are written. Only one process can write to it at a time.

    When a file has *size* bytes, a new one is begun. If there are more than *files*, the oldest are deleted.
    """

    def __init__(self, folder: Path, size: int = 1 << 24, files: int = 64) -> None:
        if size < 1 or files < 1:
            raise ParameterError("a journal has one file and one byte at least")
        self._folder = os.fsdecode(os.fspath(folder))
        self._size = size
        self._files = files
        self._file: FileIO | None = None
        self._lock: FileIO | None = None
        self._written = 0
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            self._lock = FileIO(
                os.open(os.path.join(self._folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+"
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise KernelError(
                f"somebody else writes to the journal {self._folder}", error.errno, error.strerror
            ) from None
        except OSError as error:
            self.close()
            raise kernel_error(f"can't write to the journal {self._folder}", error.errno, error.strerror) from None

    def close(self) -> None:
        """Close the journal."""
        for file in (self._file, self._lock):
            if file is not None:
                file.close()
        self._file = self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, rulesets: dict[str, Ruleset]) -> bool:
        """Begin a file with the rules as they are now. Return whether they differ from those at the end of the last
        file."""
        state = state_of(rulesets)
        before = None
        if self._file is None and _names(self._folder):
            before = _ended(self._folder)
        line = {"schema": 1, "when": _now(), "state": state}
        differs = before is not None and any(_said(before, backend) != _said(state, backend) for backend in state)
        if differs:
            line["unwatched"] = True
        self._open()
        self._write([line])
        self._tidy()
        return differs

    def _open(self) -> None:
        """Create a file with a new name."""
        if self._file is not None:
            self._file.close()
            self._file = None
        stem = _now().replace("-", "").replace(":", "")
        for number in range(1000):
            name = f"{stem}{f'-{number}' if number else ''}.jsonl"
            try:
                fd = os.open(
                    os.path.join(self._folder, name),
                    os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC,
                    0o600,
                )
                self._file = FileIO(fd, "a")
            except FileExistsError:
                continue
            except OSError as error:
                raise kernel_error(f"can't write to the journal {self._folder}", error.errno, error.strerror) from None
            self._written = 0
            return
        raise AssertionError("a name is free among a thousand")

    def write(self, changes: Iterable[TableChange], rulesets: dict[str, Ruleset]) -> None:
        """Write *changes*. *rulesets* are the rules after them. When this returns, the lines are on the disk."""
        self._write(
            [
                {
                    **change.as_dict(),
                    "edits": list(map(_edit_of, change.difference.chains)),
                    "tables": _tables_of(rulesets[change.backend]),
                }
                for change in changes
            ]
        )
        if self._written >= self._size:
            self.begin(rulesets)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        data = b"".join([json.dumps(line, ensure_ascii=True).encode() + b"\n" for line in lines])
        file = self._file
        if file is None:
            raise KernelError("this journal is closed", errno.EBADF, os.strerror(errno.EBADF))
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(file.fileno(), left) :]
            os.fdatasync(file.fileno())
        except OSError as error:
            raise kernel_error(f"can't write to the journal {self._folder}", error.errno, error.strerror) from None
        self._written += len(data)

    def _tidy(self) -> None:
        for name in _names(self._folder)[: -self._files]:
            try:
                os.unlink(os.path.join(self._folder, name))
            except OSError as error:
                raise kernel_error(f"can't tidy the journal {self._folder}", error.errno, error.strerror) from None


def _now() -> str:
    from datetime import UTC

    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


# ----------------------------------------------------------------- reading


def _names(folder: str) -> list[str]:
    """Return the names of the files of a journal, the oldest first."""
    try:
        return sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))
    except OSError as error:
        raise kernel_error(f"can't read the journal {folder}", error.errno, error.strerror) from None


def _lines(folder: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file, except one that a crash has cut off."""
    path = os.path.join(folder, name)
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    said = json.loads(line)
                    if not isinstance(said, dict) or "when" not in said:
                        raise ValueError
                except ValueError:
                    raise ParameterError(f"line {number} of {path} is no line of a journal") from None
                yield said
    except FileNotFoundError:
        # the writer has deleted this old file meanwhile
        return
    except OSError as error:
        raise kernel_error(f"can't read the journal {folder}", error.errno, error.strerror) from None


def read(folder: Path = DEFAULT, since: float | None = None, until: float | None = None) -> Iterator[dict[str, Any]]:
    """Yield the changes in *folder* from *since* to *until* (`time.time()`), each as `TableChange.as_dict()`.

    If the rules have changed while no process was watching, there is an item `{"unwatched": True}` with the time.
    """
    folder = os.fsdecode(os.fspath(folder))
    names = _names(folder)
    for place, name in enumerate(names):
        # the last change in a file is older than the next file
        if since is not None and place + 1 < len(names) and _begun(names[place + 1]) < since:
            continue
        for said in _lines(folder, name):
            when = _seconds(said["when"])
            if until is not None and when > until:
                return
            if since is not None and when < since:
                continue
            if "state" in said:
                if said.get("unwatched"):
                    yield {"schema": 1, "when": said["when"], "unwatched": True}
                continue
            yield {key: value for key, value in said.items() if key not in ("edits", "tables")}


def state_at(folder: Path = DEFAULT, when: float | None = None) -> _State:
    """Return the rules at the time *when* (`time.time()`; None: at the end of the journal). Raises `NotFound` if the
    journal begins later."""
    folder = os.fsdecode(os.fspath(folder))
    state: _State | None = None
    for name in reversed(_names(folder)):
        if when is not None and _begun(name) > when:
            continue
        for said in _lines(folder, name):
            if when is not None and _seconds(said["when"]) > when:
                break
            if "state" in said:
                state = {
                    backend: {
                        family: {
                            table: {chain: (policy, rules) for chain, (policy, rules) in chains.items()}
                            for table, chains in tables.items()
                        }
                        for family, tables in families.items()
                    }
                    for backend, families in said["state"].items()
                }
            elif state is not None:
                families = state.setdefault(said["backend"], {})
                _do(families.setdefault(said["family"], {}), said["table"], said["edits"])
                for family, names in said["tables"].items():
                    tables = families.get(family, {})
                    families[family] = {name: tables.get(name) or _plain(name) for name in names}
        if state is not None:
            return {
                backend: {family: _settled(tables) for family, tables in families.items()}
                for backend, families in state.items()
            }
    raise NotFound(f"the journal {folder} has nothing of that time")


def _ended(folder: str) -> _State | None:
    try:
        return state_at(folder)
    except (NotFound, ParameterError):
        return None


def _begun(name: str) -> float:
    stem = name.partition("Z")[0]
    return datetime.strptime(stem + "+0000", "%Y%m%dT%H%M%S.%f%z").timestamp()


def _seconds(when: str) -> float:
    return datetime.fromisoformat(when).timestamp()


def moment(text: str, now: float | None = None) -> float:
    """Return the time that *text* gives: `1h`, `30m` or `2d` ago, seconds since 1970 as `@1764236400`, or ISO 8601.

    Without a time zone it is local time. Raises `ParameterError` for anything else.
    """
    now = time.time() if now is None else now
    word = text.strip().removeprefix("@")
    if word in ("now", ""):
        return now
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", word)
    if found:
        return now - float(found[1]) * _UNITS[found[2]]
    if re.fullmatch(r"[0-9]{9,}(\.[0-9]+)?", word):
        return float(word)
    try:
        return datetime.fromisoformat(word).timestamp()
    except (ValueError, OverflowError):
        raise ParameterError(f"no time: {text!r}; say 1h, 2026-11-27T10:00 or seconds since 1970") from None
