"""What type checkers see: `mypy --strict` of a program and of the package, and stubtest of what is imported."""

import os
import re
import subprocess
import sys

import pytest
from test_structure import PACKAGE, PLAIN, ROOT

import iptc


def run(*command):
    """What *command* of mypy says, which has to be all right."""
    # without PYTHONPATH, in which mypy looks for the package too, and the memory of an earlier run is in build
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"MYPYPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_client_and_the_package_are_clean():
    modules = ["iptc" if name == "__init__" else f"iptc.{name}" for name in PLAIN]
    assert {"iptc.table", "iptc.rule", "iptc.managing.planning"} <= set(modules)
    files = [str(ROOT / "tests/typed_client.py"), *(file_of(name) for name in modules)]
    assert run("mypy", "--strict", *files) == f"Success: no issues found in {len(files)} source files\n"


def file_of(module):
    """The file that says how *module* is typed."""
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return str(path / "__init__.pyi" if path.is_dir() else path.with_suffix(".py"))


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


def test_every_public_class_is_in_the_client():
    client = (ROOT / "tests" / "typed_client.py").read_text()
    assert client.count("\n") >= 150
    names = [name for name in dir(iptc) if isinstance(getattr(iptc, name), type)]
    assert [name for name in names if not re.search(rf"\b{name}\b", client)] == []


@pytest.mark.parametrize("module", PLAIN)
def test_annotations_cost_nothing_when_a_module_is_loaded(module):
    text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
    if module != "_types":
        assert not re.search(r"^(from|import) typing\b", text, re.MULTILINE)
        assert not re.search(r"^from \S*_types import", text, re.MULTILINE)
