"""Which capabilities loading BPF programs needs, and what the error says without them."""

import os
import subprocess
import sys

import pytest
from faults import library, start  # noqa: F401  (fixtures)
from test_structure import ROOT

OPEN = """
import os, sys
import iptc
from iptc.bpf import kernel

def opened():
    made = kernel.Map(kernel.ARRAY, 8, 10, mapped=True)
    # what only CAP_PERFMON lets a program do: it reads memory of the kernel
    code = bytes.fromhex("b702000008000000" "b703000000000000" "bfa1000000000000" "07010000f8ffffff"
                         "8500000071000000" "b700000007000000" "9500000000000000")
    return made, kernel.Program("reads", kernel.SYSCALL, code), kernel.TracepointLink(
        kernel.Program("traces", kernel.RAW_TRACEPOINT, code), "percpu_free_percpu")

def tried():
    try:
        return opened()[1].run(bytearray())
    except iptc.Unsupported as error:
        return error
"""


def run(*prefix, then="print(tried())"):
    """What a process that is started by *prefix* prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*prefix, sys.executable, "-c", OPEN + then], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


def with_only(*rights):
    """What starts a process that has these capabilities alone."""
    named = ",".join(["-all", *(f"+{name}" for name in rights)])
    return ["setpriv", "--inh-caps=-all", f"--bounding-set={named}"]


@pytest.mark.needs("ebpf")
@pytest.mark.parametrize(
    ("rights", "said"),
    [
        (["bpf", "perfmon"], "7"),
        (["sys_admin"], "7"),
        (["bpf"], "this process has no CAP_PERFMON"),
        (["perfmon"], "this process has no CAP_BPF"),
        (["net_admin", "net_raw"], "this process has no CAP_BPF and no CAP_PERFMON"),
        ([], "this process has no CAP_BPF and no CAP_PERFMON"),
    ],
)
def test_the_error_names_the_missing_capability(rights, said):
    assert run(*with_only(*rights)).endswith(said)


@pytest.mark.needs("ebpf")
@pytest.mark.needs("other users")
def test_another_user_needs_only_two_capabilities():
    who = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    assert run(*who, "--inh-caps=+bpf,+perfmon", "--ambient-caps=+bpf,+perfmon") == "7"
    assert run(*who, "--inh-caps=-all").endswith("this process has no CAP_BPF and no CAP_PERFMON")


@pytest.mark.needs("ebpf")
@pytest.mark.needs("other users")
def test_capabilities_can_be_given_up_once_the_reader_is_open():
    drop = "things = opened(); os.setgid(65534); os.setuid(65534); print(things[1].run(bytearray()), things[0].read(3))"
    assert run(then=drop + "; print(tried())").splitlines() == [
        f"7 {bytes(8)}",
        *run(then="os.setuid(65534); print(tried())").splitlines(),
    ]


def test_the_error_names_a_user_namespace():
    assert "this is a user namespace" in run("unshare", "-Ur")


@pytest.mark.needs("ebpf")
def test_the_error_tells_other_refusals_from_missing_capabilities(start):
    said = start(
        OPEN + "print(attempt(tried, 'bpf', 0, errno.EPERM)[0])\nprint(attempt(tried, 'bpf', 0, errno.ENOSYS)[0])"
    )
    assert "by a security module or a filter of system calls (seccomp)" in said[0]
    # that this kernel has bpf() is known by its setting in /proc
    assert said[1].endswith("a filter of system calls (seccomp) refuses bpf()")
