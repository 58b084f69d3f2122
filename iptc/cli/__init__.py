"""The command `iptc`: one module for each of its commands, and a few that the commands share."""

from __future__ import annotations

__all__ = ["main", "run"]


def run() -> int:
    """Run the command as a program of its own. Return its exit status; the process ends after that."""
    # the C module: it loads faster than `signal`
    import _signal  # type: ignore[import-not-found]  # no stub has it

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        # while modules are loaded, and at the end, nothing has to be cleaned up: an interrupt simply ends the process
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    return main()


def main(arguments: list[str] | None = None) -> int:
    """Run the command with *arguments* (`sys.argv`) and return its exit status."""
    try:
        # imported here, so that an interrupt during the import is handled below as any other
        from . import dispatch

        return dispatch.main(arguments)
    except KeyboardInterrupt as stop:
        # 2 is SIGINT; the module `signal` is not loaded for that alone
        return 128 + getattr(stop, "number", 2)
