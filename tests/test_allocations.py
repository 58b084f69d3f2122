"""Any allocation may fail. Each public call then raises MemoryError or returns its result, and leaves nothing half
done. See `allocations.py`.

In each run of the suite some of the allocations fail, for each call other ones. With `IPTC_STRESS` all of them fail.
"""

import os
import pathlib
import subprocess
import sys
import sysconfig

import pytest
from conftest import preloading

HERE = pathlib.Path(__file__).parent
STEP = 1 if "IPTC_STRESS" in os.environ else 7


@pytest.fixture(scope="session")
def failing(tmp_path_factory):
    """Return the path of allocations.c as a library to preload."""
    made = tmp_path_factory.mktemp("allocations") / "allocations.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    source = HERE / "allocations.c"
    subprocess.run(
        [os.environ.get("CC") or compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, source],
        check=True,
    )
    return made


CALLS_OF_ITS_OWN = """
import ctypes
hook = ctypes.PyDLL(None)

class Made:
    __slots__ = ("one", "two", "three", "four", "__weakref__")

    def __init__(self, one, two, three, four, *, five=None):
        self.one, self.two, self.three, self.four = one, two, (three, four), five

class Maker:
    def make(self, one, two, three, four):
        return Made(one, two, three, lambda: one.nothing(two, three), five=lambda found: one.nothing(two, four))

    def all(self, rows):
        return [self.make(7, *row) for row in rows]

rows = [("a", (1, 2), 10**9) for _ in range(3)]
Maker().all(rows)
for nth in range(60):
    try:
        hook.allocation_arm(ctypes.c_long(nth))
        Maker().all(rows)
    except MemoryError:
        pass
    try:
        hook.allocation_disarm()
    except MemoryError:
        hook.allocation_disarm()
    for _ in range(10):
        Maker().all(rows)
"""


def crashes_by_itself(environment):
    """Whether this interpreter itself crashes if an allocation fails. CPython 3.13 frees the arguments of a call
    twice."""
    # freed memory is overwritten, so that using it is noticed
    environment = {**environment, "MALLOC_PERTURB_": "165"}
    return subprocess.run([sys.executable, "-c", CALLS_OF_ITS_OWN], env=environment, capture_output=True).returncode < 0


@pytest.mark.parametrize("half", [0, 1])
def test_any_allocation_may_fail(host, failing, half):
    environment = {
        **preloading(failing),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
    }
    if crashes_by_itself(environment):
        print(
            "this interpreter does not survive small allocations that fail: only its large ones fail, ours, and libxtables'"
        )
        del environment["PYTHONMALLOC"]
    command = [sys.executable, "-X", "faulthandler", HERE / "allocations.py", str(STEP), str(half), "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    findings = [line for line in done.stdout.splitlines() if not line.startswith("at ")]
    # the last line shows where a crash was
    assert (done.returncode, findings) == (0, ["all"]), "\n".join(
        [*findings[:60], *done.stdout.splitlines()[-1:], done.stderr[-3000:]]
    )
