"""python-iptables' import path for the IPv4 names."""

from ._core import IPV4 as NFPROTO_IPV4
from .chain import Chain
from .errors import IPTCError, XTablesError
from .rule import IPTCModule, Match, Policy, Rule, Target
from .table import Table, is_table_available
from .util import find_libc, find_library, load_kernel
from .xtables import XT_INV_PROTO, xt_align

__all__ = [
    "Chain",
    "IPTCError",
    "IPTCModule",
    "Match",
    "NFPROTO_IPV4",
    "Policy",
    "Rule",
    "Table",
    "Target",
    "XTablesError",
    "XT_INV_PROTO",
    "find_libc",
    "find_library",
    "iptc",
    "is_table_available",
    "load_kernel",
    "xt_align",
]


class iptc:
    """There the functions of libiptc, which programs import unused; no such function is bound here."""
