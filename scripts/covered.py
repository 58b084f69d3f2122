"""Counts which lines of iptc the tests ran. Run by scripts/coverage, in the folder of the sources that were built.

Python's lines are those of coverage.py. gcov counts the lines of C that Cython has made; Cython's comments in them say
which line of Cython each comes from. A line of Cython was run where any C of it was. What Cython adds at the end of a
function, to clean up after an error, is nobody's line.
"""

import collections
import glob
import json
import os
import re
import subprocess
import sys

import coverage

MARKER = re.compile(r'\s*/\* "(iptc/[\w/]+\.p(?:yx|xd))":(\d+)$')
# code that follows these belongs to no line of Cython
END = re.compile(r"\s*/\* function exit code \*/|\}|/\* Python wrapper \*/")


def origins(source):
    """{line of the C file *source*: (file of Cython, line)}."""
    origin = None
    found = {}
    with open(source) as file:
        for number, text in enumerate(file, 1):
            if marker := MARKER.match(text):
                origin = marker[1], int(marker[2])
            elif END.match(text):
                origin = None
            elif origin:
                found[number] = origin
    return found


def compiled():
    """{file: {line: was it run}} for the files of Cython and C."""
    files = collections.defaultdict(dict)
    for notes in sorted(glob.glob("build/temp.*/**/*.gcno", recursive=True)):
        counted = subprocess.run(["gcov", "--json-format", "--stdout", notes], capture_output=True, check=True).stdout
        for report in map(json.loads, counted.splitlines()):
            for file in report["files"]:
                path = os.path.relpath(file["file"])
                if not path.startswith("iptc/") or "_cyutility" in path:
                    continue
                made = origins(path) if os.path.exists(f"{os.path.splitext(path)[0]}.pyx") else None
                for line in file["lines"]:
                    if made is None:
                        where = path, line["line_number"]
                    else:
                        where = made.get(line["line_number"])
                    if where:
                        lines = files[where[0]]
                        lines[where[1]] = lines.get(where[1], False) or line["count"] > 0
    return files


def interpreted(data):
    """{file: {line: was it run}} for the files of Python, of what coverage.py wrote into the folder *data*."""
    measured = coverage.Coverage()
    measured.combine([data], keep=True)
    files = {}
    for path in glob.glob("iptc/**/*.py", recursive=True):
        _, statements, _, missing, _ = measured.analysis2(os.path.abspath(path))
        files[path] = {line: line not in missing for line in statements}
    return files


def kind(path):
    """The column of *path* in the table."""
    return {".py": "Python", ".pyx": "Cython", ".pxd": "Cython"}.get(os.path.splitext(path)[1], "C")


def table(files):
    """The rows of the table: for each package the share of lines that were run."""
    sums = collections.defaultdict(lambda: [0, 0])
    for path, lines in files.items():
        package = os.path.dirname(path).replace("/", ".")
        for key in (package, kind(path)), ("all", kind(path)):
            sums[key][0] += sum(lines.values())
            sums[key][1] += len(lines)
    yield "| package | Python | Cython | C |"
    yield "|---|---|---|---|"
    for package in sorted({package for package, _ in sums} - {"all"}) + ["all"]:
        cells = []
        for column in "Python", "Cython", "C":
            run, there = sums[package, column]
            cells.append(f"{100 * run / there:.1f} % of {there}" if there else "")
        yield f"| {'**all**' if package == 'all' else f'`{package}`'} | {' | '.join(cells)} |"


def main(data, uncovered):
    files = {**compiled(), **interpreted(data)}
    with open(uncovered, "w") as out:
        for path, lines in sorted(files.items()):
            with open(path) as file:
                texts = file.read().splitlines()
            for line in sorted(line for line, run in lines.items() if not run):
                print(f"{path}:{line}: {texts[line - 1].strip()}", file=out)
    print("\n".join(table(files)))


if __name__ == "__main__":
    main(*sys.argv[1:])
