"""The command `iptc`: one module for each of its commands, and a few that the commands share."""

__all__ = ["main"]


def main(arguments=None):
    """Run the command with *arguments* (`sys.argv`) and return its exit status."""
    try:
        # here and not above: an interrupt while this is loaded ends the command as any other does
        from . import dispatch

        return dispatch.main(arguments)
    except KeyboardInterrupt as stop:
        # SIGINT, without the weight of the module that names it
        return 128 + getattr(stop, "number", 2)
