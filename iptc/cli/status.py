"""The exit statuses of the commands: those of iptables, and of the shell where a signal ends one."""

from ..errors import IPTCError

BAD_USAGE = 2
"""The arguments of the command make no sense."""

NO_TABLE = 3
"""`iptables -S` ends so where it cannot open the table; on nf_tables only where there is no such table."""


def status_of(error):
    """The exit status of a command that *error* ends."""
    return error.status if isinstance(error, IPTCError) else IPTCError.status
