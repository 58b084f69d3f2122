"""Calls each public function while one allocation fails: the first, the second, and so on. These are the allocations of
the interpreter, of iptc, and of libxtables and its plugins.

`tests/test_allocations.py` runs this in a process of its own, with `allocations.c` preloaded. A call must raise
MemoryError or return its result. The kernel must have the old rules, or all that the call should write. The lock must
be free, nothing may stay open, and the next call must work.
"""

import copy
import ctypes
import fcntl
import gc
import os
import re
import sys
import traceback

import iptc
from iptc import ruleset
from iptc.bpf.possible import why_not
from iptc.legacy.blob import TableBlob
from iptc.legacy.save import save_rules

hook = ctypes.PyDLL(None)
hook.allocation_arm.argtypes = [ctypes.c_long]
hook.allocation_arm.restype = None
hook.allocation_disarm.restype = ctypes.c_long
arm = hook.allocation_arm


def disarm():
    """Return how many allocations there were since `arm`. If the armed one has not failed yet, it fails here."""
    while True:
        try:
            return hook.allocation_disarm()
        except MemoryError:
            pass


START = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:web - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -m comment --comment "a comment" -j web
-A web -s 192.0.2.0/24 -p udp -m limit --limit 3/sec -j LOG --log-prefix "web "
-A web -j DROP
COMMIT
"""
MORE = START.replace(
    "-A web -j DROP",
    "-A web -m mark --mark 0x1 -j ACCEPT\n:other - [0:0]\n-A other -p tcp -m multiport --dports 1,2,3 -j REJECT",
)
LINE = (
    "-s 10.0.0.0/8 -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -m comment --comment words -j LOG --log-prefix x"
)


def table():
    iptc.Table._cache.clear()
    return iptc.Table("filter")


def rule(number=22):
    return iptc.Rule.from_args(f"-p tcp -m tcp --dport {number} -j ACCEPT")


def in_transaction(filter):
    with filter.transaction():
        iptc.Chain(filter, "INPUT").append_rule(rule(81))
        filter.create_chain("third")
        iptc.Chain(filter, "web").flush()


def polled(filter):
    with iptc.CounterReader("filter") as reader:
        first = reader.read()
        second = reader.read()
        return sum(second.since(first).packets), [chain.name for chain in second.chains], len(first["INPUT"].packets)


def read_by_ebpf(filter):
    with iptc.CounterReader("filter", source=SOURCE) as reader:
        first = reader.read()
        iptc.Chain(iptc.Table("mangle"), "INPUT").set_policy("ACCEPT")
        iptc.Chain(filter, "web").append_rule(rule(83))
        second = reader.read()
        return second.since(first).flags, len(second["web"].packets), reader.source


def handed_over(filter):
    """Hand the counters over, and read them by the descriptors, as another process would."""
    with iptc.CounterReader("filter", source=SOURCE) as reader:
        if reader.source != "bpf":
            return None
        fds = reader.fds()
        try:
            with iptc.CounterReader.from_fds(fds) as other:
                first = other.read()
                return list(other.read().since(first)), [info.text for info in first.rules], len(fds)
        finally:
            disarm()  # they are ours: to close them must not fail
            while fds:
                os.close(fds.pop())


def long_save(filter):
    """Save a text that is longer than the first buffer for printing."""
    if iptc.backend() == "legacy":
        return save_rules(TableBlob(2, "filter"), False, b"#" * 70000 + b"\n", b"COMMIT\n")


def names_used_again(filter):
    """Rename chains so that on nf_tables a chain is created again."""
    with filter.transaction():
        filter.rename_chain("web", "renamed")
        filter.create_chain("web").append_rule(rule(82))
        iptc.Chain(filter, "INPUT").zero_counters()


def planned(filter):
    old, new = (iptc.Ruleset.read(text) for text in (START, MORE))
    return str(iptc.diff(old, new)), str(iptc.plan(new))


def set_easy(filter):
    iptc.easy.add_rule("filter", "web", {"protocol": "tcp", "tcp": {"dport": "99"}, "target": "ACCEPT"})


def set_parameters(filter):
    made = iptc.Rule()
    made.src, made.protocol, made.in_interface = "192.0.2.1", "tcp", "eth0"
    match = made.create_match("tcp")
    match.dport, match.tcp_flags = "1:2", ["SYN,ACK", "SYN"]
    made.create_target("LOG").log_prefix = "x"
    return str(made), match.parameters, copy.deepcopy(made) == made, hash(made)


SOURCE = "auto" if why_not(iptc.backend()) else "bpf"
CALLS = {
    "read by eBPF": read_by_ebpf,
    "hand over": handed_over,
    "append": lambda filter: iptc.Chain(filter, "INPUT").append_rule(rule(80)),
    "insert": lambda filter: iptc.Chain(filter, "INPUT").insert_rule(rule(80), 1),
    "replace": lambda filter: iptc.Chain(filter, "INPUT").replace_rule(rule(80), 0),
    "delete": lambda filter: iptc.Chain(filter, "INPUT").delete_rule(rule()),
    "delete some": lambda filter: iptc.Chain(filter, "web").delete_rules(lambda rule: rule.target.name == "LOG"),
    "ensure": lambda filter: iptc.Chain(filter, "web").ensure_rule(rule(80)),
    "flush chain": lambda filter: iptc.Chain(filter, "web").flush(),
    "flush": lambda filter: filter.flush(),
    "zero": lambda filter: iptc.Chain(filter, "web").zero_counters(),
    "create chain": lambda filter: filter.create_chain("third").name,
    "delete chain": lambda filter: filter.delete_chain("lone"),
    "rename chain": lambda filter: filter.rename_chain("web", "renamed"),
    "policy": lambda filter: iptc.Chain(filter, "FORWARD").set_policy("DROP"),
    "transaction": in_transaction,
    "names": names_used_again,
    "diff and plan": planned,
    "apply": lambda filter: str(iptc.apply(MORE)),
    "refused text": lambda filter: refused_text(MORE.replace("1,2,3", "1,nosuch")),
    "restore": lambda filter: iptc.restore(MORE),
    "restore a table": lambda filter: filter.restore(MORE),
    "save": lambda filter: kernel(),
    "long save": long_save,
    "save all": lambda filter: iptc.save(all_tables=True).count("COMMIT"),
    "list": lambda filter: [(str(rule), rule.counters) for chain in filter.chains for rule in chain.rules],
    "look": lambda filter: [rule.target.get_all_parameters() for rule in iptc.Chain(filter, "web").rules],
    "poll": polled,
    "from_args": lambda filter: (str(iptc.Rule.from_args(LINE)), iptc.Rule.from_args(LINE).to_args()),
    "parameters": set_parameters,
    "easy get": lambda filter: iptc.easy.dump_table("filter"),
    "easy add": set_easy,
    "check": lambda filter: iptc.check(MORE),
    "parse": lambda filter: ruleset.parse(MORE),
    "refusal": lambda filter: refused("-p tcp --dport nosuch"),
    "refused commit": lambda filter: missing(filter),
}


def refused(text):
    try:
        iptc.Rule.from_args(text)
    except iptc.ParameterError as error:
        return str(error)


def refused_text(text):
    try:
        iptc.restore(text)
    except iptc.ParameterError as error:
        return str(error)


def missing(filter):
    try:
        iptc.Chain(filter, "web").delete_rule(rule(1))
    except iptc.IPTCError as error:
        return str(error)


LOST = re.compile(
    "error return without exception set|NULL result without error in PyObject_Call|"
    r"<function \S+ at 0x[0-9a-f]+> returned NULL without setting an exception"
)
"""The messages of the interpreter, and of compiled code that has called a function written in Python."""


def loses_exceptions():
    """Whether this interpreter loses an exception if it has no memory for the traceback, as CPython 3.11 does."""

    def innermost():
        raise ValueError

    def within():
        innermost()

    for nth in range(40):
        try:
            arm(nth)
            within()
        except BaseException as error:
            disarm()
            if type(error) is SystemError:
                return True
    return False


def kernel():
    return [line for line in iptc.save(counters=True).splitlines() if not line.startswith("#")]


KEPT = 16
"""How many sockets of nf_tables may be kept for the next call. More than these are a leak."""


def opened():
    """Return what this process has open. Sockets are included only if there are more than may be kept."""
    found = _opened()
    sockets = [there for there in found if there.startswith("socket:")]
    return [there for there in found if there not in sockets] + sockets[KEPT:]


def _opened():
    return sorted(
        os.readlink(f"/proc/self/fd/{number}")
        for number in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{number}")
    )


def lock_is_free():
    """Whether the xtables lock is free. If it is not, this process holds it, and releases it here."""
    path = os.environ["XTABLES_LOCKFILE"]
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            pass
    for number in os.listdir("/proc/self/fd"):
        if os.path.exists(f"/proc/self/fd/{number}") and os.readlink(f"/proc/self/fd/{number}") == path:
            os.close(int(number))
    return False


def begin():
    iptc.restore(START)
    if not iptc.Table("filter").is_chain("lone"):
        iptc.Table("filter").create_chain("lone")
    return kernel()


def armed(call, nth):
    """Return (the result of *call* or None, its exception or None, how many allocations there were)."""
    result = error = None
    filter = table()
    arm(nth)
    try:
        result = call(filter)
    except BaseException as caught:
        count = disarm()
        error = caught
    else:
        count = disarm()
    try:
        return result, error, count
    finally:
        # the exception refers to this frame: do not keep it
        error = None


def sweep(name, step, nth, forgetful):
    """Let one allocation of a call fail, each *step*th in turn, beginning with number *nth*."""
    call = CALLS[name]
    for _ in range(3):
        before = begin()
        expected, error, count = armed(call, -1)
        assert error is None, error
        after = kernel()
    gc.collect()
    files = opened()
    tried = 0
    while True:
        print("at", name, nth, flush=True)
        begin()
        result, error, count = armed(call, nth)
        if count <= nth:
            break
        what = f"{name}, allocation {nth}"
        lost = forgetful and type(error) is SystemError and LOST.fullmatch(str(error))
        if error is not None and not isinstance(error, MemoryError) and not lost:
            print(f"{what}: {type(error).__name__}: {error}")
            traceback.print_exception(error, limit=-4, file=sys.stdout)
        story = "".join(traceback.format_exception(error, limit=-5)) if error is not None else ""
        error = None
        now = kernel()
        if now != before and now != after:
            print(f"{what}: half a change: {now}")
        if not lock_is_free():
            print(f"{what}: the lock stays held\n{story}")
        if (left := opened()) != files:
            gc.collect()
            if (left := opened()) != files:
                print(f"{what}: {files} are open, and then {left}")
                files = left
        if tried % 10 == 0:
            begin()
            again, error, _ = armed(call, -1)
            if error is not None or again != expected or kernel() != after:
                print(f"{what}: the next call: {error!r} {again!r}")
        tried += 1
        nth += step
    return tried


if __name__ == "__main__":
    step, first, of = map(int, sys.argv[1:4])
    # a finalizer that gets no memory is reported here, which is allowed
    sys.unraisablehook = lambda unraisable: None
    forgetful = loses_exceptions()
    for number, name in enumerate(sys.argv[4:] or list(CALLS)[first::of]):
        # begin with another allocation for each call
        sweep(name, step, (first + number) % step, forgetful)
    print("all")
