"""The arguments of the commands that make a bench: rules of IPv6, interfaces, routes."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_layout(command: ArgumentParser) -> None:
    """Add the arguments that say of a bench which rules of IPv6, interfaces and routes it has."""
    command.add_argument("--rules6", metavar="FILE", help="the rules of IPv6, where RULES are those of IPv4")
    command.add_argument(
        "--interface",
        action="append",
        default=[],
        metavar="NAME=ADDRESS/LEN[,…]",
        type=_interface,
        help="an interface and its addresses; repeatable (made up for those that the rules name)",
    )
    command.add_argument(
        "--route",
        action="append",
        metavar="ROUTE",
        help="a route as `ip route add' takes it; repeatable (by default all goes by the first interface)",
    )


def interfaces_of(options: Namespace) -> dict[str, str]:
    """{name: addresses} that `--interface` says."""
    found: dict[str, str] = {}
    for name, addresses in options.interface:
        found[name] = f"{found[name]},{addresses}" if name in found else addresses
    return found


def _interface(text: str) -> tuple[str, str]:
    name, equals, addresses = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=ADDRESS/LEN: {text!r}")
    return name, addresses
