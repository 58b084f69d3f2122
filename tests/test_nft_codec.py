"""Rules as expressions of nf_tables: we read the rules of iptables-nft, and write the same expressions as it does."""

import errno
import functools
import os
import random
import re
import struct
import subprocess
import sys

import pytest
import specs
from conftest import batch_room, preloading

import iptc
from iptc import _core, _netlink
from iptc.language import comparing, printing
from iptc.nft.codec import decode, decode_rules, encode, stored

pytestmark = [
    pytest.mark.filterwarnings("ignore::iptc.XTablesWarning"),
    pytest.mark.one_backend("nft"),
    pytest.mark.usefixtures("host"),
]

TABLES = ("raw", "mangle", "nat", "filter", "security")  # rate estimators are made in raw, and used in the others
SETS = (
    "create specset hash:ip",
    "create specset6 hash:ip family inet6",
    "create specports bitmap:port range 0-65535",
)
NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 1, 2
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_HANDLE, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA = 1, 2, 3, 4, 7
NFT_MSG_NEWRULE, NFT_MSG_GETRULE = 6, 7

# What iptables-nft loses when it reads its own rules. We keep it.
LOST_BY_IPTABLES = (
    "! --dport 0:65535",  # up to 1.8.9: no packet can match, since no port is left; iptables-nft writes no condition
)
# Expressions have no place for these, the forms of older releases have; nobody has ever looked at the length.
LOST_IN_EXPRESSIONS = ("--dport 22 -m tcp --sport 23", "--nflog-range")
# Rules that iptables-nft writes in another way than we do, though both have the same text.
WRITTEN_OTHERWISE = (
    "! --sport 1 ! --dport 2",  # up to 1.8.9 as "not both", which matches packets that only one of the two conditions should exclude
    "-i + ",  # up to 1.8.9 with an expression that loads a value which no other expression uses
    "-c ",
    "--set-counters ",  # ip6tables up to 1.8.9 begins to count at 0
)
# A prefix longer than an address: some releases of the plugin read memory that was never set.
LEFT_TO_CHANCE = ("--connlimit-mask 33", "--hmark-src-prefix 33")


def is_listed(spec, listed):
    listed += () if spec.ipv6 else LEFT_TO_CHANCE
    return any(part in f"{spec.text} " for part in listed)


def counters_of(nfproto, entry):
    """Return (packets, bytes) of an entry. They are the last fields of its base part."""
    end = 112 if nfproto == _core.IPV4 else 168
    return struct.unpack_from("=QQ", entry, end - 16)


class Codec:
    """The tables of one family in the test's namespace, written and read with iptables-nft and with the codec."""

    def __init__(self, host, ipv6):
        self.host = host
        self.nfproto = _core.IPV6 if ipv6 else _core.IPV4
        self.Rule = iptc.Rule6 if ipv6 else iptc.Rule
        self.tool = "ip6tables-nft" if ipv6 else "iptables-nft"
        self.socket = _netlink.Socket()

    def feed(self, lines):
        """Give (spec, line) pairs to iptables-nft-restore. Return those that it refused, found by the line that it names."""
        refused = []
        for table in TABLES:
            wanted = [pair for pair in lines if pair[0].table == table]
            # iptables-nft does not enlarge its socket buffer, so the texts are cut to pieces that fit
            size = len(wanted) + 1 if batch_room() >= 1 << 28 else 60
            for start in range(0, len(wanted), size):
                refused += self._feed(table, wanted[start : start + size])
        return refused

    def _feed(self, table, left):
        refused = []
        while left:
            text = "\n".join([f"*{table}", *(line for _, line in left), "COMMIT", ""])
            done = self.host.run(f"{self.tool}-restore", "--noflush", text=text, check=False)
            if not done.returncode:
                break
            number = int(re.search(r"line:? (\d+)", done.stderr)[1])
            refused.append(left.pop(number - 2)[0])
        return refused

    def save(self):
        """Return {(table, chain): the `-A` lines of iptables-nft-save, without trailing blanks}."""
        lines, table = {}, None
        for line in self.host.run(f"{self.tool}-save").splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A "):
                lines.setdefault((table, line.split(" ", 2)[1]), []).append(line.rstrip())
        return lines

    def dump(self, table, chain):
        wanted = _netlink.attribute(NFTA_RULE_TABLE, f"{table}\0".encode()) + _netlink.attribute(
            NFTA_RULE_CHAIN, f"{chain}\0".encode()
        )
        return self.socket.dump(NFT_MSG_GETRULE, self.nfproto, wanted)[0]

    def read(self, table, chain):
        """Return the entries of a chain."""
        return [entry for _, entry in decode_rules(self.nfproto, self.dump(table, chain))]

    def text(self, chain, entry):
        return f"-A {chain} {printing.render(self.nfproto, entry)}".rstrip()

    def raw(self, table, chain):
        """Return the expressions and user data of each rule of a chain, as the kernel has them."""
        rules = []
        for kind, _, data in _netlink.messages_in(self.dump(table, chain)):
            if kind == NFT_MSG_NEWRULE:
                found = dict(_netlink.attributes(data))
                rules.append((found.get(NFTA_RULE_EXPRESSIONS), found.get(NFTA_RULE_USERDATA)))
        return rules

    def write(self, rules, compat=None):
        """Append (table, chain, entry)."""
        for start in range(0, len(rules), 200):
            batch = _netlink.Batch()
            for table, chain, entry in rules[start : start + 200]:
                batch.add_rule(self.nfproto, table.encode(), chain.encode(), encode(self.nfproto, entry, compat))
            assert self.socket.send(batch) == []

    def entry(self, text):
        return self.Rule.from_args(text)._entry()

    def stored(self, text):
        return stored(self.nfproto, self.entry(text))

    def chains(self):
        """Make two user chains in each table."""
        for table in TABLES:
            self.host.run(self.tool, "-t", table, "-N", "web")
            self.host.run(self.tool, "-t", table, "-N", "log-drop")

    def flush(self):
        for table in TABLES:
            self.host.run(self.tool, "-t", table, "-F")


