"""The command `iptc`: one module for each of its commands, and a few that the commands share."""

from __future__ import annotations

__all__ = ["main", "run"]


def run() -> int:
    """Run the command as a program of its own, which ends behind this; return its exit status."""
    # the bare module, without the weight of the one around it
    import _signal  # type: ignore[import-not-found]

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        # while modules are loaded, and at the very end, there is nothing to tidy up: an interrupt ends the process
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    return main()


def main(arguments: list[str] | None = None) -> int:
    """Run the command with *arguments* (`sys.argv`) and return its exit status."""
    try:
        # here and not above: an interrupt while this is loaded ends the command as any other does
        from . import dispatch

        return dispatch.main(arguments)
    except KeyboardInterrupt as stop:
        # SIGINT, without the weight of the module that names it
        return 128 + getattr(stop, "number", 2)
