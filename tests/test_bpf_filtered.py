"""A filter of system calls (seccomp) refuses bpf(2), before a reader is opened or in the midst of its work: the reason
says so, "auto" reads by the socket, and nothing stays open. Or only the socket is refused: then eBPF goes on."""

import ctypes
import errno
import os
import struct

import pytest
from test_bpf_falling_back import told_by_a_child
from test_bpf_handing import closing
from test_bpf_source import restored
from untried import untried

import iptc
from iptc.doctor.ebpf import of_ebpf

pytestmark = [pytest.mark.one_backend("nft", "legacy"), pytest.mark.needs("ebpf")]

NUMBERS = {"x86_64": [321], "aarch64": [280]}  # of bpf(2)
OF_SOCKETS = {"x86_64": [44, 46, 55], "aarch64": [206, 209, 211]}  # of sendto(2), sendmsg(2), getsockopt(2)
RULES = [f"-A OUTPUT -p udp --dport {port}" for port in range(1, 6)]

REASONS = {
    errno.EPERM: "not permitted, by a security module or a filter of system calls (seccomp)",
    errno.ENOSYS: "a filter of system calls (seccomp) refuses bpf()",
}


def filter_calls(number, calls=NUMBERS):
    """From now on bpf(2), or one of the other *calls*, fails with this errno in this process."""
    steps = [(0x20, 0, 0, 0)]  # load the number of the call
    for call in calls[os.uname().machine]:
        steps += [(0x15, 0, 1, call), (0x06, 0, 0, 0x00050000 | number)]  # SECCOMP_RET_ERRNO
    steps.append((0x06, 0, 0, 0x7FFF0000))  # SECCOMP_RET_ALLOW
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP


@pytest.fixture(params=sorted(REASONS), ids=errno.errorcode.get)
def refusal(request):
    if os.uname().machine not in NUMBERS:
        untried("the number of bpf(2) is not known for this processor")
    return request.param


def tried(action):
    """Return what *action* returns, or the exception as text."""
    try:
        return action()
    except iptc.IPTCError as error:
        return f"{type(error).__name__}: {error}"


def left_open():
    return sorted(os.listdir("/proc/self/fd"))


def test_before_it_is_opened(host, ipv6, refusal):
    restored(host, ipv6, *RULES)
    why = f"can't make a map of 4 times 65536 bytes: {REASONS[refusal]}"

    def read_in_a_child():
        filter_calls(refusal)
        before = left_open()
        assert tried(lambda: iptc.CounterReader(ipv6=ipv6, source="bpf")) == (
            f"Unsupported: can't read the counters with eBPF: {why}"
        )
        with iptc.CounterReader(ipv6=ipv6, source="auto") as reader, iptc.CounterReader(ipv6=ipv6) as other:
            assert list(reader.read()) == list(other.read())
            assert (reader.source, reader.source_reason) == ("socket", why)
            assert tried(reader.fds) == f"Unsupported: only counters that are read by eBPF can be handed over: {why}"
        (finding,) = of_ebpf()
        assert finding.text == f"Counters cannot be read with eBPF here: {why}."
        return left_open() == before

    assert told_by_a_child(read_in_a_child) == "True"


def test_in_the_midst(host, ipv6, refusal):
    restored(host, ipv6, *RULES)
    why = f"the programs cannot be run: {REASONS[refusal]}"

    def read_in_a_child():
        before = left_open()
        with (
            iptc.CounterReader(ipv6=ipv6, source="bpf") as reader,
            iptc.CounterReader(ipv6=ipv6, source="auto") as falling,
            iptc.CounterReader(ipv6=ipv6) as other,
        ):
            first = reader.read(), falling.read()
            filter_calls(refusal)
            assert tried(reader.read) == f"Unsupported: can't read the counters with eBPF: {why}"
            assert tried(reader.read).endswith(REASONS[refusal])
            for snapshot in first:
                delta = falling.read().since(snapshot)
                assert list(delta) == [(0, 0)] * len(RULES) and list(delta.flags) == [0] * len(RULES)
            assert list(falling.read()) == list(other.read()) and falling.read().generation == first[0].generation
            assert (falling.source, falling.source_reason) == ("socket", why)
        return left_open() == before

    assert told_by_a_child(read_in_a_child) == "True"


def test_of_the_receiver(host, ipv6, refusal):
    restored(host, ipv6, *RULES)
    with iptc.CounterReader(ipv6=ipv6, source="bpf") as reader, closing(reader.fds()) as fds:

        def read_in_a_child():
            taken = iptc.CounterReader.from_fds(fds)
            os.setresuid(65534, 65534, 65534)
            filter_calls(refusal)
            before = left_open()
            # that the receiver lacks capabilities is not the reason: it needs none
            said = tried(lambda: iptc.CounterReader.from_fds(fds))
            assert said == f"Unsupported: can't ask what a descriptor stands for: {REASONS[refusal]}"
            assert tried(taken.read) == f"Unsupported: can't read counters that were handed over: {REASONS[refusal]}"
            return left_open() == before

        assert told_by_a_child(read_in_a_child) == "True"


def into_a_user_namespace():
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())  # CLONE_NEWUSER


def without_sockets():
    filter_calls(errno.EPERM, OF_SOCKETS)


@pytest.mark.parametrize(
    ("give_up", "why"),
    [
        (into_a_user_namespace, "this process is in a user namespace, which does not own the network namespace"),
        (without_sockets, "the kernel does not let this process read them any more: a security module or a filter of"),
    ],
)
def test_of_the_socket_only(host, ipv6, give_up, why):
    """A process can give up its rights in other ways than by its capabilities: eBPF goes on without the comparison."""
    restored(host, ipv6, *RULES)
    if os.uname().machine not in NUMBERS:
        untried("the numbers of calls are not known for this processor")

    def read_in_a_child():
        with (
            iptc.CounterReader(ipv6=ipv6, source="bpf", source_check=1e-9) as reader,
            iptc.CounterReader(ipv6=ipv6, source="auto", source_check=1e-9) as other,
        ):
            wanted = list(reader.read())
            assert list(other.read()) == wanted and other.source_reason == ""
            give_up()
            for each in (reader, other, reader, other):
                assert list(each.read()) == wanted and each.source == "bpf"
                assert each.source_reason.startswith(f"not compared with what the socket says: {why}")
        return "done"

    assert told_by_a_child(read_in_a_child) == "done"
