"""The corpus of rule specifications: one rule on each line, as `iptables-restore` reads it."""

import contextlib
import json
import pathlib
from dataclasses import dataclass

FOLDER = pathlib.Path(__file__).parent / "specs"

# What the specifications need, created before the tests: sets, and rate estimators (name, interval, time constant).
SETS = ("create specset hash:ip", "create specset6 hash:ip family inet6", "create specports bitmap:port range 0-65535")
ESTIMATORS = (("re1", "250ms", "500ms"), ("re2", "0.5s", "1s"), ("re3", "8s", "16s"))


@dataclass(frozen=True)
class Spec:
    """One rule specification for one family."""

    ipv6: bool
    table: str
    chain: str
    text: str


def load(ipv6):
    """Return the specifications that the kernel accepts, in their order."""
    specs = []
    for name in ("both", "ipv6" if ipv6 else "ipv4"):
        for line in (FOLDER / f"{name}.txt").read_text().splitlines():
            if line and not line.startswith("#"):
                table, chain, text = line.split(" ", 2)
                specs.append(Spec(ipv6, table, chain, text))
    return specs


def load_taken(ipv6):
    """Return the specifications of `load` that the installed iptables accepts.

    Releases differ in a few, and where there is only one user, the kernel accepts no other. Other tests check that iptc
    accepts the same.
    """
    from untried import has_other_users

    import iptc

    taken, users = [], has_other_users()
    for spec in load(ipv6):
        if not users and "-m owner" in spec.text:
            continue
        with contextlib.suppress(iptc.ParameterError):
            (iptc.Rule6 if ipv6 else iptc.Rule).from_args(spec.text)
            taken.append(spec)
    assert len(taken) > 0.9 * len(load(ipv6))
    return taken


def load_invalid():
    """Return the specifications that iptables refuses."""
    specs = []
    for line in (FOLDER / "invalid.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            family, table, chain, text = line.split(" ", 3)
            specs.append(Spec(family == "6", table, chain, text))
    return specs


def load_parity(ipv6, subject="*"):
    """Return the specifications for which the host's iptables decides whether they make a rule."""
    specs = []
    for path in sorted((FOLDER / "parity").glob(f"{subject}.txt")):
        # not splitlines: a carriage return or a form feed is a part of the specification
        for line in path.read_bytes().decode().split("\n"):
            if line and not line.startswith("#"):
                families, table, chain, text = line.split(" ", 3)
                if ("6" if ipv6 else "4") in families:
                    specs.append(Spec(ipv6, table, chain, text))
    return specs


def load_words(ipv6):
    """Return (table, chain, words) of specifications that cannot be written as a line of a file."""
    lines = (FOLDER / "parity" / "words.jsonl").read_text().splitlines()
    return [tuple(rest) for family, *rest in map(json.loads, lines) if (family == "6") == ipv6]
