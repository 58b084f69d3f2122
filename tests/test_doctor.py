"""`iptc doctor`: what it finds on a host and in a ruleset, and that it changes nothing."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import specs
from faults import library, start  # noqa: F401  (fixtures)
from test_lock import Holder, lock_path
from test_structure import ROOT
from untried import untried

import iptc
from iptc import _core, backends
from iptc.bpf.possible import why_not
from iptc.doctor import (
    conntrack,
    ebpf,
    examine,
    kernel,
    locking,
    modules,
    namespaces,
    needs,
    plugins,
    rights,
    versions,
    which_backend,
)
from iptc.doctor.finding import ERROR, INFO, WARNING
from iptc.namespace import open_namespace

HERE = backends.HERE
LEVELS = {INFO, WARNING, ERROR}


def doctor(*arguments, prefix=(), text=None, environment=()):
    """Run `iptc doctor`. Return (exit status, standard output, standard error)."""
    command = [*prefix, sys.executable, "-B", "-m", "iptc", "doctor", *arguments]
    given = {**os.environ, "PYTHONPATH": str(ROOT), **dict(environment)}
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=given)
    return done.returncode, done.stdout, done.stderr


def as_json(*arguments, **options):
    """(exit status, the object that is printed)."""
    status, out, err = doctor(*arguments, "--json", **options)
    assert err == ""
    said = json.loads(out)
    assert list(said) == ["schema", "backend", "findings"] and said["schema"] == 1
    for finding in said["findings"]:
        assert list(finding) == ["level", "text", "do"] and finding["level"] in LEVELS and finding["text"]
        assert finding["do"] or finding["level"] == INFO, finding
    assert status == int(any(finding["level"] != INFO for finding in said["findings"]))
    return status, said


def texts(findings, level=None):
    return [finding.text for finding in findings if level is None or finding.level == level]


def worst(findings):
    return [finding for finding in findings if finding.level != INFO]


# ---------------------------------------------------------------- the sides


def test_both_sides(host):
    """Rules of the other back end are found in each family, and tools of the other back end are recognized."""
    status, said = as_json(environment={"IPTC_BACKEND": host.backend})
    assert said["backend"] == host.backend
    other = {"legacy": "nft", "nft": "legacy"}[host.backend]
    assert not any("holds rules too" in finding["text"] for finding in said["findings"])
    host.run(f"iptables-{other}", "-A", "FORWARD")
    host.run(f"ip6tables-{other}", "-t", "mangle", "-P", "INPUT", "DROP")
    status, said = as_json(environment={"IPTC_BACKEND": host.backend})
    found = [finding for finding in said["findings"] if "holds rules too" in finding["text"]]
    assert status == 1 and len(found) == 1 and found[0]["level"] == WARNING
    assert "IPv4 filter and IPv6 mangle" in found[0]["text"] and f"--backend {other}" in found[0]["do"]


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Make a folder of tools the only one on PATH: {name: what it is a link to, or what it prints}."""

    def make(**what):
        folder = tmp_path / "tools"
        folder.mkdir()
        for name, said in what.items():
            path = folder / name.replace("_", "-")
            if said.startswith("/"):
                path.symlink_to(said)
            else:
                path.write_text(f"#!/bin/sh\necho '{said}'\n")
                path.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setattr(backends, "_SYSTEM_FOLDERS", ())

    return make


@pytest.mark.one_backend("legacy")
@pytest.mark.parametrize(
    "said, side",
    [
        ("iptables v1.8.9 (nf_tables)", "nf_tables"),
        ("iptables v1.8.11 (legacy)", "legacy xtables"),
        ("iptables v1.6.1", "legacy xtables"),
    ],
)
def test_the_back_end_of_the_hosts_iptables_is_found(host, tools, said, side):
    tools(iptables=said)
    (found,) = which_backend.of_tools()
    assert found.level == INFO and f"iptables uses {side} ({said}, " in found.text
    assert bool(worst(which_backend.of_place(HERE))) == (side == "nf_tables")


