"""The examples of the documentation run, and print what it shows."""

import contextlib
import doctest
import io
import pathlib
import re

import pytest

import iptc
from iptc import rule

ROOT = pathlib.Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(page):
    """Yield (line, code, what it prints or None) of each `python` block of *page*; a `text` block behind it is its
    output."""
    text = (ROOT / page).read_text()
    blocks = list(FENCE.finditer(text))
    for block, following in zip(blocks, [*blocks[1:], None]):
        if block[1] != "python":
            continue
        shown = None
        if following is not None and following[1] == "text" and not text[block.end() : following.start()].strip():
            shown = following[2]
        yield text.count("\n", 0, block.start()) + 2, block[2], shown


PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
    if "```python\n" in path.read_text()
)


OF_THE_LOCK = "fcntl.flock"
"""What the only example has that runs on legacy tables alone: nf_tables has no lock."""


@pytest.mark.parametrize("page", PAGES)
def test_examples_print_what_the_page_says(page, host):
    names = {}
    for line, code, shown in examples(page):
        if OF_THE_LOCK in code and host.backend != "legacy":
            continue
        out = io.StringIO()
        # numbered as in the page, for a traceback that leads there
        compiled = compile("\n" * (line - 1) + code, str(ROOT / page), "exec")
        with contextlib.redirect_stdout(out):
            exec(compiled, names)
        if shown is not None:
            assert out.getvalue() == shown, f"{page}, line {line}"


def test_one_example_is_of_the_lock():
    assert sum(OF_THE_LOCK in code for page in PAGES for _, code, _ in examples(page)) == 1


def test_readme_has_examples():
    assert "README.md" in PAGES


def test_every_page_is_in_the_contents_of_the_site():
    listed = set(re.findall(r"^[\w-]+$", (ROOT / "docs/index.md").read_text(), re.MULTILINE))
    pages = {path.stem for path in ROOT.glob("docs/*.md")} | {path.stem for path in ROOT.glob("docs/*.rst")}
    assert pages - listed == {"index"}


def test_every_public_name_is_in_the_reference():
    listed = set(re.findall(r"auto(?:class|function):: iptc\.(\w+)", (ROOT / "docs/api.rst").read_text()))
    errors = {name for name in iptc._NAMES if iptc._NAMES[name] == "errors"}
    assert listed == set(iptc._NAMES) - errors


FIGURES = [
    "read() against the C floor, the worst from 1,000 rules on",
    "nf_tables: `read()` against C floor, one chain",
    "building and appending a rule in a batch, commit included",
    "building and appending a rule in a batch, commit not included",
    "restore, 10,000 mixed rules, of `iptables-legacy-restore -c`",
    "nf_tables: restoring 10,000 mixed rules against iptables-nft-restore",
]
"""The goals in docs/benchmarks.md whose measured figures README.md quotes, in its order."""


def measured():
    """What docs/benchmarks.md has measured, by the name of the goal: the number alone."""
    goals = (ROOT / "docs/benchmarks.md").read_text().split("## Goals", 1)[1].split("\n## ", 1)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in goals.splitlines() if line.startswith("|")
    ]
    return {row[0]: found[0] for row in rows if len(row) == 4 and (found := re.search(r"[\d.,]*\d", row[2]))}


def test_readme_quotes_what_was_measured():
    paragraphs = [part for part in (ROOT / "README.md").read_text().split("\n\n") if "(docs/benchmarks.md)" in part]
    assert [re.findall(r"\d+\.\d+", part) for part in paragraphs] == [[measured()[name] for name in FIGURES]]


def test_the_worst_poll_on_nf_tables_is_that_of_one_chain():
    floors = [
        float(measured()[f"nf_tables: `read()` against C floor, {chains}"])
        for chains in ("a thousand chains", "one chain")
    ]
    assert floors[0] <= floors[1]


def test_docstrings_of_rule():
    # without a namespace: these examples build rules only, which needs no privilege
    failed, tried = doctest.testmod(rule, extraglobs={"Rule": iptc.Rule, "Match": iptc.Match})
    assert tried > 0
    assert failed == 0
