"""Names and lines that are too long: nothing is copied where it does not fit, and an endless line is not read to its
end. They are refused as by the host's tools."""

import io

import pytest

import iptc

A, B, C = "A" * 1000, "B" * 40, "C" * 29
"""Names that are too long for a chain: by far, for the field of a record, and by one byte."""

BEFORE = "".join(f"-A c{number:03} -j ACCEPT\n" for number in range(209))
"""Commands that fill the reader's first buffer, so that the next command is at its end."""

LONG_NAMES = [
    "-A {A} {other} -j ACCEPT",
    "-A {A} -j ACCEPT {other}",
    "-A {A} -j ACCEPT",
    "-I {A} {other} -j ACCEPT",
    "-D {A} {other} -j ACCEPT",
    "-D {A} 1 {other}",
    "-D {A} 1",
    "-R {A} 1 -j ACCEPT",
    "-C {A} {other} -j ACCEPT",
    "-X {A} {other}",
    "-X {A}",
    "-Z {A} {other}",
    "-Z {A} 1 {other}",
    "-Z {A}",
    "-F {A} {other}",
    "-F {B}",
    "-P {A} ACCEPT {other}",
    "-P {A} ACCEPT",
    "-P INPUT {A} {other}",
    "-P INPUT {A}",
    "-P INPUT {B}",
    "-N {A}",
    "-N {C} {other}",
    "-E {A} newer {other}",
    "-E {A} newer",
    "-E new {A} {other}",
    "-E new {B} {other}",
    "-E new {A}",
    ":{A} - [0:0]",
    ":{C} - [0:0]",
    ":INPUT {A} [0:0]",
    ":{A} {A} {A}",
    "-A new -t {A}",
    "-A new -j {A}",
    "-A new -g {B}",
    "-A new -i lo -j {C} {other}",
    "-A new -i {B}",
    "-A new ! -o {A} {other}",
    "-A new -m {B}",
    "-A new -m {A} {other}",
    "-A new -p {A}",
    "-A new -s {A}",
    "-A new --{A} {other}",
    "-A new -c {A} {A}",
    "-I new {A} -j ACCEPT",
    "-M {A} -A new",
    "-X new {other}",
    "-A NOPE {other} -j ACCEPT",
    "-F NOPE {other}",
    "-P INPUT DROP {other}",
    "[{A}:{A}] -A new",
    "[1:2 -A {A}",
]


def test_names_of_any_length_get_the_verdict_of_the_host(host, ipv6):
    words = {"A": A, "B": B, "C": C, "other": "-4" if ipv6 else "-6"}
    chains = "".join(f":c{number:03} - [0:0]\n" for number in range(209))
    for line in LONG_NAMES:
        text = f"*filter\n{chains}:new - [0:0]\n{BEFORE}{line.format(**words)}\nCOMMIT\n"
        there = host.run(host.tool(ipv6, "-restore"), "--test", text=text, check=False).returncode
        if host.backend == "nft" and not there:
            # only the kernel refuses this
            there = host.run(host.tool(ipv6, "-restore"), text=text, check=False).returncode
        try:
            iptc.restore(text, ipv6=ipv6)
            here = 0
        except iptc.IPTCError:
            here = 1
        assert bool(there) == bool(here), (line, there, here)


@pytest.mark.parametrize("command", "AIDRC")
def test_a_long_name_on_a_line_of_the_other_family_is_not_copied(command, ipv6):
    number = " 1" if command == "R" else ""
    text = f"*filter\n{BEFORE}-{command} {A}{number} {'-4' if ipv6 else '-6'} -j ACCEPT\nCOMMIT\n"
    # as iptables-restore, which ignores the rest of such a line
    assert iptc.ruleset.parse(text, ipv6) == 209


class Endless(io.RawIOBase):
    """A file that gives *byte* for ever, *piece* bytes at a time."""

    def __init__(self, byte, piece, first=b""):
        self.byte, self.piece, self.first, self.given = byte, piece, first, 0

    def read(self, size=-1):
        found, self.first = self.first or self.byte * min(self.piece, size), b""
        self.given += len(found)
        assert self.given < 4 << 20, "a line without end is read for ever"
        return found


@pytest.mark.parametrize(
    "first, byte, line, message",
    [
        (b"", b"\0", 1, "NUL"),
        (b"", b"A", 1, "too long"),
        (b"*filter\n", b" ", 2, "too long"),
        (b"# ", b"x", 1, "too long"),
        (b"*filter\n:INPUT ", b"x", 2, "too long"),
        (b"*filter\n[1:2", b"3", 2, "too long"),
        (b"*", b"f", 1, "too long"),
    ],
)
@pytest.mark.parametrize("piece", [100, 1 << 20])
def test_a_line_without_end_is_refused(piece, first, byte, line, message, ipv6):
    source = Endless(byte, piece, first)
    with pytest.raises(iptc.ParameterError, match=message) as caught:
        iptc.ruleset.parse(source, ipv6)
    assert caught.value.line == line


def test_a_line_in_small_pieces_is_read_once():
    rule = "-A INPUT" + " " * 1_000_000 + "-j ACCEPT\n"
    text = ("*filter\n" + rule * 3 + "COMMIT\n").encode()

    class Pieces:
        left = io.BytesIO(text)

        def read(self, size):
            return self.left.read(97)

    assert iptc.ruleset.parse(Pieces()) == 3


@pytest.mark.one_backend("legacy")
def test_a_rule_may_have_as_many_matches_as_its_length_allows(host, family, ipv6):
    chain = iptc.Chain(family.Table("filter"), "INPUT")
    comment = ' -m comment --comment "{:03}"'

    def text(count):
        return "".join(comment.format(number) for number in range(count))[1:] + " -j ACCEPT"

    # IPv6 has 56 bytes more in front
    most = next(count for count in range(228, 200, -1) if refusal(lambda: family.Rule.from_args(text(count))) is None)
    assert most >= 226
    chain.append_rule(family.Rule.from_args(text(most)))
    before = host.save(ipv6)
    assert [len(rule.matches) for rule in chain.rules] == [most] and f"--comment {most - 1:03} " in str(chain.rules[0])
    assert refusal(lambda: family.Rule.from_args(text(most + 1))) == "the rule is longer than 65535 bytes"
    many = "-p tcp " + "-m tcp " * 257 + "-j ACCEPT"
    assert refusal(lambda: family.Rule.from_args(many)) == "more than 256 matches in one rule"
    for line in text(most + 1), many:
        with pytest.raises(iptc.ParameterError, match="line 2"):
            iptc.restore(f"*filter\n-A INPUT {line}\nCOMMIT\n", ipv6=ipv6, flush=False)
    assert host.save(ipv6) == before


def refusal(make):
    """What *make* is refused with, or None."""
    try:
        make()
    except iptc.ParameterError as error:
        return str(error)
