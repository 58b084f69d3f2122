"""python-iptables' import path for libxtables' names and numbers."""

from __future__ import annotations

from .errors import ParameterError, XTablesError
from .language.plugins import LIBRARY_MAJOR as xtables_version

NFPROTO_UNSPEC = 0
NFPROTO_IPV4 = 2
NFPROTO_ARP = 3
NFPROTO_BRIDGE = 7
NFPROTO_IPV6 = 10
NFPROTO_DECNET = 12

XTF_DONT_LOAD = 0x00
XTF_DURING_LOAD = 0x01
XTF_TRY_LOAD = 0x02
XTF_LOAD_MUST_SUCCEED = 0x03

XTOPT_INVERT = 1 << 0
XTOPT_MAND = 1 << 1
XTOPT_MULTI = 1 << 2
XTOPT_PUT = 1 << 3
XTOPT_NBO = 1 << 4

XT_INV_PROTO = 0x40


def xt_align(size: int) -> int:
    """Round *size* up as the kernel aligns payloads (`XT_ALIGN`)."""
    return (size + 7) & ~7


__all__ = [
    "NFPROTO_ARP",
    "NFPROTO_BRIDGE",
    "NFPROTO_DECNET",
    "NFPROTO_IPV4",
    "NFPROTO_IPV6",
    "NFPROTO_UNSPEC",
    "ParameterError",
    "XTF_DONT_LOAD",
    "XTF_DURING_LOAD",
    "XTF_LOAD_MUST_SUCCEED",
    "XTF_TRY_LOAD",
    "XTOPT_INVERT",
    "XTOPT_MAND",
    "XTOPT_MULTI",
    "XTOPT_NBO",
    "XTOPT_PUT",
    "XT_INV_PROTO",
    "XTablesError",
    "xt_align",
    "xtables_version",
]