@pytest.mark.one_backend("legacy")
def test_tools_that_differ_and_no_tools(host, tools, monkeypatch):
    tools(iptables="iptables v1.8.9 (nf_tables)", ip6tables="ip6tables v1.8.9 (legacy)", ip6tables_restore="(legacy)")
    found = list(which_backend.of_tools())
    assert [finding.level for finding in found] == [WARNING, INFO]
    assert "(iptables: nf_tables; ip6tables and ip6tables-restore: legacy xtables)" in found[0].text
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "no command iptables" in texts(which_backend.of_tools())[0]


@pytest.mark.one_backend("nft")
def test_a_back_end_that_cannot_be_found_out(host, monkeypatch):
    monkeypatch.setenv("IPTC_BACKEND", "ipfw")
    side, findings = examine.examine()
    assert side is None and any("no back end 'ipfw'" in text for text in texts(findings, ERROR))


# ----------------------------------------------------------------- the lock


@pytest.mark.one_backend("legacy")
def test_the_holder_of_the_lock_is_named(host):
    with iptc.lock.XTablesLock():
        pass
    assert texts(locking.of_lock()) == [f"Nobody holds the xtables lock {lock_path()}."]
    with Holder(lock_path()) as holder:
        status, said = as_json()
        pid = holder.process.pid
        with open(f"/proc/{pid}/comm") as comm:
            name = comm.read().strip()
        (found,) = [finding for finding in said["findings"] if "xtables lock" in finding["text"]]
        assert status == 1 and found["level"] == WARNING and f"{name} (pid {pid})" in found["text"]
        assert str(pid) in found["do"]


@pytest.mark.one_backend("legacy")
def test_a_lock_that_is_let_go_is_no_trouble(host):
    held = iptc.lock.XTablesLock()
    held.__enter__()
    (found,) = locking.of_lock(lambda seconds: held.__exit__())
    assert found.level == INFO and f"(pid {os.getpid()})" in found.text and "for a moment" in found.text


@pytest.mark.one_backend("legacy")
def test_lock_files_that_are_none(host, tmp_path, monkeypatch):
    path = tmp_path / "pipe"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    (found,) = locking.of_lock()
    assert found.level == INFO and "creates it" in found.text and not path.exists()
    os.mkfifo(path)
    (found,) = locking.of_lock()
    assert found.level == ERROR and "no regular file" in found.text


# --------------------------------------------------------------- the rights


@pytest.mark.one_backend("nft")
def test_without_capabilities(host):
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    status, said = as_json(prefix=drop)
    found = [finding["text"] for finding in said["findings"] if finding["level"] == WARNING]
    assert status == 1 and any("no CAP_NET_ADMIN" in text for text in found)
    # findings that need no right are printed all the same
    assert any(f"iptc {iptc.__version__}" in finding["text"] for finding in said["findings"])
    assert any("plugin files" in finding["text"] for finding in said["findings"])
    status, said = as_json(prefix=[*drop[:1], "--bounding-set=-net_raw"])
    assert any("no CAP_NET_RAW" in finding["text"] for finding in said["findings"])


@pytest.mark.one_backend("nft")
def test_whether_counters_can_be_read_with_ebpf(host):
    """With the rights of this process, and without the rights."""
    (here,) = [text for text in texts(ebpf.of_ebpf()) if "with eBPF" in text]
    assert here in [f["text"] for f in as_json()[1]["findings"]] and (why_not("nft") == "") == ("can be read" in here)
    _, said = as_json(prefix=["setpriv", "--inh-caps=-all", "--bounding-set=-all,+net_admin,+net_raw"])
    (text,) = [finding["text"] for finding in said["findings"] if "with eBPF" in finding["text"]]
    lacking = "this process has no CAP_BPF and no CAP_PERFMON"
    if "this is a user namespace" in here:
        lacking = "this is a user namespace"  # where rights do not help
    assert "cannot be read with eBPF here: " in text and lacking in text


EBPF = """
from iptc.doctor.ebpf import of_ebpf
seen = set()
for nth in range(1000):
    got, calls = attempt(lambda: [finding.text for finding in of_ebpf()], "bpf", nth, errno.EINVAL)
    if calls <= nth:
        break
    seen.add(got[0].partition(": ")[0])
print(*sorted(seen), sep="\\n")
"""


