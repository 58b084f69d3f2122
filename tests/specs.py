"""The corpus of rule specifications: one line a rule, as `iptables-restore` reads them."""

import pathlib
from dataclasses import dataclass

FOLDER = pathlib.Path(__file__).parent / "specs"


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


def load_invalid():
    """Return the specifications that iptables refuses."""
    specs = []
    for line in (FOLDER / "invalid.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            family, table, chain, text = line.split(" ", 3)
            specs.append(Spec(family == "6", table, chain, text))
    return specs
