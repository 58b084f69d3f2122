"""libxtables is loaded when a rule needs it. These are hosts where it or its plugins are missing, or of another
release."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import specs
from conftest import as_seen_here

import iptc
from iptc import _core
from iptc.language import plugins

ROOT = pathlib.Path(iptc.__file__).parent.parent
INSTALL = "install the package iptables (iptables-nft on Fedora)"


def test_no_module_is_linked_to_a_library_of_iptables():
    for module in ROOT.glob("iptc/**/*.so"):
        headers = subprocess.run(["objdump", "-p", module], capture_output=True, text=True, check=True).stdout
        needed = re.findall(r"NEEDED +(\S+)", headers)
        assert "libc.so.6" in needed
        assert [name for name in needed if "xtables" in name or "tc.so" in name] == []


def library_path():
    """Return the path of the libxtables that is loaded into this process."""
    plugins.library_dirs()
    maps = pathlib.Path("/proc/self/maps").read_text()
    return pathlib.Path(as_seen_here(re.search(r"/\S*/libxtables\.so\S*", maps)[0]))


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Run Python's code without some files of the libraries' folder, which are hidden from this program only. Return
    the lines that it prints."""
    folder = library_path().parent
    real, view = (tmp_path_factory.mktemp(name) for name in ("real", "view"))
    for path in folder.iterdir():
        (view / path.name).symlink_to(real / path.name)

    def run(hidden, code, *arguments, given=None, **environment):
        script = f"""
            mount --bind {folder} {shlex.quote(str(real))}
            for name in {hidden}; do rm -f {shlex.quote(str(view))}/$name; done
            mount --bind {shlex.quote(str(view))} {folder}
            exec "$@"
        """
        command = ["unshare", "-m", "sh", "-ec", script, "sh", sys.executable, "-W", "error", "-c", code, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        done = subprocess.run(command, input=given, capture_output=True, text=True, env=environment, cwd="/")
        for path in folder.iterdir():
            link = view / path.name
            if not link.is_symlink():
                link.symlink_to(real / path.name)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


REFUSED = """
import iptc

def refused(function, *arguments):
    try:
        print(function(*arguments))
    except iptc.Unsupported as error:
        print(error)
"""


def test_without_it_the_package_to_be_installed_is_named(seen):
    code = (
        REFUSED
        + """
refused(iptc.Rule.from_args, "-j ACCEPT")
refused(iptc.Rule().create_match, "tcp")
rule = iptc.Rule()
rule.src = "192.0.2.0/24"
rule.target = iptc.Target(rule, "ACCEPT")
refused(str, rule)
"""
    )
    missing = f"libxtables.so.12 is not there, and rules are read and printed with it: {INSTALL}"
    assert seen("'libxtables*'", code) == [missing, missing, "-s 192.0.2.0/24 -j ACCEPT"]


def test_without_extensions_the_package_to_be_installed_is_named(seen):
    code = (
        REFUSED
        + """
refused(iptc.Rule.from_args, "-p tcp -j ACCEPT")
refused(iptc.Rule.from_args, "-p tcp --dport 22 -j ACCEPT")
refused(iptc.Rule().create_match, "limit")
"""
    )
    folder = library_path().parent / "xtables"
    missing = [
        f"no extension of iptables is in {folder}, and {name} may be one: {INSTALL}" for name in ("tcp", "limit")
    ]
    assert seen("xtables", code) == ["-p tcp -j ACCEPT", *missing]


FOREIGN = (
    REFUSED
    + """
refused(iptc.Rule.from_args, "-j ACCEPT")
rule = iptc.Rule()
rule.in_interface = "eth+"
print(rule)
"""
)


def said_with(folder):
    """Return the output of a program that finds its libxtables in *folder*."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", FOREIGN], capture_output=True, text=True, env=environment, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def build(folder, source):
    """Build a libxtables of the C code *source*."""
    made = folder / "libxtables.so.12"
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libxtables.so.12", "-o", made, "-xc", "-"]
    subprocess.run(command, input=source, text=True, check=True)
    return made


IS_NONE = "is no libxtables of iptables 1.8.7 to 1.8.13, and rules are read and printed with that: "


def test_a_library_that_lacks_functions_is_refused(tmp_path):
    made = build(tmp_path, "void xtables_init(void) {}")
    assert said_with(tmp_path) == [f"{made} {IS_NONE}it has no xtables_set_params", "-i eth+"]


def test_a_library_whose_functions_do_something_else_is_refused(tmp_path):
    names = re.findall(r"SYMBOL\((\w+)\)", (ROOT / "iptc/language/libxtables.c").read_text())
    assert len(names) > 10
    made = build(tmp_path, "".join(f"int xtables_{name}(void) {{ return 0; }}" for name in names if name != "name"))
    assert said_with(tmp_path) == [f"{made} {IS_NONE}its structures are laid out in another way", "-i eth+"]


@pytest.mark.parametrize("number", ["12.2.0", "12.8.0"])
def test_a_library_of_another_number_is_refused(tmp_path, number):
    made = tmp_path / f"libxtables.so.{number}"
    shutil.copy(library_path(), made)
    (tmp_path / "libxtables.so.12").symlink_to(made.name)
    assert said_with(tmp_path) == [f"{made} {IS_NONE}its number is {number}, and theirs are 12.4 to 12.7", "-i eth+"]


def test_another_library_is_named_where_ours_is_not_there(seen, tmp_path):
    made = tmp_path / "libxtables.so.11"
    shutil.copy(library_path(), made)
    code = REFUSED + "refused(iptc.Rule.from_args, '-j ACCEPT')"
    printed = seen("'libxtables*'", code, LD_LIBRARY_PATH=str(tmp_path))
    assert printed == [f"{made} {IS_NONE}its number is 11, and theirs are 12.4 to 12.7"]


def test_a_file_that_is_no_library_is_named(tmp_path):
    (tmp_path / "libxtables.so.12").write_text("no library")
    refusal, printed = said_with(tmp_path)
    assert refusal.startswith("libxtables.so.12 can't be loaded, and rules are read and printed with it (")
    assert str(tmp_path) in refusal and refusal.endswith(f"): {INSTALL}") and printed == "-i eth+"


def test_plugins_are_looked_for_where_the_library_looks():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("XTABLES_LIBDIR", None)
    code = "from iptc.language import plugins; print(plugins.library_dirs())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    content = library_path().read_bytes()
    for folder in eval(done.stdout):
        assert b"\0" + os.fsencode(folder) + b"\0" in content


PRINT = """
import json, sys
import iptc
from iptc.language import printing
for nfproto, entry in json.load(sys.stdin):
    try:
        print(json.dumps(printing.render(nfproto, bytes.fromhex(entry))))
    except iptc.Unsupported:
        print("Unsupported:", printing.render(nfproto, bytes.fromhex(entry), partly=True))
"""

MORE = [
    "-p tcp -m tcp ! --sport 1:65535 ! --dport 0 ! --tcp-option 5",
    "-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE",
    "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN",
    "-p udp -m udp --sport 0 ! --dport 65535",
    *(
        f"-m limit --limit {rate} --limit-burst {burst}"
        for rate in ("1/d", "7/h", "59/min", "61/min", "9999/sec")
        for burst in (5, 6)
    ),
    *(
        f"-m comment --comment {word}"
        for word in ("plain_word-1", '""', '"two words"', '"a\\"b"', '"it\'s"', '"\\\\"', "ümläut", "x" * 255)
    ),
    "-m mark ! --mark 0x7/0xffffff00",
    *(f"-m pkttype {pair}" for pair in ("--pkt-type unicast", "! --pkt-type broadcast", "--pkt-type multicast")),
    "-j TRACE",
]
MORE_OF_ONE = {
    False: [
        *(f"-p icmp -m icmp {kind}" for kind in ("--icmp-type any", "! --icmp-type 3/1", "--icmp-type 8")),
        *(f"-m ttl {test}" for test in ("--ttl-eq 1", "! --ttl-eq 2", "--ttl-lt 3", "--ttl-gt 255")),
    ],
    True: [
        *(f"-p ipv6-icmp -m icmp6 {kind}" for kind in ("! --icmpv6-type 128", "--icmpv6-type 1/4")),
        *(f"-m hl {test}" for test in ("--hl-eq 1", "! --hl-eq 2", "--hl-lt 3", "--hl-gt 255")),
    ],
}
NATIVE = {"tcp", "udp", "comment", "mark", "limit", "pkttype", "TRACE", "icmp", "ttl", "icmp6", "hl"}


@pytest.mark.filterwarnings("ignore::iptc.XTablesWarning")
def test_what_nf_tables_has_itself_is_printed_without_extensions_as_with_them(seen):
    rules = []
    for ipv6, cls in ((False, iptc.Rule), (True, iptc.Rule6)):
        # a rule with a set needs the set
        texts = [
            spec.text for spec in specs.load_taken(ipv6) if not re.search(r"-[mj] (set|SET)\b|--rateest", spec.text)
        ]
        for text in [*texts, *MORE, *MORE_OF_ONE[ipv6]]:
            rules += cls.from_args(text).expand()
    given = json.dumps([(rule.nfproto, rule._whole().hex()) for rule in rules])
    printed = seen("xtables", PRINT, given=given)
    assert len(printed) == len(rules)
    used = set()
    for rule, text in zip(rules, printed):
        names = {match.name for match in rule.matches} | ({rule.target.name} if rule.target is not None else set())
        if text.startswith("Unsupported"):
            assert not names <= NATIVE | set(_core.VERDICTS), text
            assert "bytes of unknown data]" in text
        else:
            # releases before 1.8.11 lose a range of all ports that is negated, and the code beside the type 255
            assert json.loads(text) == str(rule) or re.search(r" 0:65535| --icmp-type 255/", text), text
            used |= names
    assert NATIVE <= used


RULES = [
    "-A INPUT -i lo -j ACCEPT",
    '-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "ssh in" -j web',
    "-A web -m mark --mark 0x1/0xff -m limit --limit 3/sec -j DROP",
    "-A web -m conntrack --ctstate NEW -j ACCEPT",
]

POLLED = (
    REFUSED
    + """
import os, sys
backend = os.environ["IPTC_BACKEND"]
print(iptc.backend())
with iptc.CounterReader("filter") as reader:
    for _ in range(2):
        snapshot = reader.read()
        print(sum(snapshot.packets), snapshot["INPUT"][1].packets)
    for rule in snapshot.rules:
        print(f"-A {rule.chain} {rule.text}")
        print(rule.comment, rule.target)
table = iptc.Table("filter")
refused(table.save)
web = iptc.Chain(table, "web")
web.delete_rule_at(1)
print(*[line for line in table.save().splitlines() if line.startswith("-A ")], sep="\\n")
table.create_chain("other").rename("another")
iptc.Chain(table, "INPUT").set_policy("DROP")
print(*[chain.name for chain in table.chains], iptc.Chain(table, "INPUT").get_policy().name)
refused(iptc.Rule.from_args, "-p tcp -m tcp --dport 22 -j ACCEPT")
refused(getattr, iptc.Chain(table, "INPUT").rules[1].matches[0], "dport")
"""
)


def test_a_container_without_iptables_polls_counters_and_asks_for_it_when_a_rule_is_to_be_read(host, seen):
    counted = [f"[{packets}:{60 * packets}] {rule}" for packets, rule in enumerate(RULES)]
    chains = [":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":web - [0:0]"]
    host.restore("\n".join(["*filter", *chains, *counted, "COMMIT", ""]), arguments=["-c"])
    missing = f"libxtables.so.12 is not there, and rules are read and printed with it: {INSTALL}"
    polled = seen("'libxtables*' xtables", POLLED, IPTC_BACKEND=host.backend)
    unread = re.sub(r"conntrack .* -j", "conntrack [200 bytes of unknown data] -j", RULES[3])
    assert [re.sub(r"\[\d+ bytes", "[200 bytes", line) for line in polled] == [
        host.backend,
        *["6 1"] * 2,
        *[RULES[0], "None ACCEPT", RULES[1], "ssh in web", RULES[2], "None DROP", unread, "None ACCEPT"],
        missing,
        *RULES[:3],
        "INPUT FORWARD OUTPUT another web DROP",
        *[missing] * 2,
    ]
    assert host.rules() == RULES[:3]
