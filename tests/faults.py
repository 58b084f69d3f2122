"""Programs in processes of their own in which calls of the kernel fail: `faults.c` is preloaded, and fails the n-th
call that it is told."""

import os
import pathlib
import subprocess
import sys
import sysconfig

import pytest
from conftest import PATIENCE, preloading

SOURCE = pathlib.Path(__file__).with_name("faults.c")

HEAD = f"""
import ctypes, errno, gc, os, subprocess, sys
sys.path.append({os.path.dirname(os.path.abspath(__file__))!r})
import iptc, residence
faults = ctypes.CDLL(None)

def left():
    return sorted(os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd))

def attempt(action, name, nth, number, for_ever=False):
    'What action raised or returned while a call failed, and how many calls of that name there were.'
    faults.fault_arm(name.encode(), nth, number, for_ever)
    try:
        return action(), faults.fault_disarm()
    except Exception as error:
        return error, faults.fault_disarm()
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """faults.c as a library to preload."""
    made = tmp_path_factory.mktemp("faults") / "faults.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    subprocess.run(
        [os.environ.get("CC") or compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, SOURCE, "-ldl"],
        check=True,
    )
    return made


@pytest.fixture
def start(host, library):
    """Run a program behind HEAD, with the library preloaded; what it printed."""

    def run(program, *arguments):
        command = [sys.executable, "-c", HEAD + program, *arguments]
        done = subprocess.run(command, env=preloading(library), capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stderr[-3000:])
        return done.stdout.splitlines()

    return run
