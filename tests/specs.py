"""The corpus of rule specifications: one line a rule, as `iptables-restore` reads them."""

import contextlib
import json
import pathlib
from dataclasses import dataclass

FOLDER = pathlib.Path(__file__).parent / "specs"

# What the specifications name, made beforehand: sets, and rate estimators (name, interval, time constant).
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
    """Return the specifications that the kernel takes, in their order."""
    specs = []
    for name in ("both", "ipv6" if ipv6 else "ipv4"):
        for line in (FOLDER / f"{name}.txt").read_text().splitlines():
            if line and not line.startswith("#"):
                table, chain, text = line.split(" ", 2)
                specs.append(Spec(ipv6, table, chain, text))
    return specs


def load_taken(ipv6):
    """Those of `load` of which the installed iptables makes a rule: releases differ in a few, and where there is one
    user, the kernel takes no other. That its verdict is ours is tested elsewhere."""
    from conftest import has_other_users

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
    """Return the specifications of which the host decides whether they make a rule."""
    specs = []
    for path in sorted((FOLDER / "parity").glob(f"{subject}.txt")):
        # not splitlines: a carriage return or a form feed is part of a specification
        for line in path.read_bytes().decode().split("\n"):
            if line and not line.startswith("#"):
                families, table, chain, text = line.split(" ", 3)
                if ("6" if ipv6 else "4") in families:
                    specs.append(Spec(ipv6, table, chain, text))
    return specs


def load_words(ipv6):
    """Return (table, chain, words) of specifications that no line of a file can hold."""
    lines = (FOLDER / "parity" / "words.jsonl").read_text().splitlines()
    return [tuple(rest) for family, *rest in map(json.loads, lines) if (family == "6") == ipv6]
