"""The Linux firewall from Python: tables, chains and rules of iptables, at the kernel's own speed.

A table and its rules
    Table, Table6           one table of IPv4 or IPv6; table["INPUT"] is one of its chains
    Chain                   one chain: its rules, its policy, and the edits of it
    Rule, Rule6             one rule; Rule.from_args("-p tcp -j ACCEPT") reads iptables' language
    Match, Target, Policy   the parts of a rule (-m, -j), and the policy of a builtin chain
    transaction             all edits of several tables become one commit, or none is made
    Transaction, Outcome    what transaction() and table.transaction() return, and what their `with` statement gives
    is_table_available      whether the kernel has such a table of IPv4
    is_table6_available     the same for IPv6
    backend                 whether this host uses legacy xtables or nf_tables

Whole rulesets
    save, restore           all tables as the text of iptables-save, and back
    check                   whether the kernel would accept a text; changes nothing
    Ruleset                 a ruleset, read from the kernel or a text, or built of rules
    diff                    the differences between two rulesets
    plan, apply             find, and make, the fewest edits that lead to a wanted ruleset
    safe_apply              the same; the old rules come back unless the change is confirmed
    Difference, Change      what diff returns, and one difference in it
    Plan, Pending           what plan returns; a change that waits to be confirmed

Rules that stay
    Owned                   the rules of an owner among those of other programs
    Guard, Heal             what Owned.guard() returns, and the report of one repair
    watch, Watch            reports changes of the rules, and which process made them
    TableChange             one change

What the rules do with a packet
    Bench                   a ruleset in a private network namespace, for tests with packets
    Verdict, Left           what the kernel did with a packet, and a packet that left
    Flow                    a connection through a bench; the program plays both sides
    Trace                   real packets as they arrive, with the rules that matched them
    Packet, Step            one packet, and what one rule or the end of a chain did with it

Counters
    CounterReader           reads the counters of a table, again and again
    Snapshot, Delta         the counters at one moment, and what was counted between two
    ChainCounters           the counters of one chain in a snapshot
    RuleInfo                one rule of a snapshot: its place and its text
    Counters                (packets, bytes), a tuple with names
    Sampler, Samples        yields the rates of all rules at regular intervals; one run of it
    Sample, TableSample     what was counted in one interval, and in one table of it
    Event                   what happened to a rule or a table in an interval

Errors
    IPTCError               the base class of all others
    KernelError             the kernel refused
    NotFound                no such table, chain or rule
    AccessDenied            a capability is missing
    Conflict                the ruleset has changed, so that the edit could be wrong now
    XTablesError            libxtables or an extension refused
    ParameterError          no rule can be made with this parameter or text
    ParameterTypeError      a parameter has the wrong Python type
    Missing                 a chain or rule for a function of iptc.easy does not exist
    OutOfMemory             there is not enough memory
    LockTimeout             the xtables lock was not obtained in time
    TransactionError        a table was used in a way that its transaction does not allow
    PartialCommit           only some tables of a transaction were changed
    RolledBack              a change was not confirmed, and the old rules are back
    Unsupported             this kernel, library or back end cannot do it
    XTablesWarning          a warning of what is no error, but probably a mistake

Modules
    easy                    functions that take rules as dicts
    errors                  the exceptions
    ip4tc, ip6tc, util, version, xtables    import paths of python-iptables
"""

import sys as _sys

if "t" in getattr(_sys, "abiflags", ""):
    # pip and setup.py refuse such a Python too; this is for other ways of installing
    raise ImportError(
        f"iptc needs a Python with the GIL, which guards libxtables, and {_sys.executable} is a free-threaded one: "
        f"use python{_sys.version_info.major}.{_sys.version_info.minor}"
    )

__all__ = []

__version__ = "0.1.0"

# The module that each public name is in. It is loaded when the name is first used: importing the package stays cheap.
_MODULES = ("easy", "errors", "ip4tc", "ip6tc", "util", "version", "xtables")
_OTHER_MODULES = ("backends", "chain", "counters", "lock", "namespace", "rule", "state", "table", "transactions")
_NAMES = {
    name: module
    for module, names in {
        "_core": "Counters",
        "backends": "backend",
        "bench.bench": "Bench",
        "bench.flow": "Flow",
        "bench.verdict": "Left Verdict",
        "counters": "ChainCounters CounterReader Delta Snapshot",
        "layout": "RuleInfo",
        "errors": "AccessDenied Conflict IPTCError KernelError LockTimeout Missing NotFound OutOfMemory ParameterError "
        "ParameterTypeError PartialCommit RolledBack TransactionError Unsupported XTablesError "
        "XTablesWarning",
        "managing.difference": "Change Difference diff",
        "managing.planning": "Plan apply plan",
        "managing.rollback": "Pending safe_apply",
        "managing.ruleset_value": "Ruleset",
        "monitoring.events": "Event",
        "monitoring.sampler": "Sampler Samples",
        "monitoring.samples": "Sample TableSample",
        "owning.guard": "Guard Heal",
        "owning.owned": "Owned",
        "ruleset": "check restore save",
        "rule": "Match Policy Rule Rule6 Target",
        "chain": "Chain",
        "table": "Table Table6 is_table6_available is_table_available",
        "tracing.steps": "Packet Step",
        "tracing.trace": "Trace",
        "watching.watch": "TableChange Watch watch",
        "transactions": "Outcome Transaction transaction",
    }.items()
    for name in names.split()
}


def _loaded(module):
    """Return the module of that name in this package; importlib, which would be loaded for it, is not needed."""
    import sys

    __import__(f"{__name__}.{module}")
    return sys.modules[f"{__name__}.{module}"]


def __getattr__(name):
    if name in _NAMES:
        value = getattr(_loaded(_NAMES[name]), name)
        globals()[name] = value  # from now on without this function
        return value
    if name == "iptc":
        # python-iptables imports its own name
        import sys

        return sys.modules[__name__]
    if name in _MODULES or name in _OTHER_MODULES:
        return _loaded(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*_NAMES, *_MODULES, *(name for name in globals() if name.startswith("__"))])
