"""python-iptables' import path for the IPv6 names."""

from ._core import IPV6 as NFPROTO_IPV6
from .chain import Chain
from .errors import IPTCError, XTablesError
from .rule import Match, Policy, Rule6, Target
from .table import Table6, is_table6_available

__all__ = [
    "Chain",
    "IPTCError",
    "Match",
    "NFPROTO_IPV6",
    "Policy",
    "Rule6",
    "Table6",
    "Target",
    "XTablesError",
    "ip6tc",
    "is_table6_available",
]


class ip6tc:
    """There the functions of libip6tc, which programs import unused; no such function is bound here."""
