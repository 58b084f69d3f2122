"""The Linux firewall from Python: tables, chains and rules of iptables, at the kernel's own speed."""

from .counters import CounterReader, Snapshot
from .errors import (
    AccessDenied,
    Conflict,
    IPTCError,
    KernelError,
    LockTimeout,
    NotFound,
    ParameterError,
    Unsupported,
    XTablesError,
)
from .rule import Match, Policy, Rule, Rule6, Target
from .table import Chain, Table, Table6, is_table6_available, is_table_available

from . import easy, errors, ip4tc, ip6tc, util, version, xtables  # isort: skip  (they stand on the names above)

__all__ = []
