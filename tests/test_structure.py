"""The structure of the package: which module imports which, what an import costs, and rules for every file."""

import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys
import sysconfig

import pytest

import iptc

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "iptc"


def modules(suffix):
    """The modules of the package whose files end in *suffix*: `table`, `legacy.blob`, …; a folder's `__init__` is not
    one."""
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob(f"*{suffix}"))
    return sorted(".".join(path.parts) for path in paths if path.name != "__init__" or len(path.parts) == 1)


COMPILED = modules(".pyx")
C_ONLY = [
    *(f"language.{name}" for name in ("division", "libxtables", "names", "native", "shim")),
    *(f"bpf.{name}" for name in ("calls", "sums", "types")),
]
PLAIN = modules(".py")
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
GENERATED = {PACKAGE / f"{name.replace('.', '/')}.c" for name in [*COMPILED, "_cyutility"]}
SOURCES = sorted(
    path
    for folder in ("iptc", "tests", "benchmarks", "scripts", "docs", "examples")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".pyi", ".pyx", ".pxd", ".c", ".h", ".sh", ".md"}
    and path not in GENERATED
    and "__pycache__" not in path.parts
)


# ---------------------------------------------------------------- levels


def level_table():
    """The (level, module) pairs of the table in CONTRIBUTING.md, in its order; `cli` stands for all modules of that
    folder."""
    rows = re.findall(r"^\| *(\d+) *\| *(`[^|]*`) *\|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return [
        (int(level), module.replace("/", ".")) for level, names in rows for module in re.findall(r"`([\w/]+)`", names)
    ]


ROWS = level_table()
LISTED = [module for _, module in ROWS]


def row_of(module):
    """The row of the table that *module* is listed in, by its own name or by that of its folder."""
    return module if module in LISTED else module.partition(".")[0]


def imported(path):
    """The modules of this package that *path* imports, also inside functions."""
    text = path.read_text()
    here = ["iptc", *path.relative_to(PACKAGE).parent.parts]
    lines = re.findall(r"^ *from +([\w.]+) +c?import +(\([^)]*\)|[^\n(#]*)", text, re.MULTILINE)
    lines += [(name, "") for name in re.findall(r"^ *c?import +(iptc[\w.]*)", text, re.MULTILINE)]
    found = set()
    for source, names in lines:
        dots = len(source) - len(source.lstrip("."))
        base = here[: len(here) - dots + 1] if dots else []
        base = [*base, *[part for part in source.lstrip(".").split(".") if part]]
        if base[:1] != ["iptc"]:
            continue
        for name in [[*base[1:]]] + [[*base[1:], name] for name in re.findall(r"\w+", names)]:
            dotted = ".".join(name)
            if dotted in COMPILED or dotted in PLAIN:
                found.add(dotted)
            elif dotted in FOLDERS and row_of(dotted) in LISTED:
                found.add(dotted)
    return found


def test_table_lists_every_module():
    assert len(LISTED) == len(set(LISTED))
    assert [module for module in COMPILED + PLAIN if row_of(module) not in LISTED] == []
    there = {*COMPILED, *PLAIN, *FOLDERS, *C_ONLY, "_linux", "_verdicts"}
    assert [module for module in LISTED if module not in there] == []
    assert all((PACKAGE / f"{name.replace('.', '/')}.c").exists() for name in C_ONLY)


def test_levels_rise():
    levels = [level for level, _ in ROWS]
    assert levels == sorted(levels)


@pytest.mark.parametrize("module", COMPILED + PLAIN)
def test_imports_come_from_above_in_the_table(module):
    """From lower levels, or from its own folder, higher up in the table: two folders of one level know nothing of each
    other."""
    row = row_of(module)
    level = dict((name, level) for level, name in ROWS)[row]
    files = [
        path for suffix in (".py", ".pyx", ".pxd") if (path := PACKAGE / f"{module.replace('.', '/')}{suffix}").exists()
    ]
    assert files
    for path in files:
        for other in imported(path) - {module}:
            its_row = row_of(other)
            if its_row == row:
                continue
            its_level, its_place = next((level, place) for place, (level, name) in enumerate(ROWS) if name == its_row)
            same_folder = other.rpartition(".")[0] == module.rpartition(".")[0]
            assert its_level < level or its_level == level and same_folder and its_place < LISTED.index(row), (
                path.name,
                other,
            )


