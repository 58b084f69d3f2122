"""Warns of attributes that a rule, match or target does not have, and says what was probably meant.

python-iptables accepts `rule.dport = "22"` without a word, and the rule then matches every port. Programs also store
attributes of their own on rules, so none is refused: those that are probably a mistake get a warning.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

from .errors import XTablesWarning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_OWN = ("src", "dst", "protocol", "in_interface", "out_interface", "fragment", "target", "matches", "counters")

_OTHER_NAMES = {
    "src": "source saddr sip ipsrc srcip sourceip srcaddr srcaddress sourceaddr sourceaddress srcnet",
    "dst": "destination dest daddr dip ipdst dstip destip destinationip dstaddr dstaddress destaddr destinationaddress",
    "protocol": "proto prot ipproto ipprotocol",
    "in_interface": "iniface inif iif inputinterface inputiface interfacein ifacein indev",
    "in_interface or rule.out_interface": "interface iface",
    "out_interface": "outiface outif outputinterface outputiface interfaceout ifaceout outdev",
    "fragment": "frag fragments",
    "create_target(...)": "jump verdict",
    "create_target(..., goto=True)": "goto",
    "create_match(...)": "match",
    'create_match("tcp").sport': "srcport sourceport",
    'create_match("tcp").dport': "port dstport destport destinationport",
}
"""attribute -> other words for it, without underscores."""

_OPTIONS = """
tcp: source-port sport destination-port dport syn tcp-flags tcp-option
icmp: icmp-type
icmp6: icmpv6-type
state: state
conntrack: ctstate ctproto ctorigsrc ctorigdst ctreplsrc ctrepldst ctstatus ctexpire ctorigsrcport ctorigdstport
  ctreplsrcport ctrepldstport ctdir
multiport: source-ports sports destination-ports dports ports
limit: limit limit-burst
comment: comment
mark: mark
mac: mac-source
iprange: src-range dst-range
addrtype: src-type dst-type limit-iface-in limit-iface-out
set: match-set set return-nomatch update-counters packets-eq packets-lt packets-gt bytes-eq bytes-lt bytes-gt
  update-subcounters
owner: uid-owner gid-owner socket-exists suppl-groups
recent: rcheck update remove seconds reap hitcount rttl name rsource rdest mask
length: length
connlimit: connlimit-upto connlimit-above connlimit-mask connlimit-saddr connlimit-daddr
hashlimit: hashlimit-upto hashlimit-above hashlimit hashlimit-srcmask hashlimit-dstmask hashlimit-burst
  hashlimit-htable-size hashlimit-htable-max hashlimit-htable-gcinterval hashlimit-htable-expire hashlimit-mode
  hashlimit-name hashlimit-rate-match hashlimit-rate-interval
statistic: mode probability every packet
string: from to algo string hex-string icase
time: datestart datestop timestart timestop contiguous weekdays monthdays localtz utc kerneltz
DNAT: to-destination random persistent
SNAT: to-source random-fully
REJECT: reject-with
LOG: log-level log-prefix log-tcp-sequence log-tcp-options log-ip-options log-uid log-macdecode
NFLOG: nflog-group nflog-prefix nflog-range nflog-size nflog-threshold
MARK: set-xmark set-mark and-mark or-mark xor-mark
CONNMARK: save-mark restore-mark left-shift-mark right-shift-mark ctmask nfmask
SET: add-set del-set exist timeout map-set map-mark map-prio map-queue
NFQUEUE: queue-num queue-balance queue-bypass queue-cpu-fanout
CT: notrack helper ctevents expevents zone-orig zone-reply zone
TCPMSS: set-mss clamp-mss-to-pmtu
TOS: set-tos and-tos or-tos xor-tos
TTL: ttl-set ttl-dec ttl-inc
HL: hl-set hl-dec hl-inc
ah: ahspi ahlen ahres
AUDIT: type
bpf: bytecode object-pinned
cgroup: path cgroup
CHECKSUM: checksum-fill
CLASSIFY: set-class
cluster: cluster-total-nodes cluster-local-node cluster-local-nodemask cluster-hash-seed
CLUSTERIP: new hashmode clustermac total-nodes local-node hash-init
connbytes: connbytes connbytes-dir connbytes-mode
connlabel: label
CONNSECMARK: save restore
cpu: cpu
dccp: dccp-types dccp-option
devgroup: src-group dst-group
DNPT: src-pfx dst-pfx
DSCP: set-dscp set-dscp-class
dscp: dscp dscp-class
dst: dst-len dst-opts
ECN: ecn-tcp-remove ecn-tcp-cwr ecn-tcp-ece ecn-ip-ect
esp: espspi
frag: fragid fraglen fragres fragfirst fragmore fraglast
hbh: hbh-len hbh-opts
hl: hl-lt hl-gt hl-eq hl
HMARK: hmark-tuple hmark-src-prefix hmark-dst-prefix hmark-sport-mask hmark-dport-mask hmark-spi-mask hmark-sport
  hmark-dport hmark-spi hmark-proto-mask hmark-rnd hmark-mod hmark-offset