@pytest.mark.needs("ebpf")
@pytest.mark.one_backend("nft")
def test_ebpf_may_be_possible_on_one_side_only(host, start):
    """Here the kernel refuses what only legacy tables need."""
    said = start(EBPF)
    assert "Counters cannot be read with eBPF here" in said
    assert "Counters of nf_tables can be read with eBPF here (--source bpf), those of legacy tables cannot" in said


@pytest.mark.one_backend("nft")
def test_a_user_namespace_is_reported(host):
    if subprocess.run(["unshare", "-Ur", "true"], capture_output=True).returncode:
        untried("no user namespace can be made here")
        assert not any("user namespace" in finding["text"] for finding in as_json()[1]["findings"])
        return
    _, said = as_json(prefix=["unshare", "-Ur"])
    assert any("was made in another user namespace" in finding["text"] for finding in said["findings"])
    status, said = as_json(prefix=["unshare", "-Ur", "unshare", "-n"], environment={"IPTC_BACKEND": ""})
    found = [finding["text"] for finding in said["findings"]]
    assert any(text.startswith("This is a user namespace") for text in found)
    assert not any("was made in another user namespace" in text for text in found)


@pytest.mark.one_backend("nft")
def test_a_list_of_tables_that_may_not_be_read(host):
    class Closed:
        """A namespace whose files in /proc nobody may read."""

        def read_file(self, path):
            raise PermissionError(13, "Permission denied")

    (found,) = rights.of_place(Closed())
    assert found.level == WARNING and "unshare -Ur unshare -n" in found.do
    assert list(rights.of_place(HERE)) == []


# -------------------------------------------------------------- the plugins


@pytest.fixture
def folder(tmp_path):
    """A folder with a few of the host's plugins."""
    made = tmp_path / "xtables"
    made.mkdir()
    for name in ("libxt_tcp.so", "libxt_limit.so", "libipt_icmp.so"):
        found = next(path for place in plugins.folders() if os.path.exists(path := f"{place}/{name}"))
        shutil.copy(found, made / name)
    return made


def test_plugins_that_fit(folder):
    number = plugins.library()[1]
    assert number >= 10
    found = plugins.Plugins([str(folder)])
    assert found.has(False, "icmp") and not found.has(True, "icmp") and found.has(True, "tcp")
    (said,) = plugins.of_plugins(found, number)
    assert said.level == INFO and "3 plugin files" in said.text


def test_plugins_that_do_not_fit(folder):
    number = plugins.library()[1]
    whole = (folder / "libxt_tcp.so").read_bytes()
    (folder / "libxt_text.so").write_text("not a plugin")
    (folder / "libxt_empty.so").write_bytes(b"")
    (folder / "libxt_short.so").write_bytes(whole[:-500])
    (folder / "libxt_head.so").write_bytes(whole[:24])
    (folder / "libxt_other.so").write_bytes(whole[:18] + bytes([whole[18] ^ 1]) + whole[19:])
    old = b"libxtables.so.%d" % number
    (folder / "libxt_old.so").write_bytes(whole.replace(old, b"libxtables.so.%02d" % (number - 1)))
    (folder / "libxt_gone.so").symlink_to("/nonexistent")
    (folder / "README").write_text("no plugin at all")
    found = {finding.text: finding for finding in plugins.of_plugins(plugins.Plugins([str(folder)]), number)}
    assert {finding.level for finding in found.values()} == {WARNING}
    said = "\n".join(found)
    for name, why in {
        "libxt_empty.so, libxt_text.so": "no shared object",
        "libxt_head.so, libxt_short.so": "the file is cut off",
        "libxt_other.so": "made for another processor",
        "libxt_old.so": f"made for libxtables {number - 1}, and here is {number}",
        "libxt_gone.so": "No such file or directory",
    }.items():
        assert f"Plugins that cannot be used: {name}: {why}." in said


def test_folders_that_are_not_there(tmp_path, folder):
    (found,) = worst(plugins.of_plugins(plugins.Plugins(["/nonexistent"]), 12))
    assert found.level == ERROR and "/nonexistent cannot be read: No such file or directory" in found.text
    (found,) = worst(plugins.of_plugins(plugins.Plugins([str(folder), "/nonexistent"]), 12))
    assert found.level == WARNING
    (found,) = plugins.of_plugins(plugins.Plugins([str(tmp_path)]), 12)
    assert found.level == WARNING and "There is no plugin in" in found.text