def test_the_back_ends_do_not_know_each_other():
    folders = {"legacy", "nft"}
    for module in COMPILED + PLAIN:
        folder = module.partition(".")[0]
        for suffix in (".py", ".pyx", ".pxd"):
            path = PACKAGE / f"{module.replace('.', '/')}{suffix}"
            if folder in folders and path.exists():
                assert {name.partition(".")[0] for name in imported(path)} & (folders - {folder}) == set(), path


def test_only_the_compiled_modules_know_c():
    for module in PLAIN:
        text = (PACKAGE / f"{module.replace('.', '/')}.py").read_text()
        # util's helpers are about C libraries, and import ctypes when they are called
        assert module == "util" or not re.search(r"\b(import|from) (ctypes|cffi)\b", text), module


# ------------------------------------------------------------ docstrings


def public_things():
    """(name, object) of every public module, class, function, method and property that the package defines."""
    for module_name in COMPILED + PLAIN:
        module = iptc if module_name == "__init__" else importlib.import_module(f"iptc.{module_name}")
        yield module.__name__, module
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__ or not callable(value):
                continue
            yield f"{module.__name__}.{name}", value
            for member, thing in vars(value).items() if inspect.isclass(value) else ():
                thing = getattr(thing, "__func__", thing)
                if not member.startswith("_") and can_say_something(module_name, name, member, thing):
                    yield f"{module.__name__}.{name}.{member}", thing


def can_say_something(module_name, class_name, member, thing):
    """Whether *thing* is code; a declared attribute of a compiled class can hold no docstring."""
    if inspect.isgetsetdescriptor(thing):
        source = (PACKAGE / f"{module_name.replace('.', '/')}.pyx").read_text()
        body = re.search(rf"^cdef class {class_name}(?:\(\w+\))?:\n((?:(?: .*)?\n)*)", source, re.MULTILINE)[1]
        return f"def {member}(self" in body
    return inspect.isroutine(thing) or isinstance(thing, property)


# An edit's class says what its methods do: they all have these.
VERBS_OF_EDITS = re.compile(r"iptc\.model\.edits\.\w+\.(bind|do|in_text)$")


def test_everything_public_says_what_it_is():
    things = dict(public_things())
    assert {"iptc", "iptc._core.RuleValue.src", "iptc.table.Table.commit", "iptc.easy.add_rule"} <= set(things)
    silent = [name for name, thing in things.items() if not thing.__doc__ and not VERBS_OF_EDITS.match(name)]
    assert silent == []


# ------------------------------------------------------------ the import

WATCHED_IMPORT = """
import sys
seen = []
def hook(event, arguments):
    if event in {"subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.spawn", "pty.spawn"}:
        seen.append(event)
    elif event in {"socket.__new__", "socket.bind", "socket.connect"}:
        seen.append(event)
before = set(sys.modules)
sys.addaudithook(hook)
import iptc
print(*seen)
print(*sorted(set(sys.modules) - before))
"""

HEAVY = {
    "argparse",
    "asyncio",
    "concurrent",
    "ctypes",
    "dataclasses",
    "datetime",
    "distutils",
    "email",
    "enum",
    "importlib",
    "importlib.metadata",
    "inspect",
    "ipaddress",
    "json",
    "logging",
    "multiprocessing",
    "operator",
    "pathlib",
    "pkg_resources",
    "random",
    "re",
    "select",
    "setuptools",
    "shlex",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
}


def watched_import(then="pass"):
    """What `import iptc`, and *then*, did in a fresh interpreter: (audited events, modules brought in)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # -S: without the modules that the site configuration of this machine imports
    command = [sys.executable, "-S", "-c", WATCHED_IMPORT.replace("import iptc", f"import iptc; {then}")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr
    events, modules = done.stdout.splitlines()
    return events.split(), set(modules.split())


def test_import_starts_no_process():
    assert watched_import()[0] == []


@pytest.mark.parametrize(
    "then", ["pass", "iptc.CounterReader, iptc.Table", "str(iptc.Rule.from_args('-p tcp -m limit -j LOG'))"]
)
def test_import_brings_no_heavy_module(then):
    events, brought = watched_import(then)
    assert brought & HEAVY == set() and events == []


UNPRIVILEGED = """
import iptc
with open("/proc/self/status") as status:
    assert "CapEff:\\t0000000000000000\\n" in status
