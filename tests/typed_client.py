"""A program that uses every public class. `tests/test_types.py` lets a type checker look at it, and nothing runs it."""

from typing import Any, assert_type

import iptc
from iptc import (
    Chain,
    ChainCounters,
    Counters,
    Delta,
    Match,
    Policy,
    Rule,
    Rule6,
    RuleInfo,
    Snapshot,
    Table,
    Table6,
    Target,
)
from iptc.doctor.examine import examine, is_well
from iptc.doctor.finding import Finding
from iptc.ip4tc import IPTCModule
from iptc.watching.journal import Journal


def tables() -> None:
    table = iptc.Table(iptc.Table.FILTER, autocommit=False, wait=2.5, netns="blue", lock_file=False, backend="nft")
    assert_type(table, Table)
    assert_type(iptc.Table6("filter"), Table6)
    assert_type(table.name, str)
    assert_type(table.autocommit, bool)
    assert_type(table.backend, str)
    assert_type(table["INPUT"], Chain)
    assert_type("INPUT" in table, bool)
    assert_type(table.chains, list[Chain])
    assert_type(table.create_chain("web"), Chain)
    assert_type(table.ensure_chain("web"), bool)
    assert_type(table.is_chain("web"), bool)
    assert_type(table.first_rule("INPUT"), bytes | None)
    assert_type(table.save(counters=True), str)
    assert_type(table.restore(path="rules.v4", counters=True), int)
    assert_type(iptc.is_table_available("nat"), bool)
    assert_type(iptc.is_table6_available("nat"), bool)
    assert_type(iptc.backend(), str)
    policy, counters = table.get_policy("INPUT")
    assert_type(policy, Policy | None)
    assert_type(counters, Counters | None)
    table.set_policy("INPUT", "DROP", (0, 0))
    table.commit()
    table.refresh()
    table.close()


def chains(table: Table) -> None:
    chain = iptc.Chain(table, "INPUT")
    assert_type(chain, Chain)
    assert_type(chain.name, str)
    assert_type(chain.table, Table)
    assert_type(chain.rules, list[Rule])
    assert_type(chain.get_counters(), Counters | None)
    assert_type(chain.get_policy(), Policy | None)
    assert_type(chain.is_builtin(), bool)
    rule = iptc.Rule.from_args("-p tcp --dport 22 -j ACCEPT")
    assert_type(rule, Rule)
    chain.append_rule(rule)
    chain.insert_rule(rule, position=0)
    chain.replace_rule(rule, 0)
    assert_type(chain.has_rule(rule), bool)
    assert_type(rule in chain, bool)
    assert_type(chain.ensure_rule(rule), bool)
    assert_type(chain.delete_rule(rule, missing_ok=True), bool)
    assert_type(chain.delete_rules(comment="old"), int)
    assert_type(chain.delete_rules(lambda one: one.protocol == "udp"), int)
    chain.set_policy(iptc.Policy("DROP"))
    chain.zero_counters()
    chain.flush()


def rules() -> None:
    rule = iptc.Rule()
    rule.src = "10.0.0.0/8"
    rule.protocol = 6
    rule.in_interface = None
    rule.fragment = "!"
    attributes(rule)
    six = iptc.Rule6.from_args(["-j", "DROP"])
    assert_type(six, Rule6)


def attributes(rule: Rule) -> None:
    assert_type(rule.src, str)
    assert_type(rule.dst, str)
    assert_type(rule.in_interface, str | None)
    assert_type(rule.out_interface, str | None)
    assert_type(rule.protocol, str)
    assert_type(rule.fragment, bool | str)
    assert_type(rule.matches, list[Match])
    assert_type(rule.target, Target | None)
    assert_type(rule.to_args(), list[str])
    assert_type(rule.expand(), list[Rule])
    assert_type(rule.tables, list[Table])
    assert_type(rule.rule, bytes | None)
    assert_type(rule.chain, Chain | None)
    assert_type(rule.get_counters(), Counters)
    assert_type(rule.counters.packets + rule.get_counters().bytes, int)
    rule.counters = 1, 100


def extensions(rule: Rule) -> None:
    match = rule.create_match("tcp")
    assert_type(match, Match)
    match.dport = "!80"
    match.tcp_flags = ["SYN,ACK", "SYN"]
    assert_type(match.sport, str | list[str] | None)
    assert_type(match.name, str)
    assert_type(match.parameters, dict[str, str | list[str]])
    assert_type(match.get_all_parameters(), dict[str, list[str]])
    assert_type(match.save("dport"), str | list[str] | None)
    assert_type(match.opaque, bool)
    target = rule.create_target("REJECT")
    assert_type(target, Target)
    target.reject_with = "tcp-reset"
    assert_type(target.log_prefix, str | list[str] | None)
    assert_type(target.goto, bool)
    assert_type(target.standard_target, str)
    rule.target = iptc.Target(rule, "ACCEPT")
    rule.add_match(iptc.Match(rule, "comment"))
    both: list[IPTCModule] = [match, target]
    for part in both:
        assert_type(part.name, str)