@pytest.fixture
def codec(host, ipv6):
    for line in SETS:
        host.run("ipset", *line.split())
    codec = Codec(host, ipv6)
    codec.chains()
    yield codec
    codec.socket.close()


def makes_one_rule(codec, spec):
    """Whether *spec* makes one rule: it has no list of addresses, and no name with several addresses on this host. A
    specification that we refuse counts too; iptables refuses it."""
    try:
        return len(codec.Rule.from_args(spec.text).expand()) == 1
    except iptc.ParameterError:
        return True


@pytest.fixture
def filled(codec, ipv6):
    """All specifications that make one rule and that iptables-nft takes, written by it; by table and chain, in their
    order."""
    known = [spec for spec in specs.load(ipv6) if makes_one_rule(codec, spec)]
    refused = codec.feed([(spec, f"-A {spec.chain} {spec.text}") for spec in known])
    assert len(refused) < len(known) / 20
    codec.specs = {}
    for spec in known:
        if spec not in refused:
            codec.specs.setdefault((spec.table, spec.chain), []).append(spec)
    return codec


def write_all(codec, compat=None):
    """Replace the rules of all chains by the specifications of *codec*."""
    codec.flush()
    where = sorted(codec.specs, key=lambda place: TABLES.index(place[0]))
    codec.write([(*place, codec.entry(spec.text)) for place in where for spec in codec.specs[place]], compat)


# ------------------------------------------------- what iptables-nft writes


def test_every_rule_of_iptables_nft_is_read(filled):
    saved = filled.save()
    assert {where: len(lines) for where, lines in saved.items()} == {
        where: len(known) for where, known in filled.specs.items()
    }
    ours = {
        (table, chain): [filled.text(chain, entry) for entry in filled.read(table, chain)] for table, chain in saved
    }
    assert ours == saved


def test_a_rule_of_iptables_nft_is_the_one_that_its_text_makes(filled):
    key = functools.partial(comparing.compare_key, filled.nfproto)
    for where, known in filled.specs.items():
        for spec, entry in zip(known, filled.read(*where)):
            assert key(entry) == key(filled.stored(spec.text)) or is_listed(spec, LOST_BY_IPTABLES), spec


@pytest.mark.parametrize("compat", [None, True], ids=["native", "compat"])
def test_every_rule_that_we_write_is_what_iptables_nft_would_leave(filled, compat):
    theirs = filled.save()
    write_all(filled, compat)
    ours = filled.save()
    for where, known in filled.specs.items():
        assert len(ours[where]) == len(known)
        for spec, our, their in zip(known, ours[where], theirs[where]):
            assert our == their or is_listed(spec, LOST_BY_IPTABLES + (LOST_IN_EXPRESSIONS if compat else ())), (
                spec,
                our,
                their,
            )


