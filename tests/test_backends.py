"""Which back end is used: the one asked for, found in the namespace, or that of the tools. Finding out changes
nothing."""

import os
import stat
import subprocess
import warnings

import pytest
from conftest import Host

import iptc
from iptc import backends

LEGACY, NFT = Host("legacy"), Host("nft")


@pytest.fixture
def free(host, monkeypatch):
    """Make a namespace in which only the command `iptables` tells which back end to use."""
    monkeypatch.delenv("IPTC_BACKEND")
    backends._decided.clear()


def tool(tmp_path, monkeypatch, name, link=None, says=None):
    """Make `iptables` on PATH a link to *link*, or a script that prints *says*."""
    folder = tmp_path / name
    folder.mkdir()
    if link:
        (folder / link).write_text("")
        (folder / link).chmod(0o755)
        (folder / "iptables").symlink_to(folder / link)
    elif says is not None:
        (folder / "iptables").write_text(f"#!/bin/sh\necho '{says}'\n")
        (folder / "iptables").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder))
    backends._decided.clear()


def quietly():
    """Return the decision. No warning may be given."""
    backends._decided.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return iptc.backend()


def untouched():
    """Check that neither back end has a table."""
    names = [open(f"/proc/net/{name}_tables_names").read() for name in ("ip", "ip6")]
    return names == ["", ""] and NFT.run("/usr/sbin/nft", "list", "ruleset") == ""


def test_a_given_back_end_is_used(free, monkeypatch):
    LEGACY.iptables("-A INPUT -j ACCEPT")
    assert iptc.backend("nft") == "nft" and iptc.backend("legacy") == "legacy"
    assert iptc.Table("filter", backend="nft").backend == "nft"
    assert len(iptc.CounterReader(backend="nft").read()) == 0
    assert len(iptc.CounterReader(backend="legacy").read()) == 1
    monkeypatch.setenv("IPTC_BACKEND", "legacy")
    assert iptc.backend() == iptc.Table("filter").backend == iptc.CounterReader().backend == "legacy"
    monkeypatch.setenv("IPTC_BACKEND", "pf")
    for use in (iptc.backend, lambda: iptc.Table("filter"), iptc.CounterReader):
        with pytest.raises(iptc.Unsupported, match="there is no back end 'pf'; legacy, nft and libiptc are"):
            use()
    with pytest.raises(TypeError):
        iptc.backend(1)


def test_tables_of_two_back_ends_live_side_by_side(free):
    legacy, nft = iptc.Table("filter", backend="legacy"), iptc.Table("filter", backend="nft")
    assert legacy is not nft and iptc.Table("filter", backend="nft") is nft
    for table, port in ((legacy, "1"), (nft, "2")):
        iptc.Chain(table, "INPUT").append_rule(iptc.Rule.from_args(f"-p tcp --dport {port} -j ACCEPT"))
    assert LEGACY.rules() == ["-A INPUT -p tcp -m tcp --dport 1 -j ACCEPT"]
    assert NFT.rules() == ["-A INPUT -p tcp -m tcp --dport 2 -j ACCEPT"]


@pytest.mark.parametrize("side, ipv6", [(LEGACY, False), (LEGACY, True), (NFT, False), (NFT, True)])
@pytest.mark.parametrize(
    "change", ["-A OUTPUT -j ACCEPT", "-N web", "-P FORWARD DROP", "-t nat -A POSTROUTING -j MASQUERADE"]
)
def test_the_side_that_alone_holds_something(free, side, ipv6, change):
    other = NFT if side is LEGACY else LEGACY
    # tables without rules do not count
    other.iptables("-P INPUT ACCEPT")
    other.iptables("-t mangle -A INPUT -j ACCEPT")
    other.iptables("-t mangle -F")
    side.iptables(change, ipv6=ipv6)
    assert quietly() == side.backend


def test_kubelets_hint_decides_where_both_hold_rules(free):
    LEGACY.iptables("-A INPUT -j ACCEPT")
    NFT.iptables("-A INPUT -j ACCEPT")
    for side, chain in ((LEGACY, "KUBE-KUBELET-CANARY"), (NFT, "KUBE-IPTABLES-HINT")):
        side.iptables(f"-t mangle -N {chain}")
        backends._decided.clear()
        with pytest.warns(RuntimeWarning, match="tables hold rules too: this program uses " + side.backend):
            assert iptc.backend() == side.backend


def test_where_both_hold_rules_the_tools_decide_and_it_warns_once(free, tmp_path, monkeypatch):
    LEGACY.iptables("-A INPUT -j ACCEPT")
    NFT.iptables("-A INPUT -j ACCEPT", ipv6=True)
    tool(tmp_path, monkeypatch, "bin", link="xtables-legacy-multi")
    with pytest.warns(RuntimeWarning, match="nft tables hold rules too: this program uses legacy") as seen:
        assert iptc.Table("filter").backend == "legacy"
        assert iptc.backend() == "legacy" and iptc.CounterReader().backend == "legacy"
    assert len(seen) == 1


