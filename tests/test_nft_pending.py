"""A table is read while batches of others are being made that the kernel refuses in the end.

The kernel numbers the rules and chains of such a batch too, and goes on with a dump at a number. So it shows rules and
chains twice, or leaves some out.
"""

import contextlib
import os
import signal
import subprocess

import pytest
from untried import no_ebpf, untried

import iptc
from iptc._core import IPV4
from iptc.bpf.opening import open_source
from iptc.nft.reader import NftScan

pytestmark = pytest.mark.one_backend("nft")

READINGS, LISTS = 40, 800
"""Without what the reader does, a fifth of the readings of rules are wrong, and a hundredth of the lists of chains."""


@contextlib.contextmanager
def refused(tmp_path, lines):
    """Give *lines* to nft again and again. The kernel refuses them, because of the last one.

    Root of a user namespace cannot send so many at once: then half of them, and so on.
    """
    batch, lines = tmp_path / "refused.nft", list(lines)
    while True:
        batch.write_text("\n".join([*lines, "add rule ip filter INPUT jump nowhere", ""]))
        refusal = subprocess.run(["nft", "-f", batch], capture_output=True, check=False)
        if b"Message too long" not in refusal.stderr:
            break
        lines = lines[: len(lines) // 2]
    assert b"No such file or directory" in refusal.stderr
    command = f"echo; while :; do nft -f {batch}; done 2> /dev/null"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, start_new_session=True) as writer:
        writer.stdout.readline()
        try:
            yield
        finally:
            os.killpg(writer.pid, signal.SIGKILL)


def test_no_rule_is_read_twice_or_left_out(host, tmp_path):
    rules = [f"-A INPUT -s 10.{n // 250}.{n % 250}.1 -j ACCEPT" for n in range(6000)]
    host.restore("\n".join(["*filter", ":INPUT ACCEPT [0:0]", *rules, "COMMIT", ""]))
    inserted = (f"insert rule ip filter INPUT ip saddr 1.1.{n // 250}.{n % 250} counter" for n in range(4000))
    with iptc.CounterReader("filter") as reader, refused(tmp_path, inserted):
        first = reader.read()
        assert [rule.rule.src for rule in first.rules[:6000:1999]] == [
            f"10.{n // 250}.{n % 250}.1/255.255.255.255" for n in range(0, 6000, 1999)
        ]
        for _ in range(READINGS):
            with iptc.CounterReader("filter") as anew:
                assert len(reader.read()) == len(anew.read()) == 6000
                assert anew.read().generation == first.generation


def test_no_chain_is_listed_twice_or_left_out(host, tmp_path):
    untried(no_ebpf())
    names = {f"c{n}" for n in range(1500)}
    lines = [*(f":{name} - [0:0]" for name in names), *(f"[{n}:0] -A c{n} -j ACCEPT" for n in range(1500))]
    # the table mangle is listed before the table filter
    host.iptables("-t", "mangle", "-N", "first")
    host.restore("\n".join(["*filter", ":INPUT ACCEPT [0:0]", *lines, "COMMIT", ""]), arguments=["--counters"])
    with (
        contextlib.closing(NftScan(IPV4, "filter")) as scan,
        refused(tmp_path, (f"add chain ip mangle d{n}" for n in range(3000))),
    ):
        for _ in range(LISTS):
            listed = [chain[0] for chain in scan.list_chains()]
            assert len(listed) == 1503 and set(listed[3:]) == names
        for source in ["socket"] if no_ebpf() else ["socket", "bpf"] * 4:
            with iptc.CounterReader("filter", source=source) as reader:
                assert sorted(packets for packets, _ in reader.read()) == list(range(1500))


class Doubling(NftScan):
    """Says once that each chain, with its rules, is there twice."""

    said = False

    def outline(self):
        generation, rows, handles = super().outline()
        if self.said:
            return generation, rows, handles
        self.said = True
        slots = len(handles) // 8
        again = [(name, handle, first + slots, end + slots, policy) for name, handle, first, end, policy in rows]
        return generation, rows + again, 2 * handles


@pytest.mark.needs("ebpf")
def test_a_reading_in_which_two_rules_have_one_counter_is_repeated(host):
    host.restore("*filter\n:INPUT ACCEPT [0:0]\n[3:4] -A INPUT -j ACCEPT\nCOMMIT\n", arguments=["--counters"])
    socket = Doubling(IPV4, "filter")
    with contextlib.closing(open_source(socket, IPV4, "filter", "nft", False, 60.0)) as scan:
        counts, _, _ = scan.read()
        assert (scan.source, scan.source_reason) == ("bpf", "")
        assert socket.said and counts.pairs(0, 1) == [(3, 4)]
