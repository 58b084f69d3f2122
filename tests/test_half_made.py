"""Objects without a complete `__init__`, closed or copied: each method of each class raises or returns. See
`half_made.py`."""

import copy
import os
import pathlib
import pickle
import subprocess
import sys

import pytest

import iptc

HERE = pathlib.Path(__file__).parent


@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize("kind", ["compiled", "plain", "functions"])
def test_an_object_that_is_not_whole_answers_every_call(host, kind, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    del environment["IPTC_BACKEND"]
    command = [sys.executable, "-X", "faulthandler", HERE / "half_made.py", kind]
    # some of them create files in the current folder
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    findings = [line for line in lines if line.startswith("SystemError:") or "descriptors that are not its own" in line]
    assert (done.returncode, findings) == (0, []), "\n".join([*findings, *lines[-2:], done.stderr[-3000:]])
    assert lines[-1].startswith("all ")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda reader: pickle.loads(pickle.dumps(reader))])
@pytest.mark.parametrize("netns", [False, True])
def test_a_reader_is_not_copied(host, netns, duplicate):
    with iptc.CounterReader("filter", netns=os.getpid() if netns else None) as reader:
        with pytest.raises(TypeError):
            duplicate(reader)
        before = sorted(os.listdir("/proc/self/fd"))
        assert reader.read().packets is not None
    others = [os.open("/dev/null", os.O_RDONLY) for _ in before]
    del reader
    for descriptor in others:
        os.close(descriptor)
