"""What a run cannot try where it is made, and why. Such a test neither fails nor passes in silence: the end of the run names
it.

`@pytest.mark.needs("ebpf")` is for a test that cannot be tried at all without a thing of `WHY_NOT`; it is left out then. `untried`
is for a part of a test.
"""

import functools
import os
import re

EXPECTED = (
    r"this is a user namespace|this process has no CAP_|lockdown|older than 5\.18|the kernel has no B[TP]F"
    r"|not permitted, by a security module"
)
"""Why a kernel may take no programs. Any other reason is a fault, and ends a run that needs the kernel."""

PROPERTY = "untried"
NOTED = []


def untried(why, what=""):
    """Note that *what*, or a part of the test that runs, cannot be tried here, if *why* says something. Return whether it does."""
    if why and (what, why) not in NOTED:
        NOTED.append((what, why))
    return bool(why)


# ------------------------------------------------------------------------------- what tests may need


@functools.cache
def no_ebpf():
    """Return why the kernel takes no programs of this process, "" if it does."""
    import iptc
    from iptc.bpf.window import Window

    try:
        Window()
    except iptc.Unsupported as refusal:
        return str(refusal)
    return ""


@functools.cache
def no_other_users():
    """Return why this process cannot become another user, "" if it can."""
    with open("/proc/self/uid_map") as users:
        if sum(int(line.split()[2]) for line in users) > 65534:
            return ""
    return "the user namespace of an ordinary user has no other user"


WHY_NOT = {"ebpf": no_ebpf, "other users": no_other_users}


def why_to_end():
    """Return why a run must not begin: eBPF cannot be used, and that is not because of where the run is made; "" if it may
    begin.

    With IPTC_REQUIRE_EBPF in the environment any reason ends it.
    """
    why = no_ebpf()
    return why if "IPTC_REQUIRE_EBPF" in os.environ or not re.search(EXPECTED, why) else ""


def has_other_users():
    """Whether the test that asks can try something with another user."""
    return not untried(no_other_users())


def left_out(items):
    """Return those of *items* that need what is not here."""
    return [
        item
        for item in items
        if any(untried(WHY_NOT[mark.args[0]](), plain(item.nodeid)) for mark in item.iter_markers("needs"))
    ]


# ------------------------------------------------------------------------------- the end of a run


def plain(nodeid):
    """Return the name of a test without its parameters and folders."""
    return nodeid.partition("[")[0].rpartition("/")[2]


def pass_on(report):
    """Put into *report* what was noted since the last one. Processes that share the tests send their reports to the first."""
    report.user_properties += [(PROPERTY, [what or plain(report.nodeid), why]) for what, why in NOTED]
    NOTED.clear()


def pytest_terminal_summary(terminalreporter):
    """Say at the end of a run what was not tried in it."""
    noted = [[what, why] for what, why in NOTED]
    for reports in terminalreporter.stats.values():
        for report in reports:
            noted += [value for name, value in getattr(report, "user_properties", ()) if name == PROPERTY]
    if noted:
        terminalreporter.section("not tried here")
    for reason in sorted({why for _, why in noted}):
        terminalreporter.write_line(f"{reason}:")
        for name in sorted({what for what, why in noted if why == reason}):
            terminalreporter.write_line(f"    {name}")
