"""libxtables is loaded when a rule needs it: what works where it, or its extensions, are not there, or are others than we know."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

import iptc
from iptc.language import plugins

ROOT = pathlib.Path(iptc.__file__).parent.parent
INSTALL = "install the package iptables (iptables-nft on Fedora)"


def test_no_module_is_linked_to_a_library_of_iptables():
    for module in ROOT.glob("iptc/**/*.so"):
        headers = subprocess.run(["objdump", "-p", module], capture_output=True, text=True, check=True).stdout
        needed = re.findall(r"NEEDED +(\S+)", headers)
        assert "libc.so.6" in needed
        assert [name for name in needed if "xtables" in name or "tc.so" in name] == []


def library_path():
    """Where the libxtables lies that is loaded into this process."""
    plugins.library_dirs()
    maps = pathlib.Path("/proc/self/maps").read_text()
    return pathlib.Path(re.search(r"/\S*/libxtables\.so\S*", maps)[0])


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Run Python's code where some files of the libraries' folder are not there, for those programs alone; what it printed,
    line by line."""
    folder = library_path().parent
    real, view = (tmp_path_factory.mktemp(name) for name in ("real", "view"))
    for path in folder.iterdir():
        (view / path.name).symlink_to(real / path.name)

    def run(hidden, code, *arguments, **environment):
        script = f"""
            mount --bind {folder} {real}
            for name in {hidden}; do rm -f {view}/$name; done
            mount --bind {view} {folder}
            exec "$@"
        """
        command = ["unshare", "-mn", "sh", "-ec", script, "sh", sys.executable, "-W", "error", "-c", code, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
        for path in folder.iterdir():
            link = view / path.name
            if not link.is_symlink():
                link.symlink_to(real / path.name)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


REFUSED = """
import iptc

def refused(function, *arguments):
    try:
        print(function(*arguments))
    except iptc.Unsupported as error:
        print(error)
"""


def test_without_it_the_package_to_be_installed_is_named(seen):
    code = (
        REFUSED
        + """
refused(iptc.Rule.from_args, "-j ACCEPT")
refused(iptc.Rule().create_match, "tcp")
rule = iptc.Rule()
rule.src = "192.0.2.0/24"
rule.target = iptc.Target(rule, "ACCEPT")
refused(str, rule)
"""
    )
    missing = f"libxtables.so.12 is not there, and rules are read and printed with it: {INSTALL}"
    assert seen("'libxtables*'", code) == [missing, missing, "-s 192.0.2.0/24 -j ACCEPT"]


def test_without_extensions_the_package_to_be_installed_is_named(seen):
    code = (
        REFUSED
        + """
refused(iptc.Rule.from_args, "-p tcp -j ACCEPT")
refused(iptc.Rule.from_args, "-p tcp --dport 22 -j ACCEPT")
refused(iptc.Rule().create_match, "limit")
"""
    )
    folder = library_path().parent / "xtables"
    missing = [
        f"no extension of iptables is in {folder}, and {name} may be one: {INSTALL}" for name in ("tcp", "limit")
    ]
    assert seen("xtables", code) == ["-p tcp -j ACCEPT", *missing]
