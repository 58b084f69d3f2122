"""Prints results of test cases: TAP, JUnit's XML, and text for people."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .cases import Result


def tap(results: Iterable[Result], count: int) -> Iterable[str]:
    """Yield the lines of the Test Anything Protocol, version 13, of *count* results."""
    yield "TAP version 13"
    yield f"1..{count}"
    for number, result in enumerate(results, 1):
        name = " ".join(result.case.name.split()).replace("#", "\\#")
        if not result.wrong:
            yield f"ok {number} - {name}"
            continue
        yield f"not ok {number} - {name}"
        yield "  ---"
        yield "  message: |"
        yield from (f"    {line}" for line in result.wrong)
        yield f"  got: {result.verdict.verdict}"
        yield f"  wanted: {result.case.expected}"
        yield "  way: |"
        yield from (f"    {line}" for line in result.verdict.way().splitlines())
        yield "  ..."


def plain(results: Iterable[Result], count: int) -> Iterable[str]:
    """Yield a line for each of *count* results, with everything that went wrong."""
    failed = 0
    for result in results:
        if not result.wrong:
            yield f"ok    {result.case.name}"
            continue
        failed += 1
        yield f"WRONG {result.case.name}"
        yield from (f"      {line}" for line in result.wrong)
        yield from (f"      {line}" for line in result.verdict.way().splitlines())
    yield f"{count - failed} of {count} cases are as expected"


def junit(results: list[Result], name: str) -> str:
    """Return the results in JUnit's XML. *name* is the name of the suite."""
    failed = sum(1 for result in results if result.wrong)
    seconds = sum(result.seconds for result in results)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites><testsuite name={_quoted(name)} tests="{len(results)}" failures="{failed}" errors="0"'
        f' skipped="0" time="{seconds:.6f}">',
    ]
    for result in results:
        head = f'<testcase classname={_quoted(name)} name={_quoted(result.case.name)} time="{result.seconds:.6f}"'
        if not result.wrong:
            lines.append(f"{head}/>")
            continue
        text = _escaped("\n".join([*result.wrong, result.verdict.way()]))
        lines.append(f"{head}><failure message={_quoted(result.wrong[0])}>{text}</failure></testcase>")
    return "\n".join([*lines, "</testsuite></testsuites>", ""])


def _escaped(text: str) -> str:
    """Return *text* escaped for XML, without characters that XML does not allow."""
    text = "".join(char if char in "\n\t" or char >= " " and char not in "\ufffe\uffff" else "?" for char in text)
    text = text.encode("utf-8", "replace").decode()
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _quoted(text: str) -> str:
    return '"' + _escaped(text).replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;") + '"'