rule = iptc.easy.encode_iptc_rule({"protocol": "tcp", "tcp": {"dport": 22}, "target": {"REJECT": {"reject-with": "tcp-reset"}}})
rule.final_check()
print(rule)
"""


def test_building_and_printing_a_rule_needs_no_privilege():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # A user namespace that maps only one user has no other user to change to, so the capabilities are dropped instead.
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    command = [*drop, sys.executable, "-W", "error", "-c", UNPRIVILEGED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    assert (done.stdout, done.stderr) == ("-p tcp -m tcp --dport 22 -j REJECT --reject-with tcp-reset\n", "")


# ------------------------------------------------------------- the files


def test_no_module_is_too_long():
    limits = {".pyx": 1100, ".py": 600}
    lengths = {path: path.read_text().count("\n") for path in PACKAGE.rglob("*") if path.suffix in limits}
    assert {path.name: length for path, length in lengths.items() if length > limits[path.suffix]} == {}


def test_nothing_is_left_for_later():
    marks = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK")) + r")\b")
    assert [path.name for path in SOURCES if marks.search(path.read_text())] == []


def without_family(code):
    """Return *code* with the names of the two families made equal."""
    code = re.sub(r"ip6t|ipt", "ipt", code)
    return re.sub(r"(?<=ip)6|(?<=[A-Za-z])[46](?![0-9])|\bAF_INET6?\b|(?<=IPV)[46]", "#", code)


def test_nothing_is_written_twice_for_the_two_families():
    seen = {}
    for path in SOURCES:
        if PACKAGE not in path.parents or path.suffix not in {".py", ".pyx", ".c"}:
            continue
        # each block: a line at the left margin, with the indented lines below it
        for block in re.split(r"\n(?=\S)", path.read_text()):
            if block.count("\n") >= 4 and not block.startswith("if TYPE_CHECKING:"):
                first = seen.setdefault(without_family(block), (path.name, block.splitlines()[0]))
                assert first == (path.name, block.splitlines()[0])


def test_every_compiled_module_says_what_it_gives():
    for module in COMPILED:
        assert (PACKAGE / f"{module.replace('.', '/')}.pyi").exists(), module
    for declarations in PACKAGE.rglob("*.pxd"):
        assert declarations.with_suffix(".pyx").exists() or declarations.stem in {"_linux", "_verdicts"}, declarations
    assert (PACKAGE / "py.typed").exists()


def test_no_list_is_built_in_the_way_that_frees_an_item_twice():
    """Cython 3.3.1 drops the item of a list comprehension, and of a list with a `*`, twice where the list cannot
    grow."""
    for source in GENERATED:
        there = ""
        for place, call in re.findall(
            r'/\* "([^"]+":\d+)|(__Pyx_ListComp_AppendAndDecref)\(__pyx_t', source.read_text()
        ):
            there = place or there
            # Cython's code for memoryviews is left out: we cannot change it, and do not use it
            assert not call or not there.startswith("iptc/"), (
                f"{there}: use append, list(map(...)) or list(filter(...))"
            )


def test_compiled_modules_are_those_of_the_checkout():
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for module in COMPILED:
        assert importlib.import_module(f"iptc.{module}").__file__.endswith(f"{module.replace('.', '/')}{suffix}")


def test_what_is_built_for_users_has_nothing_that_only_debuggers_read(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    setup = importlib.import_module("setup")
    monkeypatch.delenv("CFLAGS", raising=False)
    monkeypatch.delenv("CC", raising=False)
    assert setup.without_debug_information() == (
        ["-g0", "-fno-asynchronous-unwind-tables"],
        ["-Wl,--strip-all", "-Wl,-z,noseparate-code"],
    )
    monkeypatch.setenv("CFLAGS", "-g -fsanitize=address")
    assert setup.without_debug_information() == ([], [])