def transactions(table: Table, other: Table6) -> None:
    with iptc.transaction(table, other, wait=1) as outcome:
        assert_type(outcome, iptc.Outcome)
    assert_type(outcome.changed, bool)
    assert_type(table.transaction(), iptc.Transaction)


def counters() -> None:
    with iptc.CounterReader("filter", ipv6=True, lock=0.5) as reader:
        snapshot = reader.read()
        delta = reader.read().since(snapshot)
        fds = reader.fds()
    assert_type(fds, list[int])
    assert_type(iptc.CounterReader.from_fds(fds).source_reason, str)
    assert_type(snapshot, Snapshot)
    assert_type(delta, Delta)
    assert_type(snapshot[0], Counters)
    assert_type(snapshot[0].packets, int)
    assert_type(snapshot[:2], list[tuple[int, int]])
    assert_type(snapshot["INPUT"], ChainCounters)
    assert_type(snapshot["INPUT"][0], Counters)
    assert_type(snapshot["INPUT"].sum(), Counters)
    assert_type(snapshot["INPUT"].policy, str | None)
    assert_type(snapshot["INPUT"].policy_counters, Counters | None)
    assert_type(snapshot.as_dict(), dict[str, list[tuple[int, int]]])
    assert_type(snapshot.chains, list[ChainCounters])
    assert_type(snapshot.rules, tuple[RuleInfo, ...])
    assert_type(snapshot.rules[0].text, str)
    assert_type(snapshot.rules[0].comment, str | None)
    assert_type(snapshot.rules[0].rule, Rule)
    assert_type(snapshot.time, tuple[float, float])
    for packets, size in snapshot:
        assert_type(packets + size, int)
    assert_type(delta[0], Counters)
    assert_type(delta["INPUT"], list[tuple[int, int]])
    assert_type(delta.seconds, float)
    assert_type(delta.rates, list[tuple[float, float]])
    assert_type(delta.resets, list[int])


def samples() -> None:
    with iptc.Sampler(0.5, ["filter"], netns="blue", ipv6=False, backend="nft", source="auto") as sampler:
        assert_type(iter(sampler), iptc.Samples)
        assert_type(next(sampler), iptc.Sample)
        for sample in sampler:
            assert_type(sample, iptc.Sample)
            assert_type(sample.tables, tuple[iptc.TableSample, ...])
            assert_type(sample["filter", True].delta, Delta)
            assert_type(sample["filter"].rates, list[tuple[float, float]])
            assert_type(sample.seconds, float)
            assert_type(sample.polls, int)
            for rule, packets, size in sample["filter"]:
                assert_type(rule, RuleInfo)
                assert_type(packets + size, float)
            for event in sample.events:
                assert_type(event, iptc.Event)
                assert_type(event.rule, RuleInfo | None)
                assert_type(event.position, int | None)


async def asynchronous_samples() -> None:
    async for sample in iptc.Sampler():
        assert_type(sample, iptc.Sample)
    assert_type(await anext(iptc.Sampler()), iptc.Sample)


def rulesets() -> None:
    assert_type(iptc.save(ipv6=True, table="nat"), str)
    assert_type(iptc.restore("*filter\nCOMMIT\n", flush=False, progress=print), int)
    assert_type(iptc.check(path="rules.v4"), int)
    live = iptc.Ruleset.live()
    assert_type(live, iptc.Ruleset)
    wanted = iptc.Ruleset.built({"filter": {"INPUT": ["-j ACCEPT", iptc.Rule()]}}, {("filter", "INPUT"): "DROP"})
    assert_type(wanted, iptc.Ruleset)
    assert_type(iptc.Ruleset.read("rules.v4").text(), str)
    assert_type(live[4, "filter"]["INPUT"].rules, list[str])
    assert_type(live | wanted, iptc.Ruleset)
    difference = iptc.diff(live, wanted)
    assert_type(difference, iptc.Difference)
    for change in difference:
        assert_type(change, iptc.Change)
        assert_type(change.number, int | None)
        assert_type(change.rule, str | None)
    assert_type(difference.text(), str)
    plan = iptc.plan(wanted, only="filter", keep=["DOCKER*"])
    assert_type(plan, iptc.Plan)
    assert_type(plan.difference, iptc.Difference)
    assert_type(iptc.apply(plan, wait=5), iptc.Plan)
    with iptc.safe_apply(wanted, timeout=10, check="ping -c 1 192.0.2.1") as pending:
        assert_type(pending, iptc.Pending)
        assert_type(pending.seconds_left, float)


def dicts() -> None:
    assert_type(iptc.easy.dump_chain("filter", "INPUT"), list[dict[str, Any]])
    assert_type(iptc.easy.encode_iptc_rule({"protocol": "tcp", "tcp": {"dport": 22}, "target": "ACCEPT"}), Rule)
    assert_type(iptc.easy.decode_iptc_rule(iptc.Rule()), dict[str, Any])
    assert_type(iptc.easy.has_chain("filter", "web"), bool)
    assert_type(iptc.easy.get_tables(), list[str])
    iptc.easy.add_rule("filter", "INPUT", {"target": "ACCEPT"}, position=1)