@pytest.mark.one_backend("nft")
def test_the_environment_says_where_plugins_are(host, folder):
    (folder / "libxt_text.so").write_text("not a plugin")
    status, said = as_json(environment={"XTABLES_LIBDIR": str(folder)})
    assert status == 1 and any("libxt_text.so" in finding["text"] for finding in said["findings"])


# --------------------------------------------------------------- the kernel

RULES = """*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -m comment --comment "-j x" -j DNAT --to-destination 192.0.2.1
COMMIT
*filter
:web - [0:0]
-A INPUT -p tcp --dport 80 -j web
-A INPUT -p icmp --icmp-type 8 -m limit --limit 1/s --jump=ACCEPT
-A INPUT -mstate --state NEW -g web
-A web -p 17 -j LOG --log-prefix "-m nosuch"
-A web -m recent --set --name "-m" -jDROP
COMMIT
"""


def test_the_extensions_that_a_text_needs_are_found():
    tables, found = needs.needs_of(RULES.encode())
    assert tables == {"nat": 1, "filter": 5}
    assert [(str(need), need.line) for need in found] == [
        ("match tcp", 3),
        ("match comment", 3),
        ("target DNAT", 3),
        ("match icmp", 8),
        ("match limit", 8),
        ("match state", 9),
        ("target LOG", 10),
        ("match recent", 11),
    ]
    assert [need.kernels_name for need in found if need.name == "state"] == ["conntrack"]
    assert [str(need) for need in needs.needs_of(b"*raw\n-A PREROUTING -p tcp --syn -m u32\n")[1]] == [
        "match tcp",
        "match u32",
    ]


@pytest.mark.one_backend("legacy")
@pytest.mark.filterwarnings("ignore::iptc.XTablesWarning")
def test_needs_of_every_rule_that_the_tests_know(prepared, ipv6):
    """The needs that are found in the text of a rule are those of the bytes that libxtables makes of it."""
    for spec in specs.load_taken(ipv6):
        rule = (iptc.Rule6 if ipv6 else iptc.Rule).from_args(spec.text)
        wanted = {("match", match.name) for match in rule.matches}
        if rule.target is not None:
            wanted.add(("target", rule.target.name))
        wanted -= {("target", name) for name in (*OWN_CHAINS, "", "ACCEPT", "DROP", "RETURN", "QUEUE", "standard")}
        for line in (spec.text, str(rule)):
            text = (
                f"*{spec.table}\n" + "".join(f":{name} - [0:0]\n" for name in OWN_CHAINS) + f"-A {spec.chain} {line}\n"
            )
            found = needs.needs_of(os.fsencode(text))[1]
            assert {(need.kind, need.name) for need in found} == wanted or {
                (need.kind, need.kernels_name) for need in found
            } == {(kind, needs.KERNELS_NAMES.get((kind, name), name)) for kind, name in wanted}, line


OWN_CHAINS = ("web", "log-drop", "estimators")


class Bare(type(HERE)):
    """This namespace on a kernel without legacy tables."""

    def read_file(self, path):
        if b"_tables_" in path:
            raise FileNotFoundError(2, "No such file or directory")
        return super().read_file(path)


class Listing(type(HERE)):
    """This namespace on a kernel with the given list of loaded modules."""

    listed = b""

    def read_file(self, path):
        return self.listed if path.endswith((b"_matches", b"_targets")) else super().read_file(path)


RELEASE = "6.12.0-211.el10.x86_64"


