"""A journal of changes, and the rules at any moment."""

import json
import os
import random
import re
import subprocess
import sys
import time

import pytest
from test_watch import WAIT, edit, spawned

import iptc
from iptc.watching import journal as journals
from iptc.watching.journal import Journal

STRESS = int(os.environ.get("IPTC_STRESS", "1"))


def texts(state):
    """Return the texts of the tables, without tables that no program has used."""
    return {
        (backend, family): [
            table
            for table in re.split(r"^(?=\*)", journals.tables_text(state, backend, family), flags=re.MULTILINE)
            if re.search(r"^-A|^:\S+ (-|DROP)", table, re.MULTILINE)
        ]
        for backend in ("legacy", "nft")
        for family in ("ipv4", "ipv6")
    }


def live(*backends):
    return texts(journals.state_of({backend: iptc.Ruleset.live(backend=backend) for backend in backends}))


def note(journal, watch):
    """Write what has changed."""
    found = watch.wait(WAIT)
    journal.write(found, watch.rulesets())
    return found


def test_the_rules_of_any_moment(host, tmp_path):
    moments = []
    with iptc.watch(host.backend) as watch, Journal(tmp_path) as journal:
        journal.begin(watch.rulesets())
        for arguments in ("-A INPUT -j ACCEPT", "-N web", "-I INPUT -j web", "-P FORWARD DROP", "-D INPUT 2"):
            host.iptables(arguments)
            (change,) = note(journal, watch)
            moments.append((change.when, live(host.backend)))
    for when, text in moments:
        assert texts(journals.state_at(tmp_path, when + 1e-5)) == text
    assert texts(journals.state_at(tmp_path)) == live(host.backend)
    with pytest.raises(iptc.NotFound):
        journals.state_at(tmp_path, moments[0][0] - 3600)
    found = list(journals.read(tmp_path, moments[1][0] - 1e-5, moments[3][0] + 1e-5))
    assert [row["chains_added"] != [] for row in found] == [True, False, False]
    assert all("edits" not in row for row in found)


@pytest.mark.one_backend("nft")
def test_random_edits_replayed_give_what_is_there(host, tmp_path):
    dice = random.Random(5)
    with iptc.watch() as watch, Journal(tmp_path, size=5000, files=1000) as journal:
        journal.begin(watch.rulesets())
        for number in range(60 * STRESS):
            words, text = edit(dice, dice.choice(["iptables-nft", "ip6tables-nft", "iptables-legacy"]))
            pid = spawned(*words, text=text)
            found = watch.read()
            journal.write(found, watch.rulesets())
            assert all(change.by.pid == pid for change in found if change.backend == "nft")
            if number % 10 == 0:
                assert texts(journals.state_at(tmp_path)) == live("nft", "legacy")
    assert texts(journals.state_at(tmp_path)) == live("nft", "legacy")
    assert len([name for name in os.listdir(tmp_path) if name.endswith(".jsonl")]) > 1


@pytest.mark.one_backend("legacy")
def test_old_files_go_and_the_rest_can_be_read(host, tmp_path):
    with iptc.watch("legacy") as watch, Journal(tmp_path, size=1, files=3) as journal:
        journal.begin(watch.rulesets())
        for number in range(6):
            host.iptables(f"-A INPUT -p {number + 1}")
            note(journal, watch)
    assert len([name for name in os.listdir(tmp_path) if name.endswith(".jsonl")]) == 3
    assert texts(journals.state_at(tmp_path)) == live("legacy")
    assert len(list(journals.read(tmp_path))) == 2


@pytest.mark.one_backend("legacy")
def test_a_line_that_a_crash_cut_off_is_none(host, tmp_path):
    with iptc.watch("legacy") as watch, Journal(tmp_path) as journal:
        journal.begin(watch.rulesets())
        host.iptables("-A INPUT -j ACCEPT")
        note(journal, watch)
        before = live("legacy")
        host.iptables("-A INPUT -j DROP")
        note(journal, watch)
    (name,) = [name for name in os.listdir(tmp_path) if name.endswith(".jsonl")]
    data = (tmp_path / name).read_bytes()
    for cut in (1, 2, 10, len(data.split(b"\n")[-2])):
        (tmp_path / name).write_bytes(data[:-cut])
        assert texts(journals.state_at(tmp_path)) == before and len(list(journals.read(tmp_path))) == 1
    (tmp_path / name).write_bytes(data + b"nonsense\n")
    with pytest.raises(iptc.ParameterError, match="is no line of a journal"):
        journals.state_at(tmp_path)


