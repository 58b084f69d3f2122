"""Signal handlers that raise at each step of a commit: nothing is changed, or the exception says what is changed."""

import os
import subprocess

import pytest
from faults import library, start  # noqa: F401

import iptc

STRIDE = 1 if int(os.environ.get("IPTC_STRESS", "1")) > 1 else 37
"""How many steps of Python lie between two that are tried. All are tried only with IPTC_STRESS."""

HEAD = """
import signal
netns = int(sys.argv[1]) or None
rule, rule6 = iptc.Rule.from_args("-j DROP"), iptc.Rule6.from_args("-j DROP")
one, two = iptc.Table("filter", netns=netns), iptc.Table6("filter", netns=netns)
input_one, input_two = iptc.Chain(one, "INPUT"), iptc.Chain(two, "INPUT")
TEXT = "*filter\\n:INPUT ACCEPT [0:0]\\n:FORWARD ACCEPT [0:0]\\n:OUTPUT ACCEPT [0:0]\\n-A INPUT -p udp -j ACCEPT\\nCOMMIT\\n"
OTHER = TEXT.replace("udp", "tcp")

class Interrupt(BaseException):
    pass

def edit():
    input_one.append_rule(rule)

def delete():
    input_one.delete_rule(iptc.Rule.from_args("-p udp -j ACCEPT"))

def transaction():
    with one.transaction():
        one.create_chain("web").append_rule(rule)
        input_one.set_policy("DROP")

def both():
    with iptc.transaction(one, two):
        input_one.append_rule(rule)
        input_two.append_rule(rule6)

def restore():
    iptc.restore(OTHER, netns=netns)

def easy():
    iptc.easy.add_rule("filter", "INPUT", {"target": "DROP"})

def gathered():
    one.autocommit = False
    input_one.append_rule(rule)
    one.commit()

def switched():
    # what was gathered goes out with the first look
    one.autocommit = False
    input_one.append_rule(rule)
    one.autocommit = True
    input_one.rules

ACTIONS = [edit, delete, transaction, both, restore, gathered, switched] + [easy] * (netns is None)

def now():
    texts = [iptc.save(ipv6=six, netns=netns) for six in (False, True)]
    return [[line for line in text.splitlines() if line[0] != "#"] for text in texts]

def reset():
    for six in (False, True):
        iptc.restore(TEXT, six, netns=netns)
    one.autocommit = True
    one.refresh()
    two.refresh()

def check(what, before, after, error):
    "Whether what is in the kernel is what the exception says."
    tables = [f"IPv{version} table filter" for version in (4, 6)]
    found = now()
    claimed = set(getattr(error, "committed", ()))
    changed = {name for name, a, b in zip(tables, before, found) if a != b}
    assert found in (before, after), (what, "half done", found)
    assert changed == (claimed if error is not None else {name for name, a, b in zip(tables, before, after) if a != b}), (what, claimed, changed)
    assert not claimed or any("committed before this was raised" in note for note in error.__notes__), what
    return bool(claimed)
"""

SIGNALS = """
def handler(number, frame):
    raise Interrupt

signal.signal(signal.SIGUSR1, handler)
calls = {"legacy": ("socket", "info", "entries", "replace", "add", "flock", "open lock", "unlock"), "nft": ("socket", "send", "recv", "sendmsg")}
told = silent = 0
for action in ACTIONS:
    reset()
    before = now()
    action()
    after = now()
    assert before != after
    for name in calls[iptc.backend()]:
        nth = 0
        while True:
            reset()
            faults.fault_arm(name.encode(), nth, -signal.SIGUSR1, False)
            error = None
            try:
                action()
            except Interrupt as raised:
                error = raised
            made = faults.fault_disarm()
            if check((action.__name__, name, nth), before, after, error):
                told += 1
            else:
                silent += 1
            if nth >= made:
                assert error is None
                break
            assert error is not None
            nth += 1
print(told > 0, silent > 0)
"""

STEPS = """
def interrupted(action, nth):
    "In a child: do it, and be interrupted at the nth step of our code; its exit says how that went."
    steps = 0
    folder = os.path.dirname(iptc.__file__)
    def trace(frame, event, argument):
        nonlocal steps
        if not frame.f_code.co_filename.startswith(folder):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == nth:
                raise Interrupt
        return trace
    sys.unraisablehook = lambda _: None
    try:
        sys.settrace(trace)
        action()
        sys.settrace(None)
        return 0
    except Interrupt as error:
        sys.settrace(None)
        return 2 + (1 if "IPv4 table filter" in getattr(error, "committed", ()) else 0) + (2 if "IPv6 table filter" in getattr(error, "committed", ()) else 0)
    except BaseException:
        sys.settrace(None)
        return 1

stride, told, silent = int(sys.argv[2]), 0, 0
for number, action in enumerate(ACTIONS):
    reset()
    before = now()
    action()
    after = now()
    reset()
    assert now() == before
    nth = 1 + number % stride
    while True:
        child = os.fork()
        if not child:
            os._exit(interrupted(action, nth))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status != 1 and status >= 0, (action, nth, status)
        error = None
        if status:
            error = Interrupt()
            error.committed = [name for bit, name in ((1, "IPv4 table filter"), (2, "IPv6 table filter")) if status - 2 & bit]
            if error.committed:
                error.add_note("committed before this was raised")
        if check((action.__name__, nth), before, after, error):
            told += 1
        else:
            silent += 1
        if now() != before:
            reset()
        if not status:
            break
        nth += stride
print(told > 0, silent > 0)
"""


@pytest.fixture(params=["here", "named"])
def place(request, host):
    """Return the pid of a process in a namespace of its own, or 0 for the namespace of the test."""
    if request.param == "here":
        yield "0"
        return
    process = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE)
    process.stdout.readline()
    yield str(process.pid)
    process.kill()
    process.communicate()


def test_a_signal_at_each_call_of_the_kernel(start, place):
    assert start(HEAD + SIGNALS, place) == ["True True"]


def test_an_exception_at_each_step_says_what_is_committed(start, place):
    assert start(HEAD + STEPS, place, str(STRIDE)) == ["True True"]


def test_what_the_second_of_several_commits_raises_tells_of_the_first(host):
    text = "*filter\n-A INPUT -j DROP\nCOMMIT\n*mangle\n-A nowhere -j DROP\nCOMMIT\n"
    with pytest.raises(iptc.IPTCError) as caught:
        iptc.restore(text)
    assert caught.value.committed == ["IPv4 table filter"]
    with pytest.raises(iptc.IPTCError) as caught:
        iptc.Chain(iptc.Table("filter"), "INPUT").delete_rule(iptc.Rule.from_args("-j ACCEPT"))
    assert not hasattr(caught.value, "committed")
