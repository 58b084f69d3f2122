"""Tests an installed iptc on a system that has only the tools named on the command line: iptables, nftables or neither.

scripts/trials runs it in a network namespace with one nf_tables rule in INPUT: -s 192.0.2.1 -j DROP, counters (7, 420).
"""

import importlib.metadata
import os
import subprocess
import sys
import tempfile

import iptc

SPECIFICATION = "-s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT"


def refused(function, *arguments):
    """Call *function*, which must raise `Unsupported`. Return the message."""
    try:
        answer = function(*arguments)
    except iptc.Unsupported as error:
        return str(error)
    raise AssertionError(f"{function.__name__} answered {answer!r} where no extension is")


def main(have):
    folder = os.path.dirname(iptc.__file__)
    assert importlib.metadata.version("iptc") == iptc.__version__
    files = importlib.metadata.files("iptc")
    assert not [file for file in files if file.suffix in (".c", ".h", ".pyx", ".pxd")]
    assert [file for file in files if file.name == "py.typed"] and [file for file in files if file.suffix == ".pyi"]
    kind = "abi3" if [file for file in files if file.name.endswith(".abi3.so")] else "of this Python"
    size = sum(os.path.getsize(file.locate()) for file in files if file.suffix != ".pyc")
    assert size < 4e6, f"{size} bytes"

    with iptc.CounterReader("filter", backend="nft") as reader:
        snapshot = reader.read()
    assert list(snapshot["INPUT"]) == [(7, 420)], list(snapshot["INPUT"])
    chain = iptc.Chain(iptc.Table("filter", backend="nft"), "INPUT")
    assert chain.get_policy().name == "ACCEPT"

    os.environ["XTABLES_LOCKFILE"] = os.path.join(tempfile.mkdtemp(), "lock")
    if have == "iptables":
        rule = iptc.Rule.from_args(SPECIFICATION)
        assert str(rule) == SPECIFICATION
        chain.append_rule(rule)
        assert [str(rule) for rule in chain.rules] == ["-s 192.0.2.1/32 -j DROP", SPECIFICATION]
        told = "rules are parsed, appended and read"
    else:
        told = refused(iptc.Rule.from_args, SPECIFICATION)
        assert "install the package iptables" in told, told
        told = f"a rule to be parsed says: {told}"
    program = os.path.join(os.path.dirname(sys.executable), "iptc")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert version == f"iptc {iptc.__version__}\n", version
    counted = subprocess.run([program, "counters", "--backend", "nft"], capture_output=True, text=True)
    assert counted.returncode == 0, counted.stderr
    assert "420" in counted.stdout, counted.stdout
    print(f"Python {sys.version.split()[0]}, wheel {kind}, {size / 1e6:.2f} MB in {folder}: counters are read; {told}")


if __name__ == "__main__":
    main(sys.argv[1])
