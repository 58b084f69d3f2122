"""Names of chains in several edits of one commit: a name that one chain gives up can be used by another, in a text and
in a transaction."""

import os
import random
import subprocess
import warnings

import pytest

import iptc

SEQUENCES = 40 * int(os.environ.get("IPTC_STRESS", "1"))

BEGINNING = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:a - [0:0]
:b - [0:0]
[1:10] -A INPUT -p udp -j a
[2:20] -A INPUT -p tcp -j b
[3:30] -A a -p udp -m udp --dport 1 -j ACCEPT
-A a -p udp -m udp --dport 2
-A b -p tcp -m tcp --dport 3 -j a
COMMIT
"""

REUSED = {
    "renamed, then made": (
        "-E a c; -N a; -A a -j DROP",
        "-A INPUT -p udp -j c; -A INPUT -p tcp -j b; -A a -j DROP; -A b -p tcp -m tcp --dport 3 -j c;"
        " -A c -p udp -m udp --dport 1 -j ACCEPT; -A c -p udp -m udp --dport 2",
    ),
    "renamed, then another renamed": (
        "-E a c; -E b a",
        "-A INPUT -p udp -j c; -A INPUT -p tcp -j a; -A a -p tcp -m tcp --dport 3 -j c;"
        " -A c -p udp -m udp --dport 1 -j ACCEPT; -A c -p udp -m udp --dport 2",
    ),
    "swapped": (
        "-E a c; -E b a; -E c b",
        "-A INPUT -p udp -j b; -A INPUT -p tcp -j a; -A a -p tcp -m tcp --dport 3 -j b;"
        " -A b -p udp -m udp --dport 1 -j ACCEPT; -A b -p udp -m udp --dport 2",
    ),
    "deleted, then made": (
        "-D INPUT -p udp -j a; -F b; -F a; -X a; -N a; -A a -j DROP; -A b -j a",
        "-A INPUT -p tcp -j b; -A a -j DROP; -A b -j a",
    ),
    "deleted, then another renamed": (
        "-D INPUT -p udp -j a; -F b; -F a; -X a; -E b a",
        "-A INPUT -p tcp -j a",
    ),
    "there and back": (
        "-E a c; -E c a; -A a -j DROP",
        "-A INPUT -p udp -j a; -A INPUT -p tcp -j b; -A a -p udp -m udp --dport 1 -j ACCEPT;"
        " -A a -p udp -m udp --dport 2; -A a -j DROP; -A b -p tcp -m tcp --dport 3 -j a",
    ),
    "rules found by the new name": (
        "-E a c; -D INPUT -p udp -j c; -A INPUT -p icmp -j c; -E c d; -D INPUT -p icmp -j d; -N a",
        "-A INPUT -p tcp -j b; -A b -p tcp -m tcp --dport 3 -j d; -A d -p udp -m udp --dport 1 -j ACCEPT;"
        " -A d -p udp -m udp --dport 2",
    ),
    "a new one renamed to what another has left": (
        "-E a c; -N d; -A d -j DROP; -A INPUT -j d; -E d a",
        "-A INPUT -p udp -j c; -A INPUT -p tcp -j b; -A INPUT -j a; -A a -j DROP; -A b -p tcp -m tcp --dport 3 -j c;"
        " -A c -p udp -m udp --dport 1 -j ACCEPT; -A c -p udp -m udp --dport 2",
    ),
}


@pytest.fixture
def table(host, family):
    """Return the filter table with two chains that rules jump to."""
    table = family.Table("filter")
    table.restore(BEGINNING, counters=True)
    return table


def do(table, family, line):
    """Carry out a line of a text with the methods of *table*."""
    letter, name, *rest = line.split(" ", 2)
    chain, rest = iptc.Chain(table, name), "".join(rest)
    if letter in ("-N", "-X", "-F"):
        {"-N": table.create_chain, "-X": table.delete_chain, "-F": table.flush_entries}[letter](name)
    elif letter == "-E":
        table.rename_chain(name, rest)
    elif letter in ("-I", "-R"):
        number, _, rest = rest.partition(" ")
        verb = chain.insert_rule if letter == "-I" else chain.replace_rule
        verb(family.Rule.from_args(rest), int(number) - 1)
    else:
        (chain.append_rule if letter == "-A" else chain.delete_rule)(family.Rule.from_args(rest))


@pytest.mark.parametrize("way", ["text", "transaction"])
@pytest.mark.parametrize("case", REUSED)
def test_a_name_is_used_again_in_one_commit(host, family, table, case, way):
    lines, expected = (part.replace("-p icmp", "-p icmpv6") if family.ipv6 else part for part in REUSED[case])
    if way == "text":
        table.restore("\n".join(["*filter", *lines.split("; "), "COMMIT", ""]), flush=False)
    else:
        with table.transaction():
            for line in lines.split("; "):
                do(table, family, line)
    assert host.rules(family.ipv6) == expected.replace("icmpv6", "ipv6-icmp").split("; ")
    saved = "\n".join(host.save(family.ipv6, counters=True))
    assert ("--dport 1 " in saved) == ("[3:30]" in saved)
    assert ("-p tcp -j" in saved) == ("[2:20]" in saved)


def random_line(dice, chains):
    """Return a random edit, which may be impossible."""
    letter = dice.choice("NNNEEEEXXADIRF")
    name, other = dice.choice("abcd"), dice.choice("abcd")
    if letter in "NX":
        return f"-{letter} {name}"
    if letter == "E":
        return f"-E {name} {other}"
    chain = dice.choice(["INPUT", name])
    if letter == "F":
        return f"-F {chain}"
    if letter == "D":
        rules = chains[chain].rules if chain in chains else []
        return f"-D {chain} {dice.choice(rules) if rules else '-j DROP'}"
    target = dice.choice(["", " -j ACCEPT", *2 * [f" -j {other}"]]) if chain == "INPUT" else ""
    number = "" if letter == "A" else f"{dice.randint(1, 3)} "
    return f"-{letter} {chain} {number}-p udp -m udp --dport {dice.randint(10, 99)}{target}"


def is_jump_to_nowhere(table, line):
    name = line.partition(" -j ")[2]
    return name not in ("", "ACCEPT", "DROP") and not table.is_chain(name)


def test_edits_of_one_commit_at_random(host, family, table):
    """The table in memory before a commit is the one in the kernel after it. The same lines as a text have the same
    result."""
    for seed in range(SEQUENCES):
        dice, done = random.Random(seed), []
        table.restore(BEGINNING)
        with table.transaction():
            for _ in range(dice.randint(2, 9)):
                line = random_line(dice, table)
                try:
                    if not is_jump_to_nowhere(table, line):
                        do(table, family, line)
                        done.append(line)
                except iptc.KernelError:
                    pass
            expected = [
                f"-A {chain.name} {rule}".rstrip()
                for chain in sorted(table.chains, key=lambda chain: (chain.name != "INPUT", chain.name))
                for rule in chain.rules
            ]
        assert host.rules(family.ipv6) == expected, done
        table.restore(BEGINNING)
        table.restore("\n".join(["*filter", *done, "COMMIT", ""]), flush=False)
        assert host.rules(family.ipv6) == expected, done


@pytest.mark.parametrize("words", ["-j LOG", "-j LOG --log-prefix x", "-g LOG", "-j LOG -m comment --comment y"])
def test_a_chain_with_the_name_of_a_target_extension(host, family, words):
    """A text jumps to the chain or uses the extension, as the host's text does, and says so in the same words."""
    beginning = "*filter\n:LOG - [0:0]\nCOMMIT\n"
    text = f"*filter\n-A INPUT -p tcp {words}\nCOMMIT\n"
    results = []
    for ours in (False, True):
        host.restore(beginning, ipv6=family.ipv6)
        if ours:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                try:
                    family.Table("filter").restore(text, flush=False)
                    said = [str(warning.message) for warning in said]
                except iptc.IPTCError:
                    said = ["refused"]
        else:
            command = [host.tool(family.ipv6, "-restore"), "-n"]
            done = subprocess.run(command, input=text, text=True, capture_output=True)
            said = ["refused"] if done.returncode else done.stderr.splitlines()
        is_used = bool(subprocess.run([host.tool(family.ipv6), "-X", "LOG"], capture_output=True).returncode)
        results.append((said, is_used, host.rules(family.ipv6)))
    assert results[0] == results[1]
