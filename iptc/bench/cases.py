"""Test cases in a TOML file: packets, and the expected verdict of each."""

from __future__ import annotations

import errno
import time

from ..errors import IPTCError, ParameterError
from . import expecting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .bench import Bench
    from .verdict import Verdict

_OF_CASE = frozenset({"name", "in", "expect"})
_OF_FILE = frozenset({"case", "interfaces", "routes", "backend", "sets", "sysctls"})


class Case:
    """One test case: its `name`, the interface, the packet, and what is expected."""

    def __init__(self, number: int, said: Any) -> None:
        if not isinstance(said, dict):
            raise ParameterError(f"case {number} must be a table: [[case]]")
        self.name = str(said.get("name", f"case {number}"))
        unknown = sorted(set(said) - _OF_CASE - expecting.PACKET - expecting.BESIDES)
        if unknown:
            raise ParameterError(f"case {self.name!r}: there is no {', '.join(unknown)}")
        if "expect" not in said:
            raise ParameterError(f"case {self.name!r} does not say what to expect")
        self.interface: str | None = said.get("in")
        try:
            self.expected = expecting.verdict_word(said["expect"])
        except ParameterError as error:
            raise ParameterError(f"case {self.name!r}: {error}") from None
        self.packet = {key: value for key, value in said.items() if key in expecting.PACKET}
        self.besides = {key: value for key, value in said.items() if key in expecting.BESIDES}

    def run(self, bench: Bench) -> Result:
        """Send the packet and compare. Return the `Result`."""
        started = time.perf_counter()
        try:
            verdict = bench.send(self.interface, **self.packet)
        except ParameterError as error:
            raise ParameterError(f"case {self.name!r}: {error}") from None
        wrong = expecting.complaints(verdict, self.expected, self.besides)
        return Result(self, verdict, wrong, time.perf_counter() - started)


class Result:
    """The result of a case: its `verdict`, a list of what is `wrong` ([] if it passed), and the seconds that it
    took."""

    __slots__ = ("case", "verdict", "wrong", "seconds")

    def __init__(self, case: Case, verdict: Verdict, wrong: list[str], seconds: float) -> None:
        self.case = case
        self.verdict = verdict
        self.wrong = wrong
        self.seconds = seconds


class Cases:
    """A file of test cases. `interfaces`, `routes`, `backend`, `sets` and `sysctls` are as for `Bench`; None if not
    given."""

    def __init__(self, path: str) -> None:
        import tomllib

        try:
            with open(path, "rb") as file:
                said = tomllib.load(file)
        except OSError as error:
            raise IPTCError(f"Can't open {path}: {error.strerror}", error.errno or errno.EIO) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ParameterError(f"{path}: {error}") from None
        unknown = sorted(set(said) - _OF_FILE)
        if unknown:
            raise ParameterError(f"{path}: there is no {', '.join(unknown)}")
        listed = said.get("case", [])
        if not isinstance(listed, list):
            raise ParameterError(f"{path}: cases are written as [[case]]")
        self.cases = [Case(number, each) for number, each in enumerate(listed, 1)]
        self.interfaces: Any = said.get("interfaces")
        self.routes: Any = said.get("routes")
        self.backend: str | None = said.get("backend")
        self.sets: Any = said.get("sets")
        self.sysctls: Any = said.get("sysctls")

    def run(self, bench: Bench) -> Iterator[Result]:
        """Yield the `Result` of each case."""
        for case in self.cases:
            yield case.run(bench)
