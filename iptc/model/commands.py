"""Does the commands of a restored text to a table, one after the other: the one interpreter of them, for every kind of
table."""

from __future__ import annotations

from ..errors import IPTCError, ParameterError, at_line, kernel_error
from ..language.program import visible
from . import edits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..language.program import Program


_BY_LETTER = {kind.letter: kind for kind in vars(edits).values() if getattr(kind, "letter", None)}


def interpret(program: Program, handle: Any) -> None:
    """Do what *program* says to *handle*: a view, a draft, a handle of libiptc or the plan of a batch.

    Beside the verbs of single edits a handle has `begin(program)`; `take(rule)`, which checks where a rule jumps to and
    returns its bytes; `append_run(run)`; `locate(chain, rule)`; `policy_of(chain)`, "" for a user chain and None for
    none; `chain_names(of_users)`; and `line`, the line of the text that is being done, with which `append_run` counts
    on.

    What cannot be done is raised in iptables' words, with the number of the line as `line`; what was done so far is not
    to be sent.
    """
    handle.begin(program)
    for line, letter, chain, number, rule, other, counters in program.commands(runs=True):
        handle.line = line
        kind = _BY_LETTER[letter]
        command = edits.TextCommand(chain or "", number, rule, other, counters)
        try:
            if chain or not kind.of_all:
                kind.in_text(handle, program, command)
                continue
            for command.chain in handle.chain_names(kind.of_all == "chains of users"):
                kind.in_text(handle, program, command)
        except ParameterError as error:
            said = f"line {handle.line}: {visible(str(error).strip())}"
            raise at_line(type(error)(said), handle.line, error.status) from None
        except OSError as error:
            if isinstance(error, IPTCError):
                raise
            reason = kind.reason_in_text(error.errno, number)
            raise at_line(kernel_error(f"line {handle.line} failed", error.errno, reason), handle.line) from None
    handle.line = None