IDLETIMER: alarm
ipcomp: ipcompspi compres
ipv6header: header soft
ipvs: ipvs vproto vaddr vport vdir vmethod vportctl
LED: led-trigger-id led-delay led-always-blink
mh: mh-type
nfacct: nfacct-name
osf: genre ttl log
physdev: physdev-in physdev-out physdev-is-in physdev-is-out physdev-is-bridged
pkttype: pkt-type
policy: dir pol strict reqid spi tunnel-src tunnel-dst proto next
quota: quota
RATEEST: rateest-name rateest-interval rateest-ewmalog
rateest: rateest1 rateest rateest2 rateest-bps1 rateest-pps1 rateest-bps2 rateest-pps2 rateest-bps rateest-pps
  rateest-delta rateest-lt rateest-gt rateest-eq
realm: realm
rpfilter: loose validmark accept-local invert
rt: rt-type rt-segsleft rt-len rt-0-res rt-0-addrs rt-0-not-strict
sctp: chunk-types
SECMARK: selctx
socket: transparent nowildcard restore-skmark
srh: srh-next-hdr srh-hdr-len-eq srh-hdr-len-gt srh-hdr-len-lt srh-segs-left-eq srh-segs-left-gt srh-segs-left-lt
  srh-last-entry-eq srh-last-entry-gt srh-last-entry-lt srh-tag srh-psid srh-nsid srh-lsid
SYNPROXY: sack-perm timestamp wscale mss ecn
TCPOPTSTRIP: strip-options
TEE: gateway oif
tos: tos
TPROXY: on-port on-ip tproxy-mark
ttl: ttl-lt ttl-gt ttl-eq
u32: u32
ULOG: ulog-nlgroup ulog-prefix ulog-cprange ulog-qthreshold
REDIRECT: to-ports
"""
"""extension -> its options, except those of an earlier extension. With this list no plugin is loaded to find
`dport`."""

_NOTES = frozenset("label log name next path remove restore save timeout timestamp type update".split())
"""Options whose names a program may as well use for its own attributes of a rule. They get no warning."""


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


@lru_cache(1)
def _meanings() -> tuple[dict[str, str], set[str]]:
    """Return {name without underscores: what was probably meant}. Names of options are as they are written."""
    options, written = {}, set()
    for line in _OPTIONS.replace("\n ", "").strip().splitlines():
        extension, _, names = line.partition(": ")
        kind = "target" if extension.isupper() else "match"
        written.update(names.split())
        for name in names.split():
            options[_plain(name)] = f'create_{kind}("{extension}").{name.replace("-", "_")}'
    meanings = {name: meant for name, meant in options.items() if name not in _NOTES}
    meanings |= {_plain(name): name for name in _OWN}
    meanings |= {name: meant for meant, names in _OTHER_NAMES.items() for name in names.split()}
    return meanings, written


def _nearest(name: str, names: Iterable[str], likeness: float) -> str | None:
    """Return the name that *name* is, but for case and underscores, or else one that is like it."""
    from difflib import get_close_matches

    by_plain = {_plain(each): each for each in names}
    near = get_close_matches(_plain(name), by_plain, 1, likeness)
    return by_plain[near[0]] if near else None


@lru_cache(1000)
def meant_by(name: str) -> str | None:
    """Return the attribute that was probably meant by *name*, or None if the program probably uses *name* for
    itself."""
    plain = _plain(name)
    return _meanings()[0].get(plain) or _nearest(name, _OWN[2:], 0.85)


def check_rule(rule: object, name: str) -> None:
    """Warn if a rule has no attribute *name*, which is being set. The warning names the line of the program."""
    if name.startswith("_") or hasattr(type(rule), name):
        return
    meant = meant_by(name)
    if meant is not None:
        text = f"a rule has no attribute {name!r}, and matches nothing by it; probably meant is rule.{meant}"
        warnings.warn(text, XTablesWarning, stacklevel=2)


def is_well_known(name: str) -> bool:
    """Whether *name* is an option of an extension that comes with iptables."""
    return name in _meanings()[1]


def warn_of_option(extension: str | None, name: str, options: Iterable[str]) -> None:
    """Warn that a program reads option *name*, which no extension has. The warning names the line of the program."""
    if not extension:
        return  # the empty target, or an object whose constructor failed: it has no options
    near = _nearest(name, options, 0.75)
    meant = "" if near is None else f"; probably meant is {near.replace('-', '_')!r}"
    text = f"{extension} has no option --{name}, nor has any other extension here{meant}"
    warnings.warn(text, XTablesWarning, stacklevel=2)
