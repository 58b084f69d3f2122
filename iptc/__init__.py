"""The Linux firewall from Python: tables, chains and rules of iptables, at the kernel's own speed."""

from . import errors
from .backends import backend
from .errors import (
    AccessDenied,
    Conflict,
    IPTCError,
    KernelError,
    LockTimeout,
    NotFound,
    ParameterError,
    PartialCommit,
    RolledBack,
    TransactionError,
    Unsupported,
    XTablesError,
)
from .rule import Match, Policy, Rule, Rule6, Target
from .table import Chain, Table, Table6, is_table6_available, is_table_available
from .transactions import transaction

__all__ = []

__version__ = "0.1.0"

# Attributes that are there without an import, loaded when they are first used: importing the package stays cheap.
_MODULES = ("counters", "easy", "ip4tc", "ip6tc", "util", "version", "xtables")
_LATE_NAMES = {
    "CounterReader": "counters", "Snapshot": "counters", "restore": "ruleset", "save": "ruleset",
    "Change": "managing.difference", "Difference": "managing.difference", "diff": "managing.difference",
    "Plan": "managing.planning", "apply": "managing.planning", "plan": "managing.planning",
    "Pending": "managing.rollback", "Ruleset": "managing.value", "safe_apply": "managing.rollback",
}  # fmt: skip


def __getattr__(name):
    from importlib import import_module

    if name == "iptc":
        # python-iptables imports its own name
        return import_module(__name__)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _LATE_NAMES:
        return getattr(import_module(f".{_LATE_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_MODULES, *_LATE_NAMES})
