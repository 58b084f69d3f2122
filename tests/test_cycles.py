"""A call that fails leaves no garbage that only the garbage collector finds."""

import contextlib
import gc

import pytest

import iptc

FEW = 20


class Stopped(Exception):
    """An exception that a program raises inside a transaction."""


def rule(text="-s 10.1.1.1/32 -j ACCEPT"):
    return iptc.Rule.from_args(text)


def in_transaction(table, *edits):
    with table.transaction():
        for edit in edits:
            edit()


def stop(table):
    with table.transaction():
        table.create_chain("never")
        raise Stopped


def together(table):
    with iptc.transaction(table, iptc.Table("mangle")):
        iptc.Chain(table, "nope").append_rule(rule())


def failing(table, chain, tmp_path):
    """Return {name: call} of public calls that raise."""
    missing = iptc.Chain(table, "nope")
    table6 = iptc.Table6("filter")
    text = tmp_path / "rules"
    text.write_text("*filter\n-A nope -j ACCEPT\nCOMMIT\n")

    def name(function):
        return lambda: getattr(iptc.easy, function)("filter", "nope")

    yield "append", lambda: missing.append_rule(rule())
    yield (
        "append, refused by the kernel",
        lambda: chain.append_rule(rule("-p tcp -m tcp --dport 1 -j REJECT --reject-with tcp-reset -g x")),
    )
    yield "append, refused at the commit", lambda: chain.append_rule(rule("-j MASQUERADE"))
    yield "insert", lambda: chain.insert_rule(rule(), 99)
    yield "replace", lambda: chain.replace_rule(rule(), 99)
    yield "delete", lambda: chain.delete_rule(rule())
    yield "delete by number", lambda: chain.delete_rule_at(99)
    yield "delete_rules", lambda: missing.delete_rules(comment="x")
    yield "delete_rules, function", lambda: chain.delete_rules(lambda rule: 1 / 0)
    yield "ensure", lambda: missing.ensure_rule(rule())
    yield "another family", lambda: chain.append_rule(iptc.Rule6())
    yield "without target", lambda: chain.append_rule(iptc.Rule())
    yield "flush", missing.flush
    yield "zero", missing.zero_counters
    yield "create", lambda: table.create_chain("web")
    yield "create, name", lambda: table.create_chain("-x")
    yield "delete builtin", lambda: table.delete_chain("INPUT")
    yield "delete in use", lambda: table.delete_chain("web")
    yield "delete chain", missing.delete
    yield "rename", lambda: missing.rename("other")
    yield "rename, taken", lambda: iptc.Chain(table, "web").rename("INPUT")
    yield "policy", lambda: iptc.Chain(table, "web").set_policy("DROP")
    yield "policy, name", lambda: chain.set_policy("NOPE")
    yield "get_target", lambda: chain.get_target(iptc.Rule())
    yield "transaction", lambda: in_transaction(table, missing.flush)
    yield (
        "transaction, kernel",
        lambda: in_transaction(table, lambda: table.create_chain("a"), lambda: table.delete_chain("a"), missing.flush),
    )
    yield "transaction, stopped", lambda: stop(table)
    yield "transaction of two", lambda: together(table)
    yield "transaction in another", lambda: in_transaction(table, lambda: in_transaction(table))
    yield "restore", lambda: iptc.restore("*filter\n-A nope -j ACCEPT\nCOMMIT\n")
    yield "restore, word", lambda: iptc.restore("*filter\n-A INPUT --nope\nCOMMIT\n")
    yield "restore, table", lambda: iptc.restore("*nope\nCOMMIT\n")
    yield "restore, end", lambda: iptc.restore("*filter\n:web - [0:0]\n")
    yield "restore, file", lambda: iptc.restore(text)
    yield "restore, no file", lambda: iptc.restore(tmp_path / "none")
    yield "restore, test", lambda: iptc.restore("*filter\n-X INPUT\nCOMMIT\n", test=True)
    yield "restore of a table", lambda: table.restore("*filter\n-D INPUT 99\nCOMMIT\n")
    yield "table", lambda: iptc.Table("nope")
    yield "table, netns", lambda: iptc.Table("filter", netns="no-such-namespace")
    yield "table, pid", lambda: iptc.Table("filter", netns=2**22 + 1)
    yield "table, back end", lambda: iptc.Table("filter", backend="nope")
    yield "reader", lambda: iptc.CounterReader("nope")
    yield "reader, netns", lambda: iptc.CounterReader("filter", netns="no-such-namespace")
    yield "save, netns", lambda: iptc.save(netns="no-such-namespace")
    yield "table6", lambda: table6.delete_chain("nope")
    yield "from_args", lambda: rule("-p tcp --dport nope -j ACCEPT")
    yield "match", lambda: iptc.Rule().create_match("nope")
    yield "target", lambda: iptc.Rule().create_target("NOPE")
    yield "parameter", lambda: setattr(iptc.Rule().create_match("mark"), "mark", "nope")
    yield "attribute", lambda: setattr(iptc.Rule(), "src", "nope")
    yield "protocol", lambda: setattr(iptc.Rule(), "protocol", "nope")
    yield "interface", lambda: setattr(iptc.Rule(), "in_interface", "x" * 40)
    for function in "flush_chain", "dump_chain", "delete_chain", "get_policy", "zero_chain", "get_rule":
        yield f"easy.{function}", name(function)
    yield "easy.add_rule", lambda: iptc.easy.add_rule("filter", "nope", {"target": "ACCEPT"})
    yield "easy.add_rule, dict", lambda: iptc.easy.add_rule("filter", "INPUT", {"target": {"ACCEPT": 1}})
    yield (
        "easy.replace_rule",
        lambda: iptc.easy.replace_rule("filter", "INPUT", {"target": "DROP"}, {"target": "ACCEPT"}),
    )
    yield "easy.delete_rule", lambda: iptc.easy.delete_rule("filter", "INPUT", {"target": "DROP"})
    yield "easy.batch", lambda: iptc.easy.batch_delete_rules("filter", [("nope", {"target": "DROP"})])
    yield "easy.dump_table", lambda: iptc.easy.dump_table("nope")


def test_failing_calls_make_no_cycles(host, tmp_path):
    host.restore("*filter\n:web - [0:0]\n-A FORWARD -j web\n-A INPUT -s 10.9.9.9/32 -j ACCEPT\nCOMMIT\n")
    table = iptc.Table("filter")
    chain = iptc.Chain(table, "INPUT")
    found = {}
    gc.collect()
    gc.disable()
    # what exists already need not be searched each time
    gc.freeze()
    try:
        for name, call in failing(table, chain, tmp_path):
            for repeat in (1, FEW):
                for _ in range(repeat):
                    with contextlib.suppress(Exception):
                        call()
                        pytest.fail(f"{name} does not raise")
                # the first call may load and store something
                garbage = gc.collect()
            if garbage:
                found[name] = garbage / FEW
    finally:
        gc.unfreeze()
        gc.enable()
    assert found == {}