def test_the_expressions_are_those_of_iptables_nft(filled):
    theirs = {where: filled.raw(*where) for where in filled.specs}
    write_all(filled)
    different = [
        spec
        for where, known in filled.specs.items()
        for spec, our, their in zip(known, filled.raw(*where), theirs[where])
        if our != their
    ]
    assert [spec for spec in different if not is_listed(spec, LOST_BY_IPTABLES + WRITTEN_OTHERWISE)] == []


@pytest.mark.parametrize("compat", [None, True], ids=["native", "compat"])
def test_what_we_wrote_reads_as_it_was_meant(filled, compat):
    write_all(filled, compat)
    for (table, chain), known in filled.specs.items():
        for spec, entry in zip(known, filled.read(table, chain)):
            # matches stay as they are in the older form, so nothing but the mark that no text shows is lost: ip6's of
            # `-p all`
            meant = filled.entry(re.sub("-p (all|0) ", "", spec.text)) if compat else filled.stored(spec.text)
            key, wanted = (comparing.compare_key(filled.nfproto, one) for one in (entry, meant))
            assert key == wanted, (spec, filled.text("", entry))
            assert counters_of(filled.nfproto, entry) == counters_of(filled.nfproto, meant)


def test_iptables_nft_deletes_what_we_wrote(filled):
    write_all(filled)
    counters = re.compile(r"(^| )(-c|--set-counters) \d+ \d+")
    refused = filled.feed(
        [(spec, f"-D {spec.chain} {counters.sub('', spec.text)}") for known in filled.specs.values() for spec in known]
    )
    # 1.8.11 reads several matches of tcp as one when it looks for a rule, in its own rules too
    assert [spec for spec in refused if not is_listed(spec, LOST_BY_IPTABLES + ("--dport 22 -m tcp --sport 23",))] == []
    assert sum(map(len, filled.save().values())) == len(refused)


def test_the_installed_release_decides_how_a_rule_is_written(codec):
    entry = codec.entry("-p tcp -m tcp --dport 22 -j ACCEPT")
    release = tuple(map(int, re.search(r"v(\d+)\.(\d+)\.(\d+)", codec.host.run(codec.tool, "--version")).groups()))
    compat = encode(codec.nfproto, entry, True)
    assert (b"match\0" in compat) and b"match\0" not in encode(codec.nfproto, entry, False)
    assert (encode(codec.nfproto, entry) == compat) == (release < (1, 8, 8))


CHECKED = (
    "-p tcp -m tcp --dport 22 -j ACCEPT",
    "-p tcp -m tcp --sport 1:2 --dport 3:65535 -j DROP",
    "-p udp -m udp ! --sport 5 -j RETURN",
    "-p tcp -m tcp --tcp-flags SYN,ACK SYN",
    "! -i eth0 -o tun+ -j web",
    "-m mark --mark 0x5/0xff -g web",
    "-m limit --limit 3/min --limit-burst 7 -j NFLOG --nflog-group 3 --nflog-prefix a",
    "-m comment --comment x -j TRACE",
    "-m conntrack --ctstate ESTABLISHED -j REJECT",
)


@pytest.mark.parametrize("text", CHECKED)
def test_iptables_nft_checks_for_what_we_wrote(codec, text):
    codec.host.run(codec.tool, "-A", "FORWARD", "-j", "RETURN")
    codec.write([("filter", "FORWARD", codec.entry(text))])
    codec.host.run(codec.tool, "-C", "FORWARD", *text.split())


STORED_OTHERWISE = (
    "-p tcp -m tcp --dport 22 -m tcp --sport 23 -j ACCEPT",
    "-p tcp --sport 80 -m tcp",
    "-p udp --dport 1 -m udp ! --sport 2",
    "-p tcp --syn -m comment --comment x -m tcp --dport 1 -j web",
    "-p tcp -m tcp --dport 1:9 -m tcp ! --dport 5 -m tcp --sport 3",
    "-j NFLOG --nflog-range 5 --nflog-prefix a",
)


