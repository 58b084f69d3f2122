"""Any allocation may fail: each public call gives MemoryError or its result then, and leaves nothing half done. See
`allocations.py`.

In each run of the suite every few allocations fail, other ones of each call; with `IPTC_STRESS` in the environment all
of them do.
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
    """allocations.c as a library to preload."""
    made = tmp_path_factory.mktemp("allocations") / "allocations.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    source = HERE / "allocations.c"
    subprocess.run(
        [os.environ.get("CC") or compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, source],
        check=True,
    )
    return made


@pytest.mark.parametrize("half", [0, 1])
def test_any_allocation_may_fail(host, failing, half):
    environment = {
        **preloading(failing),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
    }
    command = [sys.executable, "-X", "faulthandler", HERE / "allocations.py", str(STEP), str(half), "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    findings = [line for line in done.stdout.splitlines() if not line.startswith("at ")]
    # what stood last is where a crash was
    assert (done.returncode, findings) == (0, ["all"]), "\n".join(
        [*findings[:60], *done.stdout.splitlines()[-1:], done.stderr[-3000:]]
    )
