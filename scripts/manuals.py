"""Makes manual pages and shell completions of the command `iptc` from its parser: see scripts/manuals."""

import argparse
import pathlib
import sys

import shtab
from argparse_manpage.manpage import Manpage

import iptc
from iptc.cli.dispatch import parser_of

FILES = {"FILE", "A", "B", "PATH", "RULES", "CASES", "FOLDER"}
"""The words by which the parser names the argument of a file or folder. Shells complete such arguments."""


def parsers(parser):
    """Yield (the words of the command, its parser) for *parser* and all its subcommands."""
    yield parser.prog, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from parsers(command)


def page_of(prog, parser, others):
    """Return the manual page of one command, as roff."""
    parser.man_short_description = one_sentence(parser)
    page = Manpage(
        parser,
        format="single-commands-section",
        _data={
            "project_name": "iptc",
            "version": iptc.__version__,
            "manual_section": "1",
            "manual_title": "Linux firewall",
        },
    )
    name = prog.replace(" ", "-")
    text = str(page).split(".SH SYNOPSIS", 1)[1]
    if (parser.epilog or "").startswith("Exit status: "):
        text = text.replace("\n.SH COMMENTS\nExit status: ", "\n.SH EXIT STATUS\n")
    head = f'.TH "{name.upper()}" "1" "" "iptc {iptc.__version__}" "Linux firewall"\n.SH NAME\n'
    head += f"{name} - {one_sentence(parser)}\n".replace("-", "\\-")
    see = ", ".join(f"\\fB{other.replace(' ', '-')}\\fP(1)" for other in others if other != prog)
    see += ", \\fBiptables\\fP(8), \\fBiptables-extensions\\fP(8), \\fBnft\\fP(8)"
    return f"{head}.SH SYNOPSIS{text.rstrip()}\n.SH SEE ALSO\n{see}\n"


def one_sentence(parser):
    """Return the text after the name in the section NAME: the first sentence of the description."""
    text = " ".join((parser.description or "").split())
    for end in (". ", "; ", ": "):
        text = text.split(end, 1)[0]
    return text[:1].lower() + text[1:].rstrip(".")


def complete_files(parser):
    """Let shells complete file names for arguments that are files."""
    for _, command in parsers(parser):
        for action in command._actions:
            names = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
            if FILES.intersection(names):
                action.complete = shtab.FILE


def main(folder):
    """Write all pages and completions into *folder*."""
    parser = parser_of([])
    pages = dict(parsers(parser))
    for place in ("man1", "bash", "zsh"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for stale in (folder / "man1").glob("*.1"):
        stale.unlink()
    for prog, command in pages.items():
        (folder / "man1" / f"{prog.replace(' ', '-')}.1").write_text(page_of(prog, command, pages))
    complete_files(parser)
    (folder / "bash" / "iptc").write_text(shtab.complete(parser, shell="bash"))
    (folder / "zsh" / "_iptc").write_text(shtab.complete(parser, shell="zsh"))
    print(f"{len(pages)} manual pages and two completions are in {folder}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
