"""A run of the tests fails if the tests cannot use the kernel."""

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


def without_namespaces():
    """Drop CAP_SYS_ADMIN before a program is run, so that the program cannot make a network namespace."""
    if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0):
        os._exit(99)


@pytest.fixture
def run(tmp_path):
    """Run a file with two tests under our `conftest`. Return its exit status and its output."""
    (tmp_path / "test_odd.py").write_text(ODD)

    def start(required, prepare=None):
        environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "IPTC_REQUIRE_KERNEL": "1"}
        if not required:
            del environment["IPTC_REQUIRE_KERNEL"]
        command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "test_odd.py"]
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