@pytest.mark.parametrize("text", STORED_OTHERWISE)
def test_a_rule_of_which_nf_tables_has_another_form_is_found_by_both(codec, family, text):
    codec.host.iptables(f"-A FORWARD {text}", ipv6=family.ipv6)
    rule, table = family.Rule.from_args(text), family.Table("filter")
    forward, chain = iptc.Chain(table, "FORWARD"), iptc.Chain(table, "INPUT")
    chain.append_rule(rule)
    assert codec.raw("filter", "INPUT") == codec.raw("filter", "FORWARD")
    # iptables-nft 1.8.11 does not find some of these rules, not even those that it has written
    theirs, ours = (
        codec.host.iptables(f"-C {name} {text}", ipv6=family.ipv6, check=False).returncode
        for name in ("FORWARD", "INPUT")
    )
    assert ours == theirs
    if theirs:
        chain.delete_rule(rule)
    else:
        codec.host.iptables(f"-D INPUT {text}", ipv6=family.ipv6)
    assert forward.has_rule(rule) and forward.has_rule(rule) and not chain.has_rule(rule)
    with table.transaction():
        chain.append_rule(rule)
        assert chain.has_rule(rule) and chain.has_rule(chain.rules[0])
        chain.delete_rule(rule)
        forward.delete_rule(rule)
    assert chain.rules == forward.rules == []


def test_two_conditions_on_one_port_are_both_kept(codec):
    """iptables-nft writes both, and prints only the second."""
    codec.host.run(codec.tool, *"-A FORWARD -p tcp -m tcp --dport 1:9 -m tcp ! --dport 5".split())
    assert [codec.text("FORWARD", entry) for entry in codec.read("filter", "FORWARD")] == [
        "-A FORWARD -p tcp -m tcp --dport 1:9 -m tcp ! --dport 5"
    ]


def test_more_conditions_on_a_port_than_are_read_are_written_as_they_are(codec):
    entry = codec.entry("-p tcp" + "".join(f" -m tcp ! --dport {port}" for port in range(9)))
    assert decode(codec.nfproto, encode(codec.nfproto, entry)) == entry


@pytest.mark.parametrize("option", ["-s", "-d"])
def test_an_address_that_no_packet_has_is_refused_as_iptables_nft_refuses_it(codec, family, option):
    text = f"! {option} {'::' if family.ipv6 else '0.0.0.0'}/0 -j ACCEPT"
    said = codec.host.iptables(f"-A FORWARD {text}", ipv6=family.ipv6, check=False).stderr
    with pytest.raises(iptc.KernelError, match="Invalid argument"):
        iptc.Chain(family.Table("filter"), "FORWARD").append_rule(family.Rule.from_args(text))
    assert "Invalid argument" in said


# --------------------------------------------- what older releases wrote


def data(value):
    return _netlink.attribute(1, value)


def be32(kind, number):
    return _netlink.attribute(kind, struct.pack("!I", number & 0xFFFFFFFF))


def expression(name, *attributes):
    inner = _netlink.attribute(NFTA_EXPR_NAME, f"{name}\0".encode()) + _netlink.attribute(
        NFTA_EXPR_DATA, b"".join(attributes)
    )
    return _netlink.attribute(NFTA_LIST_ELEM, inner)


def payload(base, offset, length, register=1):
    return expression("payload", be32(1, register), be32(2, base), be32(3, offset), be32(4, length))


def meta(key, register=1):
    return expression("meta", be32(1, register), be32(2, key))


def bitwise(mask, xor=None, source=1, register=1):
    return expression(
        "bitwise",
        be32(1, source),
        be32(2, register),
        be32(3, len(mask)),
        _netlink.attribute(4, data(mask)),
        _netlink.attribute(5, data(xor or bytes(len(mask)))),
    )


def compare(relation, value, register=1):
    return expression("cmp", be32(1, register), be32(2, relation), _netlink.attribute(3, data(value)))


def counter(packets, size):
    return expression(
        "counter", _netlink.attribute(1, struct.pack("!Q", size)), _netlink.attribute(2, struct.pack("!Q", packets))
    )


def verdict(code, chain=None):
    inner = be32(1, code) + (_netlink.attribute(2, chain.encode() + b"\0") if chain else b"")
    return expression("immediate", be32(1, 0), _netlink.attribute(2, _netlink.attribute(2, inner)))


def rule_of(*expressions, userdata=None):
    rule = _netlink.attribute(NFTA_RULE_EXPRESSIONS, b"".join(expressions))
    return rule + (_netlink.attribute(NFTA_RULE_USERDATA, userdata) if userdata is not None else b"")


def comment(text):
    return bytes([0, len(text) + 1]) + text.encode() + b"\0"