@pytest.mark.one_backend("legacy")
def test_changes_that_nobody_watched_are_marked(host, tmp_path):
    for number in range(3):
        with iptc.watch("legacy") as watch, Journal(tmp_path) as journal:
            assert journal.begin(watch.rulesets()) == (number == 1)
        if not number:
            host.iptables("-A INPUT -j ACCEPT")
    assert [row.get("unwatched") for row in journals.read(tmp_path)] == [True]


@pytest.mark.one_backend("legacy")
def test_one_writer_at_a_time(host, tmp_path):
    with Journal(tmp_path):
        with pytest.raises(iptc.KernelError, match="somebody else writes"):
            Journal(tmp_path)
    Journal(tmp_path).close()


@pytest.mark.one_backend("legacy")
def test_a_full_disk_is_an_error(host, tmp_path, monkeypatch):
    with iptc.watch("legacy") as watch, Journal(tmp_path) as journal:
        journal.begin(watch.rulesets())

        def full(fd, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        host.iptables("-A INPUT -j ACCEPT")
        with pytest.raises(iptc.KernelError, match="No space left"):
            note(journal, watch)


@pytest.mark.one_backend("legacy")
def test_moments(host):
    now = time.time()
    for text, ago in (("1h", 3600), ("@30m", 1800), ("2d", 172800), ("1.5s", 1.5), ("now", 0), ("@now", 0)):
        assert journals.moment(text, now) == now - ago
    assert journals.moment("@1795816935.5") == 1795816935.5
    assert journals.moment("2026-11-27T10:00:00+00:00") == journals.moment("@2026-11-27T11:00+01:00")
    for text in ("yesterday", "1y", "-5", "2026-13-01", "@@"):
        with pytest.raises(iptc.ParameterError):
            journals.moment(text)


def iptc_command(*words):
    done = subprocess.run([sys.executable, "-m", "iptc", *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_watch_log_and_show_work_with_a_journal(host, tmp_path):
    folder = str(tmp_path / "journal")
    with subprocess.Popen(
        [sys.executable, "-m", "iptc", "watch", "--backend", host.backend, "--log", folder],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while not os.path.isdir(folder) or not [name for name in os.listdir(folder) if name.endswith(".jsonl")]:
                assert process.poll() is None
            while not journals._names(folder) or not os.path.getsize(os.path.join(folder, journals._names(folder)[0])):
                pass
            host.iptables("-A INPUT -p udp -j ACCEPT")
            assert f"{host.backend} ipv4 filter by" in process.stdout.readline()
            assert process.stdout.readline() == "+ -A INPUT -p udp -j ACCEPT    # is 1\n"
        finally:
            process.kill()
    status, out, error = iptc_command("log", folder, "--since", "1h")
    assert status == 0 and out.endswith("+ -A INPUT -p udp -j ACCEPT    # is 1\n") and not error
    status, out, error = iptc_command("log", "--log", folder, "--json", "-t", "filter", "-4")
    assert json.loads(out)["added"] == [{"chain": "INPUT", "number": 1, "rule": "-p udp -j ACCEPT"}]
    assert iptc_command("log", folder, "-t", "nat")[1] == iptc_command("log", folder, "-6")[1] == ""
    status, out, error = iptc_command("show", "@now", folder, "-4")
    assert status == 0 and [line for line in out.split("\n") if line] == host.save(table="filter")
    assert iptc_command("show", "@now", folder)[1] == f"# IPv4\n{out}# IPv6\n"
    for words in (
        ("show", "@9d", folder),
        ("show", "@soon", folder),
        ("log", "/nowhere"),
        ("log", folder, "--since", "x"),
    ):
        status, out, error = iptc_command(*words)
        assert status in (1, 2) and error.startswith("iptc: ") and error.count("\n") == 1 and not out
