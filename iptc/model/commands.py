"""Carries out the commands of a restored text, one after the other, on any kind of table."""

from __future__ import annotations

from ..errors import IPTCError, ParameterError, at_line, kernel_error
from ..language.restored_text import visible
from . import edits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..language.restored_text import RestoredTable
    from .handle import Handle


_BY_LETTER = {kind.letter: kind for kind in vars(edits).values() if getattr(kind, "letter", None)}


def interpret(restored: RestoredTable, handle: Handle) -> None:
    """Carry out the commands of *restored* on *handle*: a `View`, a draft, libiptc's handle, or the plan of a batch.

    A handle has the verbs of single edits (see `model.edits`), and for texts:

    begin(restored): empty the table, unless its rules are to stay.
    take(rule): return the bytes of a rule, after checking that the chain to which it jumps exists.
    append_run(run): append the rules of commands `-A` that follow each other.
    locate(chain, rule): return the position of the first rule that is the same.
    policy_of(chain): return the policy, "" for a user chain, None if there is no such chain.
    chain_names(of_users): return the names of all chains, or of the user chains.
    line: the number of the line that is being carried out. `append_run` counts it on.

    Raises what iptables says, with the number of the line as `line`. Then the handle is not to be sent.
    """
    handle.begin(restored)
    for command in restored.steps():
        handle.line = command.line
        kind = _BY_LETTER[command.letter]
        try:
            if command.chain or not kind.of_all:
                kind.in_text(handle, restored, command)
                continue
            for command.chain in handle.chain_names(kind.of_all == "chains of users"):
                kind.in_text(handle, restored, command)
        except ParameterError as error:
            said = f"line {handle.line}: {visible(str(error).strip())}"
            raise at_line(type(error)(said), handle.line, error.status) from None
        except OSError as error:
            if isinstance(error, IPTCError):
                raise
            reason = kind.reason_in_text(error.errno, command.number)
            raise at_line(kernel_error(f"line {handle.line} failed", error.errno, reason), handle.line) from None
    handle.line = None