NETWORK, TRANSPORT, IIFNAME, L4PROTO, EQ, NEQ = 1, 2, 6, 16, 0, 1
ACCEPT, RETURN, JUMP, GOTO = 1, -5, -3, -4
TCP = meta(L4PROTO) + compare(EQ, b"\6")

OLD_FORMS = {
    "a host with a mask of ones": (
        [
            payload(NETWORK, 12, 4),
            bitwise(b"\xff" * 4),
            compare(EQ, bytes([1, 2, 3, 4])),
            counter(0, 0),
            verdict(ACCEPT),
        ],
        None,
        "-s 1.2.3.4/32 -j ACCEPT",
    ),
    "a network with its mask": (
        [payload(NETWORK, 16, 4), bitwise(b"\xff\xff\0\0"), compare(NEQ, bytes([10, 1, 0, 0])), counter(0, 0)],
        None,
        "! -d 10.1.0.0/16",
    ),
    "a network by its length": (
        [payload(NETWORK, 12, 1), compare(EQ, b"\x0a"), counter(0, 0), verdict(JUMP, "web")],
        None,
        "-s 10.0.0.0/8 -j web",
    ),
    "any interface, as a name that nothing looks at": (
        [meta(IIFNAME), TCP, counter(0, 0), verdict(GOTO, "web")],
        None,
        "-p tcp -g web",
    ),
    "no interface": (
        [meta(IIFNAME), compare(EQ, b"INVAL/D\0"), counter(0, 0), verdict(RETURN)],
        None,
        "! -i + -j RETURN",
    ),
    "a comment in the user data": (
        [TCP, counter(0, 0), verdict(ACCEPT)],
        comment("a b"),
        '-p tcp -m comment --comment "a b" -j ACCEPT',
    ),
    "user data of another kind before it": ([counter(0, 0)], b"\5\2xx" + comment("c"), "-m comment --comment c"),
    "both ports inverted at once": (
        [TCP, payload(TRANSPORT, 0, 4), compare(NEQ, b"\0\1\0\2"), counter(0, 0)],
        None,
        "-p tcp -m tcp ! --sport 1 ! --dport 2",
    ),
    "ports above one": (
        [TCP, payload(TRANSPORT, 2, 2), compare(4, b"\3\xff"), counter(0, 0)],
        None,
        "-p tcp -m tcp --dport 1024:65535",
    ),
}


@pytest.mark.parametrize("form", OLD_FORMS)
def test_forms_of_other_releases_are_read(form):
    expressions, userdata, text = OLD_FORMS[form]
    entry = decode(_core.IPV4, rule_of(*expressions, userdata=userdata))
    assert printing.render(_core.IPV4, entry) == text
    assert decode(_core.IPV4, encode(_core.IPV4, entry)) == entry


def test_no_interface_equals_what_its_text_makes(codec):
    meant = codec.entry("! -i + -j ACCEPT")
    read = decode(codec.nfproto, encode(codec.nfproto, meant))
    assert comparing.compare_key(codec.nfproto, read) == comparing.compare_key(codec.nfproto, meant)


# ------------------------------------------------------- what nft writes

