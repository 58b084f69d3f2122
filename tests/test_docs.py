"""What the documentation shows runs, and prints what it says."""

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
    """Yield (line, code, what it prints or None) of each `python` block of *page*; a `text` block behind it is its output."""
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


OF_THE_LOCK = "docs/transactions.md"


@pytest.mark.parametrize("page", [page for page in PAGES if page != OF_THE_LOCK])
def test_examples_print_what_the_page_says(page, host):
    check_examples(page)


@pytest.mark.one_backend("legacy")  # nf_tables has no lock
def test_examples_of_the_lock_print_what_the_page_says(host):
    check_examples(OF_THE_LOCK)


def check_examples(page):
    names = {}
    for line, code, shown in examples(page):
        out = io.StringIO()
        # numbered as in the page, for a traceback that leads there
        compiled = compile("\n" * (line - 1) + code, str(ROOT / page), "exec")
        with contextlib.redirect_stdout(out):
            exec(compiled, names)
        if shown is not None:
            assert out.getvalue() == shown, f"{page}, line {line}"


def test_readme_has_examples():
    assert "README.md" in PAGES


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_links_lead_to_files(path):
    missing = [
        link
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text())
        if not (path.parent / link).exists()
    ]
    assert missing == []


def test_docstrings_of_rule():
    # without a namespace: these examples build rules only, which needs no privilege
    failed, tried = doctest.testmod(rule, extraglobs={"Rule": iptc.Rule, "Match": iptc.Match})
    assert tried > 0
    assert failed == 0
