"""The arguments of the commands that make a bench: rules of IPv6, interfaces, routes."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


MADE_UP = "the interfaces that the rules name, with addresses that iptc chooses"
FIRST = "everything is routed to the first interface"


def add_layout(command: ArgumentParser, interfaces: str, routes: str) -> None:
    """Add the arguments that give a bench rules of IPv6, interfaces and routes.

    *interfaces* and *routes* say, for the help, what the bench has without these arguments."""
    command.add_argument("--rules6", metavar="FILE", help="a file with the IPv6 rules, if RULES has only those of IPv4")
    command.add_argument(
        "--interface",
        action="append",
        default=[],
        metavar="NAME=ADDRESS/LEN[,…]",
        type=_interface,
        help=f"an interface and its addresses; can be repeated. Default: {interfaces}",
    )
    command.add_argument(
        "--route",
        action="append",
        metavar="ROUTE",
        help=f"a route, with the words of `ip route add'; can be repeated. Default: {routes}",
    )


def interfaces_of(options: Namespace) -> dict[str, str]:
    """Return {name: addresses} of the interfaces that `--interface` gives."""
    found: dict[str, str] = {}
    for name, addresses in options.interface:
        found[name] = f"{found[name]},{addresses}" if name in found else addresses
    return found


def _interface(text: str) -> tuple[str, str]:
    name, equals, addresses = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=ADDRESS/LEN: {text!r}")
    return name, addresses
