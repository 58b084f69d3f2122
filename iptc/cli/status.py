"""The exit statuses of the commands: those of iptables, and of the shell where a signal ends one."""

from __future__ import annotations

from ..errors import IPTCError

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass


BAD_USAGE = 2
"""The status for wrong arguments of the command."""

NO_TABLE = 3
"""The status with which `iptables -S` ends if it cannot open the table; on nf_tables only if there is no such table."""


def status_of(error: BaseException) -> int:
    """Return the exit status of a command that ends with *error*."""
    return error.status if isinstance(error, IPTCError) else IPTCError.status