@pytest.fixture
def root(tmp_path):
    """The files of a system with modules, as RHEL 10 has it: no legacy tables; nft_compat on the blacklist."""
    folder = tmp_path / f"root/lib/modules/{RELEASE}"
    folder.mkdir(parents=True)
    for name in ("proc/sys/kernel", "etc/modprobe.d", "boot"):
        (tmp_path / "root" / name).mkdir(parents=True)
    root = tmp_path / "root"
    (root / "proc/modules").write_text("nf_tables 389120 0 - Live 0x0\nxt_limit 16384 0 - Live 0x0\n")
    (root / "proc/sys/kernel/modules_disabled").write_text("0\n")
    (folder / "modules.dep").write_text(
        "kernel/net/netfilter/nft_compat.ko.xz: kernel/net/netfilter/x_tables.ko.xz\n"
        "kernel/net/netfilter/xt_LOG.ko.xz:\nkernel/net/netfilter/xt_conntrack.ko.zst: kernel/net/nf_conntrack.ko\n"
        "kernel/net/netfilter/xt_recent.ko:\nkernel/net/netfilter/xt_nat.ko:\n"
    )
    (folder / "modules.alias").write_text(
        "# Aliases\nalias nft-expr-match nft_compat\nalias ipt_LOG xt_LOG\nalias ip6t_LOG xt_LOG\n"
        "alias ipt_conntrack xt_conntrack\nalias ipt_recent xt_recent\nalias ipt_DNAT xt_nat\n"
    )
    (folder / "modules.builtin").write_text("kernel/net/netfilter/xt_tcpudp.ko\n")
    (folder / "modules.builtin.modinfo").write_bytes(b"xt_tcpudp.license=GPL\0xt_tcpudp.alias=ipt_icmp\0")
    return root


def machine(root, there=None):
    return kernel.Kernel(there or Bare(), modules.Modules(str(root), RELEASE))


def judged(machine, side, text, has_plugin=lambda nfproto, need: True):
    return list(kernel.of_ruleset(machine, side, _core.IPV4, *needs.needs_of(text.encode()), has_plugin))


def test_modules_are_found_by_name_and_alias(root):
    found = modules.Modules(str(root), RELEASE)
    assert found.state(["ipt_LOG", "xt_LOG"]) == (modules.LOADABLE, "xt_LOG", "")
    assert found.state(["ipt_icmp"]) == (modules.HERE, "xt_tcpudp", "")
    assert found.state(["xt_limit"]) == (modules.HERE, "xt_limit", "")
    assert found.state(["xt_nosuch"])[0] == modules.ABSENT
    (root / "etc/modprobe.d/no.conf").write_text("# no\nblacklist xt-recent\ninstall xt_nat /bin/false\n")
    found = modules.Modules(str(root), RELEASE)
    assert found.state(["ipt_recent"]) == (
        modules.KEPT_OUT,
        "xt_recent",
        "it is on the blacklist in /etc/modprobe.d/no.conf",
    )
    assert found.state(["ipt_DNAT"]) == (modules.KEPT_OUT, "xt_nat", "/etc/modprobe.d/no.conf forbids to load it")
    (root / "proc/sys/kernel/modules_disabled").write_text("1\n")
    found = modules.Modules(str(root), RELEASE)
    assert found.state(["ipt_LOG"]) == (modules.KEPT_OUT, "xt_LOG", "the kernel loads no modules any more")


def test_without_lists_of_modules_the_configuration_decides(root):
    shutil.rmtree(root / "lib")
    (root / "proc/modules").unlink()
    found = modules.Modules(str(root), RELEASE)
    assert found.state(["xt_u32"], ["NETFILTER_XT_MATCH_U32"])[0] == modules.UNKNOWN
    config = root / f"boot/config-{RELEASE}"
    config.write_text("# a comment\nCONFIG_NETFILTER_XT_MATCH_U32=y\n# CONFIG_NETFILTER_XT_MATCH_OSF is not set\n")
    found = modules.Modules(str(root), RELEASE)
    assert found.state(["xt_u32"], ["NETFILTER_XT_MATCH_U32"])[0] == modules.HERE
    assert found.state(["xt_osf"], ["NETFILTER_XT_MATCH_OSF"])[0] == modules.ABSENT


