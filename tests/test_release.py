"""What a release consists of says the same version, and has all its parts."""

import os
import pathlib
import re

import iptc

ROOT = pathlib.Path(__file__).parent.parent


def found(pattern, file):
    """What the group of *pattern* is in *file*."""
    return re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)[1]


def test_the_packages_of_distributions_have_this_version():
    assert found(r"^iptc \((.*)-\d+\)", "debian/changelog") == iptc.__version__
    assert found(r"^Version: +(\S+)", "packaging/python3-iptc.spec") == iptc.__version__


def test_the_changelog_and_the_notes_are_of_this_version():
    assert found(r"^## (\S+)", "CHANGELOG.md") == iptc.__version__
    assert found(r"^# iptc (\S+):", "docs/release-notes.md") == iptc.__version__


def test_every_command_is_in_the_page_of_commands():
    from iptc.cli.dispatch import COMMANDS

    listed = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/command.md").read_text(), re.MULTILINE))
    assert listed >= set(COMMANDS)


def test_the_units_are_in_every_package():
    units = {path.name for path in ROOT.glob("packaging/**/*.service")} | {
        path.name for path in ROOT.glob("packaging/**/*.socket")
    }
    for file in "debian/rules", "packaging/python3-iptc.spec":
        text = (ROOT / file).read_text()
        assert {unit for unit in units if unit not in text} == set(), file


def test_each_old_scar_has_its_test():
    """tests/scars.md says what was once wrong: each test that it names is there, and so is each of python-iptables."""
    named = set()
    for file, name in re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", (ROOT / "tests/scars.md").read_text()):
        file = file or "test_defects.py"
        assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE), f"{file} has no {name}"
        named.add((file, name))
    for file in re.findall(r"`(benchmarks/\S+)`", (ROOT / "tests/scars.md").read_text()):
        assert (ROOT / file).exists()
    defects = re.findall(r"^def (test_\w+)\(", (ROOT / "tests/test_defects.py").read_text(), re.MULTILINE)
    assert [name for name in defects if ("test_defects.py", name) not in named] == []


def test_a_forge_runs_scripts_that_are_there():
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    run = set(re.findall(r"scripts/\w+", text))
    assert run >= {"scripts/lint", "scripts/test", "scripts/demo", "scripts/sanitize", "scripts/fuzz", "scripts/build"}
    assert [script for script in run if not os.access(ROOT / script, os.X_OK)] == []
    # an action is what it was when it was looked at
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", used) for used in re.findall(r"uses: (.*)", text))


def test_a_project_has_one_address():
    """What is to be changed at once where the project gets a home: RELEASING.md names these files."""
    told = (ROOT / "RELEASING.md").read_text()
    for file, pattern in {
        "pyproject.toml": r'^Homepage = "(.*)"',
        "debian/control": r"^Homepage: (.*)",
        "debian/copyright": r"^Source: (.*)",
        "packaging/python3-iptc.spec": r"^URL: +(.*)",
        "packaging/systemd/iptc-exporter.service": r"^Documentation=.* (https.*)",
        "packaging/iptc-guard@.service": r"^Documentation=.* (https.*)",
    }.items():
        assert found(pattern, file) == "https://pypi.org/project/iptc/", file
        assert f"`{file}`" in told, file
