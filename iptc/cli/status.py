"""The exit statuses of the commands: those of iptables."""

from ..errors import LockTimeout, ParameterError

ERROR = 1
"""Something else went wrong."""

BAD_USAGE = 2
"""The arguments of the command make no sense, or a line of a text makes no rule."""

NO_LOCK = 4
"""The xtables lock was not obtained."""


def status_of(error):
    """The exit status of a command that *error* ends."""
    if isinstance(error, LockTimeout):
        return NO_LOCK
    return BAD_USAGE if isinstance(error, ParameterError) else ERROR