def test_a_kernel_without_legacy_and_compat(root):
    """RHEL 10 is such a kernel, and so is Linux from 6.17 on with its default configuration."""
    (root / "etc/modprobe.d/nft_compat.conf").write_text("blacklist nft_compat\n")
    found = list(kernel.of_kernel(machine(root), "nft", "nft"))
    assert "has no legacy tables here (ip_tables and ip6_tables" in found[0].text and found[0].level == INFO
    assert "no compatibility layer here (nft_compat: it is on the blacklist in /etc" in found[1].text
    assert found[1].level == WARNING and "modprobe nft_compat" in found[1].do and len(found) == 2
    assert next(kernel.of_kernel(machine(root), "nft", "legacy")).level == WARNING
    found = judged(machine(root), "nft", RULES)
    (said,) = worst(found)
    assert said.level == ERROR and "without nft_compat (it is on the blacklist" in said.text
    for name in ("target DNAT (line 3)", "match icmp (line 8)", "match state (line 9)", "match recent (line 11)"):
        assert name in said.text
    assert "limit" not in said.text and "tcp" not in said.text and "comment" not in said.text
    found = judged(machine(root), "legacy", RULES)
    assert [finding.text.partition(":")[0] for finding in found if "table" in finding.text] == ["Line 1", "Line 5"]


def test_a_kernel_without_the_package_of_more_modules(root):
    (root / f"lib/modules/{RELEASE}/modules.dep").write_text("kernel/net/netfilter/xt_LOG.ko.xz:\n")
    (root / f"lib/modules/{RELEASE}/modules.alias").write_text("alias ipt_LOG xt_LOG\n")
    found = list(kernel.of_kernel(machine(root), "nft", "nft"))
    assert "nft_compat: this kernel's modules do not have it" in found[1].text
    assert "kernel-modules-extra" in found[1].do


def test_what_is_missing_is_named_with_its_line(root):
    found = judged(
        machine(root), "nft", "*filter\n-A INPUT -m u32 --u32 0=0\n-A INPUT -j LOG\n-A INPUT -m recent\nCOMMIT\n"
    )
    assert [finding.text for finding in found] == [
        "Line 2: IPv4 match u32 is not to be had: module xt_u32, this kernel's modules do not have it."
    ]
    assert found[0].level == ERROR and RELEASE in found[0].do
    # a container sees which modules are loaded, but not the module files of the host
    shutil.rmtree(root / "lib")
    there = Listing()
    there.listed = b"recent\nLOG\n"
    found = judged(machine(root, there), "nft", "*filter\n-A INPUT -m u32 --u32 0=0\n-A INPUT -m recent\nCOMMIT\n")
    assert [finding.level for finding in found] == [WARNING] and "modprobe xt_u32" in found[0].do
    assert judged(machine(root, there), "nft", "*filter\n-A INPUT -m recent -j LOG\n")[0].level == INFO


def test_this_kernel_is_believed(host):
    """What the doctor says about the kernel of this machine is what the host's own tool finds."""
    here = kernel.Kernel(HERE)
    side = host.backend
    for rule in (
        "-m comment --comment a -j LOG",
        "-p tcp --dport 1 -m limit -m recent --set -j REJECT",
        "-m statistic --mode nth --every 2 --packet 0",
    ):
        assert judged(here, side, f"*filter\n-A INPUT {rule}\nCOMMIT\n")[0].level == INFO
        host.iptables("-A", "INPUT", *rule.split())
    assert here.extension(_core.IPV4, "match", "nosuch")[0] in (modules.ABSENT, modules.UNKNOWN)
    said = judged(here, side, "*nosuch\n-A INPUT -m nosuch\nCOMMIT\n")
    assert [finding.level for finding in said].count(INFO) == 0


def test_a_table_is_tried_out_where_nobody_sees_it(host):
    here = kernel.Kernel(HERE)
    names = host.run("sh", "-c", "cat /proc/net/ip*_tables_names")
    assert kernel._opens_elsewhere(_core.IPV6, "raw") is True
    assert kernel._opens_elsewhere(_core.IPV4, "nosuch") is False
    assert here.table(_core.IPV4, "mangle")[0] in (modules.HERE, modules.LOADABLE)
    assert host.run("sh", "-c", "cat /proc/net/ip*_tables_names") == names


