"""How Sphinx makes the documentation site; `scripts/docs` runs it."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

project = "iptc"
copyright = "2026, the iptc developers"
release = re.search(r'^__version__ = "(.*)"', (ROOT / "iptc/__init__.py").read_text(), re.M)[1]
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc"]
# the API is read from the package as it was built, with its annotations
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "undoc-members": False}
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "code"

html_theme = "furo"
html_title = f"iptc {release}"
html_copy_source = False
html_static_path = ["style"]
html_css_files = ["phone.css"]
html_show_sphinx = False
# the site is read from a file as well as from a server
html_baseurl = ""

# Files outside of docs/ that have a page of the site. The texts link to the files, for readers of the checkout.
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def _links_of_the_site(app, name, source):
    """Let links to files outside of docs/ lead to their pages; where there is no page, only the words stay."""

    def replaced(link):
        words, file, rest = link.groups()
        return f"[{words}]({PAGES[file]}{rest})" if file in PAGES else words

    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./([\w./-]+)((?:#[\w-]+)?)\)", replaced, source[0])


def _as_rst(app, what, name, subject, options, lines):
    """Make reStructuredText of a docstring, which is plain text.

    An indented block is shown as it stands. Words about an argument may go on indented. A letter may follow a backtick.
    """
    text, state = [], "words"
    for line in lines:
        indented = line.startswith("  ")
        if not line.strip():
            state = "block" if state == "block" else "words"
        elif not indented:
            if state == "block" or line.startswith("*") and text and text[-1]:
                text.append("")
            state = "argument" if line.startswith("*") else "words"
        elif state == "words":
            text += ["", "::", ""]
            state = "block"
        words = line.strip() if state == "argument" else line
        text.append(f" {line}" if state == "block" else re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", words))
    lines[:] = text


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", _links_of_the_site)
    app.connect("autodoc-process-docstring", _as_rst)
