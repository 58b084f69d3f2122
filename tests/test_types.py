"""Type checkers: `mypy --strict` accepts a program and the package, and stubtest finds that stubs and modules agree."""

import os
import re
import subprocess
import sys

import pytest
from test_structure import COMPILED, PACKAGE, PLAIN, ROOT

import iptc


def run(*command):
    """Run *command* of mypy, which must succeed. Return its output."""
    # without PYTHONPATH, since mypy would also look for the package there; the cache of mypy is in build
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "MYPYPATH": f"{ROOT}:{ROOT / 'tests'}"
    }
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_client_and_the_package_are_clean():
    said = run("mypy", "--strict", "-p", "iptc", "-m", "typed_client")
    looked_at = int(re.fullmatch(r"Success: no issues found in (\d+) source files\n", said)[1])
    assert looked_at >= len({*PLAIN, *COMPILED}) + 1


def test_no_module_of_the_package_is_excused():
    text = (ROOT / "pyproject.toml").read_text()
    settings = text[text.index("[tool.mypy]") :]
    assert "overrides" not in settings and "exclude" not in settings and "ignore" not in settings


def test_stubs_say_what_is_there():
    said = run(
        "mypy.stubtest",
        "iptc",
        "--allowlist",
        "tests/stubtest.txt",
        "--ignore-disjoint-bases",
        "--mypy-config-file",
        "pyproject.toml",
    )
    assert re.match(r"Success: no issues found in \d+ modules", said)


def test_every_public_name_is_in_the_client():
    client = (ROOT / "tests" / "typed_client.py").read_text()
    assert client.count("\n") >= 150
    names = [name for name in dir(iptc) if not name.startswith("__")]
    assert [name for name in names if not re.search(rf"\b{name}\b", client)] == []
    classes = [name for name in names if name[0].isupper()]
    assert [name for name in classes if not re.search(rf"assert_type\(.*\b{name}\b", client)] == []


@pytest.mark.parametrize("module", PLAIN)
def test_annotations_cost_nothing_when_a_module_is_loaded(module):
    text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
    # these three are for type checkers only: nothing imports them
    if module not in ("_types", "model.backend_table", "model.handle"):
        assert not re.search(r"^(from|import) typing\b", text, re.MULTILINE)
        assert not re.search(r"^from \S*_types import", text, re.MULTILINE)
