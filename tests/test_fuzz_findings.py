"""Errors found by fuzzing and by reading the code for it, and mutated specifications. `scripts/fuzz` searches
further."""

import gc
import os
import pathlib
import subprocess
import sys
import warnings

import pytest
from test_robustness import prints

import iptc
from iptc.language.restored_text import Reader
from iptc.legacy.draft import Draft

# --- state that two readings share -------------------------------------------------------------------------------


def at_each_collection(action, call):
    """Return the results of *call*, while the garbage collector runs *action* at each place of it that can start it."""

    def collecting(phase, _):
        if phase == "start":
            action()

    before = gc.get_threshold()
    gc.callbacks.append(collecting)
    found = []
    try:
        for allocations in range(1, 24):
            gc.set_threshold(100_000)
            gc.collect()
            gc.set_threshold(allocations)
            found.append(call())
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(collecting)
    return found


@pytest.mark.parametrize(
    "text, rules",
    [
        ("-s 10.0.0.1/32 -j ACCEPT", ["-s 10.0.0.1/32 -j ACCEPT"]),
        ("-s 10.0.0.1,10.0.0.2 -j DROP", ["-s 10.0.0.1/32 -j DROP", "-s 10.0.0.2/32 -j DROP"]),
    ],
)
def test_a_finalizer_may_read_rules_too(text, rules):
    found = at_each_collection(
        lambda: iptc.Rule.from_args("-d 192.0.2.1,192.0.2.2,192.0.2.3 -p udp -j RETURN"),
        lambda: iptc.Rule.from_args(text),
    )
    assert [[str(one) for one in rule.expand()] for rule in found] == [rules] * len(found)


def test_a_finalizer_may_split_words_too():
    class Text(str):
        pass

    text = Text("-p tcp -m comment --comment word --sport 1:2 -j ACCEPT")
    other = Text("-m comment --comment " + "x" * 200)
    found = at_each_collection(lambda: iptc.Rule.from_args(other), lambda: iptc.Rule.from_args(text))
    assert {str(rule) for rule in found} == {"-p tcp -m comment --comment word -m tcp --sport 1:2 -j ACCEPT"}


def test_a_warning_may_set_parameters_too(host, monkeypatch):
    host.run("ipset", "create", "f", "hash:ip")
    match = iptc.Rule().create_match("set")
    shown = []

    def show(message, *_, **__):
        shown.append(str(message))
        iptc.Rule().create_match("limit").limit = "1/s"

    monkeypatch.setattr(warnings, "showwarning", show)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        match.set_parameter("set", ["f", "src"])
    assert match.get_all_parameters() == {"match-set": ["f", "src"]}
    assert shown == ["--set option deprecated, please use --match-set"]


# --- warnings of a file ------------------------------------------------------------------------------------------

ODD = "Warning: weird character in interface `{}' ('/' and ' ' are not allowed by the kernel)."


def test_a_warning_of_one_line_is_not_in_the_refusal_of_another():
    reader = Reader(2)
    with pytest.warns(UserWarning) as warned, pytest.raises(iptc.ParameterError) as refused:
        list(reader.feed(b"*filter\n-A INPUT -i a/b\n-A INPUT -i c/d\n-A INPUT --nosuch\n"))
    assert str(refused.value) == 'line 4: unknown option "--nosuch"'
    assert [str(each.message) for each in warned] == [ODD.format("a/b"), ODD.format("c/d")]


def test_a_warning_before_a_name_that_nobody_knew_is_told():
    reader = Reader(2)
    with pytest.warns(UserWarning) as warned:
        read = list(reader.feed(b"*filter\n-A INPUT -i a/b\n-A INPUT -j nobodyknewthis\nCOMMIT\n"))
    assert [str(each.message) for each in warned] == [ODD.format("a/b")]
    assert read[1][2].rules == 2


def test_a_reader_that_was_never_initialised():
    reader = Reader.__new__(Reader)
    assert reader.line == 0 and reader.table is None and reader.partial().nfproto == 2
    assert [table for table, _, _ in reader.feed(b"*filter\n")] == ["filter"]


def test_a_draft_that_was_never_made():
    draft = Draft.__new__(Draft)
    draft.undo()
    draft.commit()
    assert not draft.changed


# --- memory of plugins -------------------------------------------------------------------------------------------


def test_names_of_a_file_outlive_the_refusal_that_read_it():
    refused = "-m devgroup --src-group nosuchgroup"
    good = "-m realm --realm cosmos", "-m devgroup --src-group default", "-m devgroup --src-group 5"
    program = f"""
        import iptc
        def result(text):
            try:
                return str(iptc.Rule.from_args(text))
            except iptc.ParameterError as error:
                return str(error)
        for _ in range({{}}):
            result({refused!r}), result("-m realm --realm nosuchrealm")
            x = ["x" * 16 for _ in range(100)]
        print([result(text) for text in {good!r}])
    """
    assert prints(program.format(100)) == prints(program.format(0))


# --- mutations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_mutated_specifications(host, seed):
    accepted, refused = map(int, prints(f"import mutations; mutations.main({seed}, 50_000)").split())
    assert accepted > 2_000 and refused > 20_000


# --- the fuzzer itself -------------------------------------------------------------------------------------------

FUZZED = """
import os, sys, tempfile
import fuzz
assert len(fuzz.WORDS) > 1000 and len(fuzz.TABLES) == len(fuzz.PLANNED) == 10
with tempfile.TemporaryDirectory() as folder:
    fuzz.seeds(folder)
    names = sorted(os.listdir(folder))
    for name in names[::23]:
        with open(os.path.join(folder, name), "rb") as file:
            data = file.read()
        for how in range(data[0] & 1, 256, 38):
            fuzz.one(bytes([how]) + data[1:])
print(len(names), "seeds")
"""


def test_what_the_fuzzer_does_with_its_seeds(host):
    """Runs the fuzzer's code without mutations and without a sanitizer, so that it works when it is needed."""
    root = pathlib.Path(__file__).parent.parent
    path = os.pathsep.join(map(str, (root / "scripts", root / "tests", root)))
    done = subprocess.run(
        [sys.executable, "-c", FUZZED], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.endswith("seeds\n"), done.stderr[-3000:]