def test_a_ruleset_on_the_command_line(host, tmp_path):
    path = tmp_path / "rules"
    path.write_text(RULES.replace("-m recent", "-m nosuch") + "*mangle\n-A INPUT -j NOTRACK\nCOMMIT\n")
    status, said = as_json(str(path), "--backend", host.backend)
    found = [finding for finding in said["findings"] if finding["text"].startswith("Line")]
    assert status == 1 and len(found) == 1
    assert found[0]["level"] == ERROR and "Line 11: IPv4 match nosuch is unknown to libxtables" in found[0]["text"]
    status, out, _ = doctor("-", text=RULES, environment={"IPTC_BACKEND": host.backend})
    assert "This kernel has all 8 matches and targets that the IPv4 ruleset needs." in out
    both = f"# IPv4\n{RULES}# IPv6\n*filter\n-A INPUT -p icmpv6 --icmpv6-type 1 -m hl --hl-eq 1\nCOMMIT\n"
    status, out, _ = doctor("-a", "-", text=both, environment={"IPTC_BACKEND": host.backend})
    assert "all 8 matches and targets that the IPv4" in out and "all 2 matches and targets that the IPv6" in out
    status, out, err = doctor("/nonexistent")
    assert (status, out) == (1, "") and "/nonexistent" in err


# ---------------------------------------------------------- connections, versions


def test_connections(host):
    assert [conntrack.judged(count, 1000).level for count in (0, 799, 800, 949, 950, 1000)] == [
        INFO,
        INFO,
        WARNING,
        WARNING,
        ERROR,
        ERROR,
    ]
    assert conntrack.judged(7, 0).level == INFO
    assert "nf_conntrack_max=2000" in conntrack.judged(900, 1000).do
    (found,) = conntrack.of_place(HERE)
    with open("/proc/sys/net/netfilter/nf_conntrack_max") as most:
        assert found.level == INFO and f"0 of {most.read().strip()} connections" in found.text


def test_packets_that_found_no_room():
    class Full:
        """A namespace whose connection tracking table was full."""

        def read_file(self, path):
            if path.endswith(b"stat/nf_conntrack"):
                return b"entries  found drop early_drop\n00000001 00000000 0000000a 00000000\n00000001 00000000 00000001 00000000\n"
            return b"1000\n"

    found = list(conntrack.of_place(Full()))
    assert [finding.level for finding in found] == [ERROR, WARNING] and found[1].text.startswith("11 packets")


def test_an_installed_python_iptables_is_reported(tmp_path):
    ours, before, behind = (tmp_path / name for name in ("ours", "before", "behind"))
    for place in (ours, before, behind):
        (place / "iptc").mkdir(parents=True)
        (place / "iptc/__init__.py").write_text("")
    path, package = [str(before), str(ours), str(behind)], str(ours / "iptc")

    def found():
        return worst(versions.of_namesakes(path, package))

    (before / "python_iptables-1.2.0.dist-info").mkdir()
    shadow, other = found()
    assert shadow.level == ERROR and f"Python-iptables (python_iptables-1.2.0.dist-info) in {before}" in shadow.text
    assert "is found before iptc" in shadow.text and "pip uninstall python-iptables" in shadow.do
    assert other.level == WARNING and f"Another package iptc is in {behind} too" in other.text
    shutil.rmtree(before / "iptc")
    shutil.rmtree(before / "python_iptables-1.2.0.dist-info")
    shutil.rmtree(behind / "iptc")
    assert found() == []
    (ours / "python_iptables-1.0.0.egg-info").write_text("")
    (same,) = found()
    assert same.level == ERROR and "is installed in the same folder as iptc" in same.text


def test_a_shadow_is_seen_by_the_command(tmp_path):
    (tmp_path / "iptc").mkdir()
    (tmp_path / "iptc/__init__.py").write_text("")
    (tmp_path / "python_iptables-1.2.0.dist-info").mkdir()
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r}); from iptc.doctor import versions;"
        "print(*[finding.text for finding in versions.of_namesakes() if finding.level != 'info'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert f"in {tmp_path} too" in done.stdout, done.stderr


# --------------------------------------------------------------- namespaces


