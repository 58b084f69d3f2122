"""Rule specifications side by side with iptables: the same verdict, the same message, the same line of
iptables-save."""

import re
from dataclasses import dataclass, field, replace

import pytest
import specs
from test_args import OF_A_TABLE

import iptc
from iptc.language import printing
from iptc.nft import codec

pytestmark = pytest.mark.filterwarnings("ignore::iptc.XTablesWarning")

# What -A takes and a file does not, or the other way round: the words of no oracle.
OF_A_FILE = (
    "Parameter too long!",
    "Parser cannot handle more arguments",
    "from iptables-restore",
    "from ip6tables-restore",
    "option cannot be used in",
    "initialize iptables table",
    "initialize ip6tables table",
    '"(null)"',
)
# What iptables-nft says where it makes messages of rules, as for legacy the kernel does.
OF_THE_KERNEL = r"RULE_\w+ failed|^Chain '.*' does not exist|^(TCP|UDP) match requires"
# Its own name in a message, and that it knows -f in IPv6 too, which makes an abbreviation ambiguous.
OF_NFT = ("The -t option cannot be used in", "is not supported in IPv6", 'unknown option "--fr"')
# Two conditions on one port, of which iptables-nft shows the last.
LOST_BY_NFT = ("--dport 1 -m tcp --dport 2",)


@dataclass
class Verdict:
    """What iptables said of a specification."""

    refusal: str = ""  # its parser's message
    kernel: str = ""  # or the kernel's
    rules: list = field(default_factory=list)  # or the rules that are there, as `iptables -S` prints them


def verdict_of(done):
    """Read the output of `iptables-restore` or `iptables` that ended with `-S`."""
    if not done.returncode:
        # a rule may hold line feeds
        return Verdict(rules=[f"-A {text}".rstrip() for text in f"\n{done.stdout}".split("\n-A ")[1:]])
    text = re.split(r"^(?:Error occurred at line: \d+|Try `ip6?tables.*)\n", done.stderr, flags=re.MULTILINE)[0]
    said = re.search(
        r"^ip6?tables(?:-nft)?(?:-restore)? v\S+ \((?:legacy|nf_tables)\): (.*)", text, re.MULTILINE | re.DOTALL
    )
    if said and re.search(OF_THE_KERNEL, said[1]):
        return Verdict(kernel=said[1].strip())
    if said:
        return Verdict(refusal=said[1].strip())
    said = re.search(r"^ip6?tables(?:-nft)?(?:-restore)?: (.*)", text, re.MULTILINE)
    if said:
        return Verdict(kernel=said[1])
    return Verdict(refusal=re.sub(r"^(?:Warning|WARNING|Notice).*\n", "", text, flags=re.MULTILINE).strip())


def ask(host, spec):
    """Append *spec* to its chain, alone, with iptables-restore."""
    lines = [
        f"*{spec.table}",
        f"-F {spec.chain}",
        f"-A {spec.chain} {spec.text}",
        "COMMIT",
        f"*{spec.table}",
        f"-S {spec.chain}",
        "COMMIT",
        "",
    ]
    return verdict_of(host.run(host.tool(spec.ipv6, "-restore"), "--noflush", text="\n".join(lines), check=False))


def ask_with(host, spec, words):
    """Append *words*, which no line of a file can hold, to the chain of *spec*."""
    host.iptables("-t", spec.table, "-F", spec.chain, ipv6=spec.ipv6)
    done = host.iptables("-t", spec.table, "-A", spec.chain, *words, ipv6=spec.ipv6, check=False)
    return verdict_of(
        done if done.returncode else host.iptables("-t", spec.table, "-S", spec.chain, ipv6=spec.ipv6, check=False)
    )


def difference(host, verdict, spec, specification):
    """Say where `Rule.from_args` is not of iptables' opinion; None where it is."""
    first = next(iter(specification.split() if isinstance(specification, str) else specification), "")
    if re.match(r"-[ACDIR]|--(append|check|delete|insert|replace)\b", first):
        return None  # a whole line, of which the tool has had a command already; tests/test_args.py has these
    if any(part in verdict.refusal for part in OF_A_FILE + (OF_NFT if host.backend == "nft" else ())):
        return None
    try:
        rule = (iptc.Rule6 if spec.ipv6 else iptc.Rule).from_args(specification)
    except iptc.ParameterError as error:
        # from_args knows no chain
        said = str(error).strip().replace('"CHAIN"', f'"{spec.chain}"')
        same = said.endswith((verdict.refusal, verdict.refusal.split("\n")[0]))
        same = same and not verdict.kernel or "is not a chain" in said and "does not exist" in verdict.kernel
        return None if same and not verdict.rules else f"refused: {said} ({verdict})"
    if verdict.kernel or any(part in verdict.refusal for part in OF_A_TABLE):
        return None
    ours = f"-A {spec.chain} {rule}".rstrip()
    if host.backend == "nft" and len(verdict.rules) == 1:
        # what it is once it is written
        stored = codec.decode(rule.nfproto, codec.encode(rule.nfproto, rule._entry()))
        ours = f"-A {spec.chain} {printing.render(rule.nfproto, stored)}".rstrip()
        if any(part in ours for part in LOST_BY_NFT):
            return None
    if len(verdict.rules) > 1 and ask(host, replace(spec, text=str(rule))).rules == verdict.rules:
        return None
    return None if verdict.rules == [ours] else f"{ours} ({verdict})"


def report(found, asked):
    """Fail with the differences that were found."""
    shown = "\n".join(f"{line!r}\n    {what}" for line, what in found[:40])
    assert not found, f"{len(found)} of {asked} differ:\n{shown}"


def test_every_specification_is_judged_as_iptables_judges_it(prepared, ipv6):
    known, found = specs.load_parity(ipv6), []
    # the parser is the same, the tool is slower
    known = known[::3] if prepared.backend == "nft" else known
    for spec in known:
        what = difference(prepared, ask(prepared, spec), spec, spec.text)
        if what:
            found.append((f"{spec.table} {spec.chain} {spec.text}"[:300], what[:300]))
    report(found, len(known))


def test_words_that_no_line_holds(prepared, ipv6):
    known, found = specs.load_words(ipv6), []
    for table, chain, words in known:
        spec = specs.Spec(ipv6, table, chain, "")
        what = difference(prepared, ask_with(prepared, spec, words), spec, words)
        if what:
            found.append((words, what[:300]))
    report(found, len(known))
