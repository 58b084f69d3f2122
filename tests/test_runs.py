"""A run of the tests fails if the tests cannot use the kernel, and says what could not be tried."""

import ctypes
import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent
PR_CAPBSET_DROP, CAP_SYS_ADMIN = 24, 21

ODD = """
import pytest
def test_that_passes():
    pass
def test_that_is_skipped():
    pytest.skip("no mood")
"""

HINDERED = """
import pytest
from untried import WHY_NOT, untried
WHY_NOT["sun"] = lambda: "there is no sun"
@pytest.mark.parametrize("number", [1, 2])
def test_that_needs_a_moon(number):
    if untried("there is no moon"):
        return
    assert False
def test_that_needs_nothing():
    assert not untried("")
@pytest.mark.needs("sun")
def test_that_needs_a_sun():
    assert False
"""


def without_namespaces():
    """Drop CAP_SYS_ADMIN before a program is run, so that the program cannot make a network namespace."""
    if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0):
        os._exit(99)


@pytest.fixture
def run(tmp_path):
    """Run a file of tests under our `conftest`. Return its exit status and its output."""

    def start(required, prepare=None, tests=ODD, more=(), **environment):
        (tmp_path / "test_odd.py").write_text(tests)
        environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "IPTC_REQUIRE_KERNEL": "1", **environment}
        if not required:
            del environment["IPTC_REQUIRE_KERNEL"]
        command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", *more, "test_odd.py"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, preexec_fn=prepare
        )
        return done.returncode, done.stdout + done.stderr

    return start


def test_a_run_without_the_kernel_says_so_and_fails(run):
    status, printed = run(True, without_namespaces)
    assert status == 1 and "passed" not in printed
    assert "Traceback" not in printed and len(printed.splitlines()) < 5
    assert "the kernel cannot be used here, and every test of it must run" in printed and "namespace" in printed


def test_a_test_that_is_skipped_has_failed(run):
    status, printed = run(True)
    assert status == 1 and "1 failed, 1 passed" in printed and "no mood" in printed
    status, printed = run(False)
    assert status == 0 and "1 passed, 1 skipped" in printed


@pytest.mark.parametrize(
    ("why", "required", "ends"),
    [
        ("", "IPTC_REQUIRE_EBPF", False),
        ("this process has no CAP_BPF", "PATH", False),
        ("this process has no CAP_BPF", "IPTC_REQUIRE_EBPF", True),
        ("the layout is not understood", "PATH", True),
    ],
)
def test_a_run_without_ebpf_fails_if_the_place_is_not_the_reason(run, tmp_path, why, required, ends):
    (tmp_path / "without.py").write_text(f"import untried\nuntried.no_ebpf = lambda: {why!r}\n")
    tests = "def test_that_passes():\n    pass\n"
    status, printed = run(True, more=["-p", "without"], tests=tests, **{required: os.environ.get(required, "1")})
    said = f"eBPF cannot be used here, and every test of it must run: {why}"
    assert (status, said in printed) == ((1, True) if ends else (0, False)), printed


@pytest.mark.parametrize("more", [[], ["-q", "-n2"]])
def test_what_cannot_be_tried_passes_and_is_named_at_the_end(run, more):
    status, printed = run(True, tests=HINDERED, more=more)
    assert status == 0 and "3 passed" in printed.splitlines()[-1]
    before, said = printed.split(" not tried here ")
    assert "moon" not in before and [line for line in said.splitlines()[1:-1] if line] == [
        "there is no moon:",
        "    test_odd.py::test_that_needs_a_moon",
        "there is no sun:",
        "    test_odd.py::test_that_needs_a_sun",
    ]
    assert " not tried here " not in run(False)[1]
