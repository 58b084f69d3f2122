"""The Linux firewall from Python: tables, chains and rules of iptables, at the kernel's own speed.

A table and its rules
    Table, Table6           one table of IPv4 or IPv6; table["INPUT"] is one of its chains
    Chain                   one chain: its rules, its policy, and the edits of it
    Rule, Rule6             one rule; Rule.from_args("-p tcp -j ACCEPT") reads iptables' language
    Match, Target, Policy   the parts of a rule (-m, -j), and what ends a builtin chain
    transaction             edits of several tables, sent together or not at all
    Transaction, Outcome    what that gives, and table.transaction() too
    is_table_available      whether there is such a table of IPv4
    is_table6_available     the same for IPv6
    backend                 whether rules go to legacy xtables or to nf_tables here

Whole rulesets
    save, restore           all tables as the text of iptables-save, and back
    check                   whether the kernel would take a text, found out without a change
    Ruleset                 a ruleset as a value: from the kernel, a text or rules
    diff                    what two rulesets differ in
    plan, apply             the fewest edits from what is there to what is wanted, and doing them
    safe_apply              the same, taken back unless it is confirmed
    Difference, Change      what diff returns, and one row of it
    Plan, Pending           what plan returns; a change that waits to be confirmed

Rules that stay
    Owned                   the rules that belong to a name, among those of others
    Guard, Heal             what Owned.guard() returns, and one time that it put rules back
    watch, Watch            changes of the rules as they happen, and by whom
    TableChange             one change

What becomes of a packet
    Bench                   a ruleset in a private network namespace, where the kernel judges packets that are made up
    Verdict, Left           what it did with one, and a packet that left because of it
    Flow                    a connection through a bench, of which both sides are played
    Trace                   packets as they come, each with the rules that took it
    Packet, Step            one packet; what one rule, or the end of a chain, did with it

Counters
    CounterReader           reads the counters of a table, as often as wanted
    Snapshot, Delta         the counters of one moment, and what was counted between two
    ChainCounters           the counters of one chain in a snapshot
    RuleInfo                one rule of a snapshot: its place and its text
    Counters                (packets, bytes), a tuple with names
    Sampler, Samples        the rates of all rules again and again, for `for` and `async for`; one run of it
    Sample, TableSample     what one interval brought, and of one table
    Event                   what happened to a rule or a table meanwhile

Errors
    IPTCError               the root of all of them
    KernelError             the kernel refused
    NotFound                no such table, chain or rule
    AccessDenied            a capability is missing
    Conflict                the ruleset changed meanwhile, so that an edit could not be right
    XTablesError            libxtables or an extension refused
    ParameterError          a parameter or a text makes no rule
    ParameterTypeError      a parameter has the wrong Python type
    Missing                 what iptc.easy was asked for is not there
    OutOfMemory             there is no memory for it
    LockTimeout             the xtables lock was not obtained in time
    TransactionError        a table was used in a way that its transaction does not allow
    PartialCommit           some tables of a transaction were changed, and others not
    RolledBack              a change was not confirmed, and was taken back
    Unsupported             this kernel, library or back end cannot do it
    XTablesWarning          what is no error, and is hardly meant

Modules
    easy                    rules as dicts, and functions of them
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
        "monitoring.sampler": "Sample Sampler Samples TableSample",
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