READABLE = {
    "ip saddr 1.2.3.4 ip daddr 5.6.7.8 accept": "-s 1.2.3.4/32 -d 5.6.7.8/32 -j ACCEPT",
    "ip saddr & 255.0.255.0 == 10.0.1.0 drop": "-s 10.0.1.0/255.0.255.0 -j DROP",
    "iif lo accept": "-i lo -j ACCEPT",
    'iifname "eth*" drop': "-i eth+ -j DROP",
    "tcp sport 5 tcp dport 22 accept": "-p tcp -m tcp --sport 5 --dport 22 -j ACCEPT",
    "tcp dport 1-1000 counter": "-p tcp -m tcp --dport 1:1000",
    "tcp dport >= 5 tcp dport <= 10 counter": "-p tcp -m tcp --dport 5:10",
    "tcp dport < 1023 counter": "-p tcp -m tcp --dport 0:1022",
    "udp dport > 1023 counter": "-p udp -m udp --dport 1024:65535",
    "tcp dport 5 tcp dport != 6": "-p tcp -m tcp --dport 5 -m tcp ! --dport 6",
    "tcp flags & (syn|ack) == syn counter": "-p tcp -m tcp --tcp-flags SYN,ACK SYN",
    "icmp type echo-request accept": "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
    "icmp type != echo-request accept": "-p icmp -m icmp ! --icmp-type 8 -j ACCEPT",
    "icmp type destination-unreachable icmp code 3 drop": "-p icmp -m icmp --icmp-type 3/3 -j DROP",
    "ip protocol tcp tcp dport 5 counter": "-p tcp -m tcp --dport 5",
    "ip frag-off & 0x1fff != 0 drop": "-f -j DROP",
    "ip ttl < 5 counter": "-m ttl --ttl-lt 5",
    "ip ttl <= 5 counter": "-m ttl --ttl-lt 6",
    "ip ttl >= 5 counter": "-m ttl --ttl-gt 4",
    "ip ttl != 5 counter": "-m ttl ! --ttl-eq 5",
    "meta mark & 0xff == 5 accept": "-m mark --mark 0x5/0xff -j ACCEPT",
    "meta mark set 7": "-j MARK --set-xmark 0x7/0xffffffff",
    "meta nftrace set 1": "-j TRACE",
    "meta pkttype != broadcast drop": "-m pkttype ! --pkt-type broadcast -j DROP",
    "limit rate 3/minute burst 7 packets accept": "-m limit --limit 3/min --limit-burst 7 -j ACCEPT",
    'log group 3 prefix "abc" snaplen 7 queue-threshold 2': "-j NFLOG --nflog-prefix abc --nflog-group 3 --nflog-size 7 --nflog-threshold 2",
    'ip saddr 1.1.1.1 accept comment "hello world"': '-s 1.1.1.1/32 -m comment --comment "hello world" -j ACCEPT',
    "counter packets 5 bytes 500 goto web": "-g web",
    "return": "-j RETURN",
}

# iptables-nft reads some of these rules as other rules, and because of others refuses the whole table.
UNREADABLE = (
    "tcp dport { 22, 80 } accept",
    "ct state established,related accept",
    "reject",
    "reject with tcp reset",
    'log prefix "abc"',
    "log group 5 accept",
    "icmp code 3 accept",
    "limit rate over 3/minute accept",
    "limit rate 10 kbytes/second accept",
    "ip saddr 1.2.3.4 ip saddr 1.2.3.5 drop",
    "ip saddr 1.2.3.4-1.2.3.9 drop",
    "ip saddr | 1.0.0.0 == 10.0.1.0 drop",
    "udp dport 5 udp sport 6 udp length 8 counter",
    "ip dscp 5 counter",
    "th dport 53 drop",
    "meta mark set meta mark | 7",
    "meta nftrace set 0",
    "numgen random mod 2 0 drop",
    "quota 500 bytes drop",
    "ip ttl > 300-400",
    "jump a-chain-whose-name-is-much-too-long-for-iptables",
    "meta l4proto { tcp, udp } counter packets 7 bytes 70 drop",
)


@pytest.fixture
def nft(host):
    """Return a table and chain in which `nft` writes."""
    host.run(
        "nft",
        "add table ip filter; add chain ip filter INPUT; add chain ip filter web; "
        "add chain ip filter a-chain-whose-name-is-much-too-long-for-iptables",
    )
    codec = Codec(host, False)
    yield codec
    codec.socket.close()


def test_rules_of_nft_are_read_where_iptables_can_say_the_same(nft):
    nft.host.run("nft", "-f", "-", text="".join(f"add rule ip filter INPUT {rule}\n" for rule in READABLE))
    entries = nft.read("filter", "INPUT")
    assert dict(zip(READABLE, (printing.render(_core.IPV4, entry) for entry in entries))) == READABLE
    # a rule that was read and is written again reads the same
    assert [decode(_core.IPV4, encode(_core.IPV4, entry)) for entry in entries] == entries


def foreign(nft):
    """Write the rules that only nft can write, and that this kernel accepts. Return their texts and their entries."""
    taken = [
        rule
        for rule in UNREADABLE
        if not nft.host.run("nft", f"add rule ip filter INPUT {rule}", check=False).returncode
    ]
    assert len(taken) >= len(UNREADABLE) - 2
    return taken, nft.read("filter", "INPUT")


def test_other_rules_of_nft_are_opaque(nft):
    rules, entries = foreign(nft)
    assert len(entries) == len(rules)
    for rule, entry in zip(rules, entries):
        assert re.fullmatch(r"-j nft \[\d+ bytes of unknown data\] ?", printing.render(_core.IPV4, entry)), rule
        assert _core.split_entry(_core.IPV4, entry)[1][-1][2:6] == b"nft\0"
    assert counters_of(
        _core.IPV4, entries[rules.index("meta l4proto { tcp, udp } counter packets 7 bytes 70 drop")]
    ) == (7, 70)