def test_it_does_not_warn_where_the_back_end_was_chosen(free, monkeypatch, capsys):
    from iptc import cli

    LEGACY.iptables("-A INPUT -j ACCEPT")
    NFT.iptables("-A INPUT -j DROP")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for choice in ("nft", "legacy"):
            monkeypatch.setenv("IPTC_BACKEND", choice)
            assert iptc.Table("filter").backend == choice
        monkeypatch.delenv("IPTC_BACKEND")
        assert iptc.Table("filter", backend="nft").backend == "nft"
    monkeypatch.setenv("IPTC_BACKEND", "")
    # without a back end, the command prints one line
    assert cli.main(["list", "INPUT"]) == 0
    said = capsys.readouterr().err
    assert (
        said.startswith("iptc: warning: ")
        and "tables hold rules too: this program uses " in said
        and said.count("\n") == 1
    )


@pytest.mark.parametrize("holding", [True, False])
@pytest.mark.parametrize(
    "link, says, expected",
    [
        ("xtables-nft-multi", None, "nft"),
        ("xtables-legacy-multi", None, "legacy"),
        (None, "iptables v1.8.9 (nf_tables)", "nft"),
        (None, "iptables v1.8.4 (legacy)", "legacy"),
        (None, "iptables v1.6.1", "legacy"),
        (None, "", "nft"),
        (None, None, "nft"),
    ],
)
def test_if_both_or_no_sides_have_rules_the_command_iptables_decides(
    free, tmp_path, monkeypatch, link, says, expected, holding
):
    """For both sides with rules, and for none. Without that command, the kernel decides."""
    monkeypatch.setattr(backends, "_SYSTEM_FOLDERS", ())
    if holding:
        LEGACY.iptables("-A INPUT -j ACCEPT")
        NFT.iptables("-A INPUT -j ACCEPT")
    tool(tmp_path, monkeypatch, "bin", link, says)
    if holding:
        with pytest.warns(RuntimeWarning, match="tables hold rules too: this program uses " + expected):
            assert iptc.backend() == expected
    else:
        assert quietly() == expected
        monkeypatch.undo()
        assert untouched()


def test_the_command_iptables_is_found_where_path_has_no_sbin(free, tmp_path, monkeypatch):
    tool(tmp_path, monkeypatch, "sbin", link="xtables-legacy-multi")
    monkeypatch.setattr(backends, "_SYSTEM_FOLDERS", (str(tmp_path / "sbin"),))
    tool(tmp_path, monkeypatch, "bin")
    assert quietly() == "legacy"


def test_deciding_and_looking_leave_no_trace(free):
    quietly()
    assert untouched()
    iptc.CounterReader(backend="nft").read()
    with pytest.raises(iptc.XTablesError):
        iptc.Rule().create_target("nowhere")
    assert untouched()


def test_the_back_end_is_found_out_for_each_namespace(free):
    NFT.iptables("-A INPUT -j ACCEPT")
    assert quietly() == "nft"
    other = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "iptables-legacy -A INPUT -c 3 4; echo ready; exec sleep 60"],
        stdout=subprocess.PIPE,
    )
    try:
        other.stdout.readline()
        other.stdout.close()
        assert iptc.Table("filter", netns=other.pid).backend == "legacy"
        with iptc.CounterReader(netns=other.pid) as reader:
            assert reader.backend == "legacy" and list(reader.read()) == [(3, 4)]
        assert iptc.Table("filter").backend == "nft"
    finally:
        other.kill()
        other.wait()


def test_without_privilege_deciding_is_quiet(free):
    code = "import os, iptc\nos.environ.pop('IPTC_BACKEND', None)\nprint(iptc.backend())"
    said = NFT.run("setpriv", "--bounding-set=-all", "--inh-caps=-all", os.sys.executable, "-W", "error", "-c", code)
    assert said in ("nft\n", "legacy\n")


def test_the_command_takes_the_back_end(free, capsys, monkeypatch):
    from iptc import cli

    # the command sets the variable; monkeypatch restores it after the test
    monkeypatch.setenv("IPTC_BACKEND", "legacy")
    LEGACY.iptables("-A INPUT -p tcp -j ACCEPT")
    NFT.iptables("-A INPUT -p udp -j ACCEPT")
    for side in (LEGACY, NFT):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            assert cli.main(["list", "--backend", side.backend, "INPUT"]) == 0
        assert capsys.readouterr().out.splitlines()[1:] == side.rules()
