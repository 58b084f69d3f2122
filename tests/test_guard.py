"""Rules of an owner that are put back as soon as another program has broken them."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading

import pytest

import iptc
from iptc.owning import guard as guarding

STRESS = int(os.environ.get("IPTC_STRESS", "1"))
WAIT = 60.0


def owned(name="web", place="first"):
    made = iptc.Owned(name)
    made.set("filter", "INPUT", ["-p tcp --dport 80 -j DROP", "-p tcp --dport 443 -j web-in"], place)
    made.set("filter", "web-in", ["-s 10.0.0.0/8 -j RETURN", "-j DROP"])
    return made


class Told:
    """Records heals, and waits for them."""

    def __init__(self):
        self.heals = []
        self._changed = threading.Condition()

    def __call__(self, heal):
        with self._changed:
            self.heals.append(heal)
            self._changed.notify_all()

    def wait(self, wanted):
        """Wait until wanted(heals) is true."""
        with self._changed:
            assert self._changed.wait_for(lambda: wanted(self.heals), WAIT), self.heals


def put_back(told, web):
    """Wait until the guard has put everything back."""
    told.wait(lambda heals: heals and not web.plan())


def test_what_is_broken_is_put_back_and_it_is_told_who_it_was(host, caplog):
    caplog.set_level(logging.WARNING, "iptc")
    host.iptables("-A INPUT -p udp -j ACCEPT")
    web, told = owned(), Told()
    with web.guard(callback=told) as guard:
        assert len(web.rules) == 4 and guard.heals == 0
        host.iptables("-F INPUT")
        put_back(told, web)
        host.iptables("-I INPUT -p udp -j ACCEPT")
        told.wait(lambda heals: len(heals) > 1)
        put_back(told, web)
        assert guard.heals == len(told.heals) and not guard.pauses
    rules = [line for line in host.save(table="filter") if line.startswith("-A INPUT")]
    assert "web:" in rules[0] and "web:" in rules[1] and rules[2] == "-A INPUT -p udp -j ACCEPT"
    if host.backend == "nft":
        assert guard.last_offender.name == "iptables-nft" and told.heals[0].by.pid > 0
        assert "broken by iptables-nft" in caplog.text
    # at the end the rules stay, and are not put back any more
    host.iptables("-F INPUT")
    assert web.plan()


def damage(dice, host):
    """Change rules as another program would, beside its own rules."""
    return dice.choice(
        [
            "-F INPUT",
            "-F",
            "-I INPUT -p udp -j ACCEPT",
            "-A INPUT -p udp -j DROP",
            "-D INPUT 1",
            "-D INPUT 2",
            "-F web-in",
            "-R INPUT 1 -p udp -j ACCEPT",
        ]
    )


def test_whatever_others_do_ours_are_there_once_and_theirs_is_theirs(host):
    dice, web, told = random.Random(7), owned(), Told()
    plain = iptc.Owned("nobody")
    with web.guard(limit=(100000, 10.0), callback=told):
        for number in range(40 * STRESS):
            if number % 10 == 9:
                text = (
                    f"*filter\n:INPUT ACCEPT\n:OTHER -\n-A INPUT -j OTHER\n-A OTHER -p {number % 200} -j DROP\nCOMMIT\n"
                )
                host.run(host.tool(verb="-restore"), text=text)
            else:
                host.iptables(damage(dice, host), check=False)
    # whatever has happened while it ended
    web.apply()
    rules = [line for line in host.save(table="filter") if line.startswith(("-A INPUT", "-A web-in"))]
    assert sum("web:" in rule for rule in rules) == 4 and "web:" in rules[0] and "web:" in rules[1]
    before = [line for line in host.save(table="filter") if "web" not in line]
    web.remove()
    assert [line for line in host.save(table="filter") if line.startswith(("-A", "*", "COMMIT"))] == [
        line for line in before if line.startswith(("-A", "*", "COMMIT"))
    ]
    assert not plain.rules


def test_a_fight_is_let_be_and_gone_on_with(host, monkeypatch):
    monkeypatch.setattr(guarding, "_PAUSE_FIRST", 0.01)
    monkeypatch.setattr(guarding, "_PAUSE_MOST", 0.02)
    web, told = owned(), Told()
    with web.guard(limit=(3, 1000.0), callback=told) as guard:
        while guard.pauses < 3:
            host.iptables("-F INPUT")
            put_back(told, web)
    pauses = [heal.pause for heal in told.heals if heal.pause]
    assert pauses[:3] == [0.01, 0.02, 0.02]
    # three heals, then a pause that ends with a heal
    kinds = "".join("p" if heal.pause else "h" for heal in told.heals)
    assert kinds.startswith("hhhphhhph"), kinds
    assert "let be" in str(next(heal for heal in told.heals if heal.pause))


def test_two_guards_that_fight_both_pause(host, monkeypatch):
    monkeypatch.setattr(guarding, "_PAUSE_FIRST", 0.01)
    monkeypatch.setattr(guarding, "_PAUSE_MOST", 0.05)
    program = (
        "import iptc, sys\n"
        "from iptc.owning import guard\n"
        "guard._PAUSE_FIRST, guard._PAUSE_MOST = 0.01, 0.05\n"
        "other = iptc.Owned('other')\n"
        "other.set('filter', 'INPUT', ['-p tcp -j ACCEPT'])\n"
        "with other.guard(limit=(5, 1000.0)) as own:\n"
        "    print(flush=True)\n"
        "    sys.stdin.readline()\n"
        "print(own.pauses)\n"
    )
    web, told = owned(), Told()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            with web.guard(limit=(5, 1000.0), callback=told) as guard:
                told.wait(lambda heals: sum(heal.pause > 0 for heal in heals) > 2)
                assert guard.pauses > 2
                out, _ = process.communicate(b"\n")
            assert int(out) >= 1
        finally:
            process.kill()


def test_an_anchor_that_goes_away_is_no_end(host):
    host.iptables("-A INPUT -p udp -j ACCEPT")
    host.iptables("-A", "INPUT", "-m", "comment", "--comment", "here", "-j", "RETURN")
    web = iptc.Owned("web")
    web.set("filter", "INPUT", ["-p tcp -j DROP"], "before", "comment:here")
    told = Told()
    with web.guard(callback=told):
        host.iptables("-F INPUT")
        told.wait(lambda heals: len(web.rules) == 1)
        host.iptables("-A", "INPUT", "-m", "comment", "--comment", "here", "-j", "RETURN")
        host.iptables("-I", "INPUT", "-p", "udp", "-j", "ACCEPT")
        host.iptables("-D", "INPUT", "-m", "comment", "--comment", "web:", "-p", "tcp", "-j", "DROP")
        told.wait(lambda heals: len(web.rules) == 1 and not web.plan())


def test_what_makes_it_impossible_is_told_and_tried_again(host, monkeypatch):
    monkeypatch.setattr(guarding, "_PAUSE_FIRST", 0.01)
    monkeypatch.setattr(guarding, "_PAUSE_MOST", 0.02)
    web, told = owned(), Told()
    apply, fails = iptc.Plan.apply, [True]

    def failing(self, *words):
        if fails[0]:
            raise iptc.KernelError("no", 12, "Cannot allocate memory")
        apply(self, *words)

    with web.guard(callback=told) as guard:
        monkeypatch.setattr(iptc.Plan, "apply", failing)
        host.iptables("-F INPUT")
        told.wait(lambda heals: sum(heal.error is not None for heal in heals) > 2)
        fails[0] = False
        put_back(told, web)
        told.wait(lambda heals: guard.heals == 1)
    assert "tried again" in str(told.heals[0])


def test_a_function_that_fails_ends_no_guard(host, caplog):
    web = owned()
    seen = threading.Event()

    def fail(heal):
        seen.set()
        raise RuntimeError("told")

    with web.guard(callback=fail) as guard:
        host.iptables("-F INPUT")
        assert seen.wait(WAIT)
        seen.clear()
        host.iptables("-F INPUT")
        assert seen.wait(WAIT)
        assert guard.heals >= 2
    assert "told" in caplog.text


@pytest.mark.parametrize(
    "wrong", [{"limit": 5}, {"limit": (0, 1)}, {"limit": (1, 0)}, {"limit": ("x", 1)}, {"callback": 5}, {"compare": -1}]
)
def test_what_is_no_guard_is_refused(host, wrong):
    with pytest.raises(iptc.IPTCError):
        with owned().guard(**wrong):
            pass
    assert not iptc.Owned("web").rules


def test_a_guard_that_cannot_begin_raises_and_leaves_no_thread(host):
    web = iptc.Owned("web")
    web.set("filter", "INPUT", ["-p tcp -j DROP"], "before", "comment:nobody")
    before = threading.active_count()
    guard = web.guard()
    with pytest.raises(iptc.NotFound):
        guard.__enter__()
    assert threading.active_count() == before and not iptc.Owned("web").rules


def test_adopted_rules_stand_where_they_stood(host):
    host.iptables("-A INPUT -p udp -j ACCEPT")
    web = iptc.Owned("web")
    web.set("filter", "INPUT", ["-p tcp -j DROP"], "after", "-p udp -j ACCEPT")
    web.apply()
    host.iptables("-A INPUT -p sctp -j ACCEPT")
    before = host.save(table="filter")
    again = iptc.Owned("web")
    assert again.adopt() == 1 and not again.plan()
    host.iptables("-D INPUT 2")
    assert again.apply() and host.save(table="filter") == before
    assert iptc.Owned("nobody").adopt() == 0


FILE = 'owner = "web"\n[[chain]]\nchain = "INPUT"\nrules = ["-p tcp --dport 80 -j DROP"]\n'


def test_the_command_guard_puts_rules_back(host, tmp_path):
    file, metrics = tmp_path / "web.toml", tmp_path / "web.prom"
    file.write_text(FILE)
    command = [sys.executable, "-m", "iptc", "guard", "--textfile", str(metrics)]
    for what in (str(file), "web"):
        with subprocess.Popen([*command, what], stdout=subprocess.PIPE, text=True) as process:
            try:
                while not metrics.exists():
                    assert process.poll() is None
                host.iptables("-F INPUT")
                assert process.stdout.readline().startswith("web: broken by ")
                assert len(iptc.Owned("web").rules) == 1
                process.send_signal(signal.SIGTERM)
                assert process.wait() == 0
            finally:
                process.kill()
        text = metrics.read_text()
        assert 'iptables_guard_heals_total{owner="web"} 1\n' in text
        assert "iptables_guard_last_offender_info{" in text
        metrics.unlink()
    for words, status in ((["nobody"], 2), ([str(file), "--limit", "x"], 2), (["/nowhere/at/all"], 2)):
        done = subprocess.run([sys.executable, "-m", "iptc", "guard", *words], capture_output=True, text=True)
        assert done.returncode == status and done.stderr.count("\n") == 1, done


@pytest.mark.long
def test_a_thousand_flushes_beside_packets(host):
    """In the end no rule is missing, and each flush was reported at most once."""
    web, told = owned(), Told()
    with web.guard(limit=(10**6, 10.0), callback=told):
        for _ in range(1000):
            host.iptables("-F INPUT")
        put_back(told, web)
    assert len(web.rules) == 4
    json.dumps([str(heal) for heal in told.heals])