def test_an_opaque_rule_is_written_back_as_it_was(nft):
    rules, entries = foreign(nft)
    # the sets of a rule without names go with it
    kept = [(rule, entry) for rule, entry in zip(rules, entries) if "{" not in rule]
    nft.host.run("nft", "flush chain ip filter INPUT")
    nft.write([("filter", "INPUT", entry) for _, entry in kept])
    assert nft.read("filter", "INPUT") == [entry for _, entry in kept]


def test_an_opaque_rule_says_the_same_whatever_was_counted(nft):
    rule = [expression("payload", be32(1, 1), be32(2, 7), be32(3, 0), be32(4, 4)), counter(3, 40)]
    entry = decode(_core.IPV4, rule_of(*rule))
    other = decode(_core.IPV4, rule_of(rule[0], counter(5, 60)))
    assert counters_of(_core.IPV4, entry) == (3, 40) and counters_of(_core.IPV4, other) == (5, 60)
    assert comparing.compare_key(_core.IPV4, entry) == comparing.compare_key(_core.IPV4, other)
    assert rule_of(*rule).endswith(counter(3, 40)) and counter(3, 40) in encode(_core.IPV4, entry)


def test_a_quota_that_is_used_up_is_the_same_rule(nft, traffic):
    nft.host.run("nft", "add chain ip filter first { type filter hook input priority filter; }")
    nft.host.run("nft", "add rule ip filter first jump web")
    nft.host.run("nft", "add rule ip filter web udp dport 7 quota over 1000 bytes counter")
    with iptc.CounterReader(backend="nft") as reader:
        before, entries = reader.read(), nft.read("filter", "web")
        traffic(7, 20)
        snapshot = reader.read()
        assert snapshot.generation == before.generation and snapshot["web"][0].packets > 0
    after = nft.read("filter", "web")
    keys = [[comparing.compare_key(_core.IPV4, entry) for entry in these] for these in (entries, after)]
    assert keys[0] == keys[1]
    # the kernel refuses a rule whose quota is marked as used up
    nft.host.run("nft", "flush chain ip filter web")
    nft.write([("filter", "web", entry) for entry in after])