def errors(table: Table) -> None:
    try:
        table["web"].delete()
    except iptc.NotFound as error:
        assert_type(error, iptc.NotFound)
        assert_type(error.errno, int | None)
        assert_type(error.line, int | None)
        assert_type(error.status, int)
        as_key_error: KeyError = error
        raise as_key_error from None
    except iptc.LockTimeout as error:
        assert_type(error, iptc.LockTimeout)
        assert_type(error.holders, list[tuple[int, str]])
    except iptc.PartialCommit as error:
        assert_type(error, iptc.PartialCommit)
        assert_type(error.committed, list[str])
    except iptc.AccessDenied as error:
        assert_type(error, iptc.AccessDenied)
    except iptc.Conflict as error:
        assert_type(error, iptc.Conflict)
    except iptc.OutOfMemory as error:
        assert_type(error, iptc.OutOfMemory)
    except iptc.RolledBack as error:
        assert_type(error, iptc.RolledBack)
    except iptc.TransactionError as error:
        assert_type(error, iptc.TransactionError)
    except iptc.Missing as error:
        assert_type(error, iptc.Missing)
    except iptc.ParameterTypeError as error:
        assert_type(error, iptc.ParameterTypeError)
    except iptc.ParameterError as error:
        assert_type(error, iptc.ParameterError)
    except iptc.XTablesError as error:
        assert_type(error, iptc.XTablesError)
    except iptc.Unsupported as error:
        assert_type(error, iptc.Unsupported)
    except iptc.KernelError as error:
        assert_type(error, iptc.KernelError)
    except iptc.IPTCError as error:
        assert_type(error, iptc.IPTCError)
        assert_type(str(error), str)
    warning: type[UserWarning] = iptc.XTablesWarning
    assert_type(iptc.XTablesWarning("text"), iptc.XTablesWarning)
    assert_type(iptc.__version__, str)
    assert_type(iptc.version.__version__, str)
    print(warning, iptc.xtables.NFPROTO_IPV4)


def owned() -> None:
    web = iptc.Owned("web", comment="kept by web", netns="blue")
    assert_type(web, iptc.Owned)
    web.set("filter", "INPUT", ["-j ACCEPT", Rule(), ["-j", "DROP"]], place="before", anchor="comment:x", family="both")
    assert_type(web.plan(), iptc.Plan)
    assert_type(web.apply(wait=1.0), iptc.Plan)
    assert_type(web.remove(), iptc.Plan)
    assert_type(web.rules, list[Rule])
    with web.guard(limit=(5, 1.0), callback=print) as guard:
        assert_type(guard, iptc.Guard)
        assert_type(guard.heals, int)


def told(heal: iptc.Heal) -> None:
    assert_type(heal, iptc.Heal)
    assert_type(heal.pause, float)
    assert_type(heal.plan, iptc.Plan | None)


def benches() -> None:
    with iptc.Bench("rules.v4", {"eth0": "203.0.113.1/24"}, routes=["default via 203.0.113.2"], backend="nft") as bench:
        assert_type(bench, iptc.Bench)
        verdict = bench.send("eth0", src="198.51.100.9", tcp=22, flags="SYN")
        assert_type(verdict, iptc.Verdict)
        assert_type(verdict.verdict, str)
        assert_type(verdict.rule, Rule | None)
        assert_type(verdict.out, list[iptc.Left])
        assert_type(verdict.out[0].sport, int | None)
        flow = bench.flow("eth0", tcp=22)
        assert_type(flow, iptc.Flow)
        assert_type(flow.answer(b"well?"), iptc.Verdict)


def watching() -> None:
    with iptc.watch("nft", compare=5) as changes:
        assert_type(changes, iptc.Watch)
        for change in changes:
            assert_type(change, iptc.TableChange)
            assert_type(change.added, list[iptc.Change])
            assert_type(change.when, float)
            if change.by is not None:
                assert_type(change.by.pid, int)
        assert_type(changes.wait(1.0), list[iptc.TableChange])


def kept(folder: str) -> None:
    with iptc.watch() as changes, Journal(folder, files=10) as journal:
        assert_type(journal, Journal)
        assert_type(journal.begin(changes.rulesets()), bool)
        journal.write(changes.wait(), changes.rulesets())


def examined() -> None:
    side, findings = examine("blue", texts=[(False, b"*filter\nCOMMIT\n")])
    assert_type(side, str | None)
    assert_type(findings, list[Finding])
    assert_type(is_well(findings), bool)


def old_import_paths() -> None:
    assert_type(iptc.ip4tc.Table("filter"), Table)
    assert_type(iptc.ip6tc.Table6("filter"), Table6)
    iptc.util.load_kernel("ip_tables", exc_if_failed=True)


def tracing() -> None:
    with iptc.Trace("-p tcp --dport 22", netns="blue", backend="nft", limit=None) as trace:
        assert_type(trace, iptc.Trace)
        assert_type(trace.lost, int)
        for packet in trace:
            assert_type(packet, iptc.Packet)
            assert_type(packet.rule, Rule | None)
            assert_type(packet.path, list[iptc.Step])
            assert_type([step.verdict for step in packet.path], list[str | None])
        assert_type(trace.wait(1.0), list[iptc.Packet])
