"""Packets that are traced: which rule takes them, on both back ends, said by the kernel."""

import pathlib
import socket

import pytest

from iptc.namespace import Place
from iptc.tracing.gathering import Gatherer
from iptc.tracing.headers import read_headers, read_packet
from iptc.tracing.legacy_reports import LegacyReports
from iptc.tracing.lookup import LegacyRules, NftRules
from iptc.tracing.mark import MarkTable, everything
from iptc.tracing.nft_reports import NftReports

LOGGERS = [pathlib.Path(f"/proc/sys/net/netfilter/nf_log/{family}") for family in (2, 10)]
LOCAL = {False: "127.0.0.1", True: "::1"}


class Reports:
    """The low half alone: everything is traced."""

    def __init__(self):
        place = Place()
        self.mark = MarkTable(place, everything([socket.AF_INET, socket.AF_INET6]))
        for path in LOGGERS:
            path.write_text("nfnetlink_log")
        self.nft, self.legacy = NftReports(place), LegacyReports(place)
        self.gatherer = Gatherer(place, self.mark.name, NftRules(place), LegacyRules(place))

    def packets(self):
        legacy, nft = self.legacy.read(), self.nft.read()
        return self.gatherer.take(nft, legacy + self.legacy.read()) + self.gatherer.flush()


def knock(port, ipv6=False, kind=socket.SOCK_DGRAM):
    """Send one packet to a port of this host."""
    with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, kind) as sender:
        sender.setblocking(False)
        try:
            sender.connect((LOCAL[ipv6], port))
            sender.send(b"x")
        except OSError:
            pass


@pytest.mark.parametrize("ipv6", [False, True])
def test_the_way_of_a_packet_is_put_together(host, ipv6):
    host.run("ip", "link", "set", "lo", "up")
    host.iptables("-N web", ipv6=ipv6)
    host.iptables("-A web -p udp --dport 80 -j ACCEPT", ipv6=ipv6)
    host.iptables("-A web -p udp --dport 22 -j DROP", ipv6=ipv6)
    host.iptables("-A INPUT -i lo -j web", ipv6=ipv6)
    host.iptables("-A INPUT -p udp --dport 99 -j REJECT", ipv6=ipv6)
    host.iptables("-P INPUT DROP", ipv6=ipv6)
    reports = Reports()
    for port, verdict, text in [
        (80, "ACCEPT", "-p udp -m udp --dport 80 -j ACCEPT"),
        (22, "DROP", "-p udp -m udp --dport 22 -j DROP"),
        (99, "REJECT", "-p udp -m udp --dport 99 -j REJECT"),
        (7, "DROP", None),
    ]:
        knock(port, ipv6)
        packet = next(one for one in reports.packets() if one.in_interface == "lo" and one.before.dport == port)
        assert packet.verdict == verdict and packet.sure
        assert packet.hook == "INPUT" and packet.ip_version == (6 if ipv6 else 4)
        assert text is None and packet.rule is None or str(packet.rule).startswith(text)
        steps = [str(step) for step in packet.path if step.table == "filter"]
        assert steps[0] == "filter INPUT rule 1: -i lo -j web"
        if verdict == "REJECT" or text is None:
            assert steps[1] == "filter web end"
        if text is None:
            assert steps[2] == "filter INPUT policy DROP"


def test_headers_are_read_within_their_bounds():
    """What the kernel hands out of a packet may end anywhere."""
    udp = bytes.fromhex("4500001d00010000401100000a0000010a000002" + "003500350009" + "000078")
    assert str(read_packet(udp)) == "udp 10.0.0.1:53 > 10.0.0.2:53"
    fragment = bytes.fromhex("60000000000d2c40" + "20010db8" + "00" * 12 + "20010db8" + "00" * 11 + "01")
    fragment += bytes.fromhex("1100000100000001")
    assert read_packet(fragment + udp[20:]).sport == 53
    assert read_packet(fragment[:-6] + bytes.fromhex("0009") + fragment[-4:] + udp[20:]).sport is None
    for packet in (udp, fragment + udp[20:]):
        for length in range(len(packet)):
            header = read_packet(packet[:length])
            assert header is None or header.src
    assert read_headers(b"", None) is None