def test_an_opaque_rule_that_is_too_long_is_not_written_in_part():
    rule = rule_of(*[payload(7, 0, 4)] * (0xFFF0 // len(payload(7, 0, 4))))
    entry = decode(_core.IPV6, rule)
    assert "-j nft" in printing.render(_core.IPV6, entry)
    with pytest.raises(iptc.Unsupported, match="too long"):
        encode(_core.IPV6, entry)


def test_the_number_of_an_interface_is_read_in_the_table_s_namespace(host):
    other = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        there = ["nsenter", f"--net=/proc/{other.pid}/ns/net"]
        host.run("ip", "link", "add", "here0", "type", "veth", "peer", "name", "here1")
        host.run(*there, "ip", "link", "add", "there0", "type", "veth", "peer", "name", "there1")
        host.run(*there, "iptables-nft", "-A", "INPUT", "-i", "there1", "-j", "ACCEPT")
        host.run(*there, "nft", "add rule ip filter INPUT iif there0 drop")
        table = iptc.Table("filter", netns=other.pid, backend="nft")
        assert [str(rule) for rule in iptc.Chain(table, "INPUT").rules] == ["-i there1 -j ACCEPT", "-i there0 -j DROP"]
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


# --------------------------------------------------------------- refusals


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_ports_without_their_protocol_are_refused_by_the_kernel(codec, protocol):
    entry = bytearray(codec.entry(f"-p {protocol} -m {protocol} --dport 22 -j ACCEPT"))
    at = 80 if codec.nfproto == _core.IPV4 else 128
    assert entry[at] == {"tcp": 6, "udp": 17}[protocol]
    entry[at] = 0
    batch = _netlink.Batch()
    batch.add_rule(codec.nfproto, b"filter", b"web", encode(codec.nfproto, bytes(entry)))
    assert [failed[:2] for failed in codec.socket.send(batch)] == [(0, errno.EINVAL)]


def test_what_is_no_entry_is_refused(codec):
    entry = codec.entry("-j ACCEPT")
    for wrong in (b"", entry[:-1], entry + b"\0", bytes(len(entry))):
        with pytest.raises(iptc.ParameterError, match="sizes do not add up"):
            encode(codec.nfproto, wrong)


def test_messages_that_are_cut_are_refused(codec):
    codec.write([("filter", "web", codec.entry("-p tcp -m tcp --dport 1:2 -j ACCEPT"))])
    messages = codec.dump("filter", "web")
    assert len(decode_rules(codec.nfproto, messages)) == 1
    with pytest.raises(iptc.ParameterError, match="do not add up"):
        decode_rules(codec.nfproto, messages[:-1] if len(messages) % 4 else messages[:-5])


# -------------------------------------------------------------- any bytes


def mutated(rule, other, chance):
    """Return *rule* with one to eight bytes changed."""
    rule = bytearray(rule)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        if not rule:
            break
        at = chance.randrange(len(rule))
        way = chance.randrange(6)
        if way < 2:
            rule[at] = chance.choice((0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 0x7F, 0x80, 0xFF))
        elif way == 2:
            rule[at] ^= 1 << chance.randrange(8)
        elif way == 3:
            del rule[at : at + 4 * chance.randrange(1, 5)]
        elif way == 4:
            cut = chance.randrange(len(other) + 1) & ~3
            rule[at & ~3 : at & ~3] = other[cut : cut + 4 * chance.randrange(1, 30)]
        else:
            rule[at & ~3 : (at & ~3) + 4] = struct.pack(
                "=HH", chance.choice((0, 3, 4, 5, 8, 36, 0xFFFF)), chance.randrange(40)
            )
    return bytes(rule)


def test_any_bytes_are_read_as_a_rule_that_is_written_the_same(filled):
    rules = [
        _netlink.attribute(NFTA_RULE_EXPRESSIONS, expressions)
        for where in filled.specs
        for expressions, _ in filled.raw(*where)
    ]
    chance = random.Random(6)
    opaque = 0
    for _ in range(20000):
        rule = mutated(chance.choice(rules), chance.choice(rules), chance)
        entry = decode(filled.nfproto, rule)
        opaque += b"nft\0" == _core.split_entry(filled.nfproto, entry)[1][-1][2:6]
        for compat in (False, True):
            again = decode(filled.nfproto, encode(filled.nfproto, entry, compat))
            # padding at the end of a structure is not written in expressions
            assert again == entry or comparing.compare_key(filled.nfproto, again) == comparing.compare_key(
                filled.nfproto, entry
            ), rule.hex()
    assert 2000 < opaque < 18000


# ---------------------------------------------------- without the old tables

NO_IP_TABLES = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/socket.h>

/* what a kernel without ip_tables and ip6_tables answers */
int getsockopt(int fd, int level, int option, void *value, socklen_t *length)
{
    int (*real)(int, int, int, void *, socklen_t *) = dlsym(RTLD_NEXT, "getsockopt");

    if ((level == 0 || level == 41) && option >= 64 && option < 70) {
        errno = ENOPROTOOPT;
        return -1;
    }
    return real(fd, level, option, value, length);
}
"""

REVISIONS_OF_EVERY_RULE = """
import hashlib, sys, warnings
import iptc, specs
from iptc import _core
warnings.simplefilter("ignore")
digest = hashlib.sha256()
for ipv6 in (False, True):
    for spec in specs.load(ipv6):
        try:
            rule = (iptc.Rule6 if ipv6 else iptc.Rule).from_args(spec.text)
            # the size, name and revision of each extension
            digest.update(b"".join(payload[:32] for payload in _core.split_entry(rule.nfproto, rule._entry())[1]))
        except iptc.ParameterError as error:
            digest.update(str(error).encode())
print(digest.hexdigest())
try:
    print(iptc.Table("filter", backend="legacy").chains)
except iptc.IPTCError as error:
    print(error)
"""


def test_revisions_are_those_of_nf_tables_where_there_is_no_ip_tables(host, tmp_path):
    (tmp_path / "shim.c").write_text(NO_IP_TABLES)
    host.run("gcc", "-shared", "-fPIC", "-o", str(tmp_path / "shim.so"), str(tmp_path / "shim.c"), "-ldl")
    for line in SETS:
        host.run("ipset", *line.split())
    printed = []
    for preload in ("", str(tmp_path / "shim.so")):
        environment = {**preloading(preload), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", REVISIONS_OF_EVERY_RULE], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines())
    assert printed[0][0] == printed[1][0]
    assert printed[0][1] != printed[1][1] and "Table does not exist" in printed[1][1]
