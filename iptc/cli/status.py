"""The exit statuses of the commands: those of iptables, and of the shell where a signal ends one."""

from __future__ import annotations

from ..errors import IPTCError

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


BAD_USAGE = 2
"""The arguments of the command make no sense."""

NO_TABLE = 3
"""`iptables -S` ends so where it cannot open the table; on nf_tables only where there is no such table."""


def status_of(error: BaseException) -> int:
    """The exit status of a command that *error* ends."""
    return error.status if isinstance(error, IPTCError) else IPTCError.status