@pytest.mark.one_backend("nft")
def test_all_namespaces_are_examined(host):
    name = f"iptc-doctor-{os.getpid()}"
    host.run("ip", "netns", "add", name)
    try:
        for tool in ("iptables-legacy", "iptables-nft"):
            host.run("ip", "netns", "exec", name, tool, "-A", "INPUT", "-p", "tcp")
        _, said = as_json("--all-netns", environment={"IPTC_BACKEND": "nft"})
        assert any(
            finding["text"].startswith(f"Network namespace {name}: Legacy xtables holds rules too")
            for finding in said["findings"]
        )
        _, said = as_json("--netns", name, environment={"IPTC_BACKEND": "nft"})
        assert any(finding["text"].startswith("Legacy xtables holds rules too") for finding in said["findings"])
        with subprocess.Popen(["ip", "netns", "exec", name, "cat"], stdin=subprocess.PIPE) as process:
            assert sum(label == f"network namespace {name}" for _, label in namespaces.all_places()) == 1
            process.stdin.close()
    finally:
        host.run("ip", "netns", "delete", name)


@pytest.mark.one_backend("nft")
def test_namespaces_without_a_name_are_found(host):
    command = ["unshare", "-n", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        found = dict(namespaces.all_places())
        assert re.fullmatch(rf"network namespace of process {process.pid} \((sh|cat)\)", found[process.pid])
        with open_namespace(process.pid) as there:
            assert any("iptc uses" in text for text in texts(which_backend.of_place(there)))
        process.stdin.close()
    assert list(examine._of_other(process.pid, "x")) == []


# ------------------------------------------------------------ the command


CHANGES = re.compile(
    r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|\b(unlink|rename|mkdir|chmod|chown|truncate|mknod|link|symlink|unshare|init_module"
    r"|finit_module|delete_module|mount|kill)(at|at2)?\(|SO_SET_REPLACE|SO_SET_ADD_COUNTERS|NFT_MSG_(NEW|DEL)|NFNL_MSG_BATCH"
)


def test_the_doctor_changes_nothing(host, tmp_path):
    """No system call writes anything except to standard output, and no table is created."""
    host.iptables("-A INPUT -p tcp")
    path, trace = tmp_path / "rules", tmp_path / "trace"
    path.write_text(RULES)
    before = host.save(counters=True), host.run("nft", "list", "ruleset")
    names = host.run("sh", "-c", "cat /proc/net/ip*_tables_names")
    status, said = as_json(
        "--all-netns",
        "--backend",
        "nft",
        str(path),
        prefix=["strace", "-f", "-qq", "-s", "64", "-e", "signal=none", "-o", str(trace)],
    )
    calls = [line for line in trace.read_text().splitlines() if CHANGES.search(line) and "recv" not in line]
    # the runtime of a sanitizer calls mkdir for its folder of reports, which exists
    assert [line for line in calls if "/dev/null" not in line and "EEXIST" not in line] == []
    wrote = {line.split("write(")[1].split(",")[0] for line in trace.read_text().splitlines() if " write(" in line}
    assert wrote == {"1"}, wrote
    assert (host.save(counters=True), host.run("nft", "list", "ruleset")) == before
    assert host.run("sh", "-c", "cat /proc/net/ip*_tables_names") == names


def test_as_text_and_usage(host):
    status, out, err = doctor("--backend", host.backend)
    assert err == "" and all(re.match(r"(info|warning|error): |         -> ", line) for line in out.splitlines())
    status, out, _ = doctor("--backend", host.backend, "-q")
    assert "info:" not in out and status == bool(out)
    for wrong in (["--nosuch"], ["a", "b"], ["--backend", "ipfw"]):
        status, out, err = doctor(*wrong)
        assert (status, out) == (2, "") and "usage:" in err
    status, _, err = doctor("--netns", "iptc-nosuch")
    assert status == 1 and err.count("\n") == 1


def test_without_libxtables():
    """If libxtables cannot be used, the doctor says so, and still checks everything else."""
    code = (
        "import sys; sys.modules['iptc.language.plugins'] = None; from iptc.doctor import examine;"
        "print(*[f'{finding.level}: {finding.text}' for finding in examine.examine()[1]], sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "warning: libxtables cannot be used" in done.stdout and "connections are tracked" in done.stdout, done.stderr
