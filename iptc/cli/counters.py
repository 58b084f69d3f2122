"""`iptc counters`: print the packet and byte counters of a table, once or again and again."""

import time

from ..errors import IPTCError
from .arguments import add_command, add_wait, positive, seconds
from .output import write


def add(commands):
    """Describe the command."""
    counters = add_command(
        commands,
        "counters",
        run,
        help="packet and byte counters of a table",
        description="Print the packet and byte counters of one table; with --interval again and again, "
        "with what was added.",
    )
    counters.add_argument("-t", "--table", default="filter", help="table (filter)")
    counters.add_argument(
        "--chain", action="append", metavar="NAME", help="only this chain; may be given several times"
    )
    counters.add_argument("--format", choices=["table", "json"], default="table", help="json: one object a line")
    counters.add_argument("--interval", type=seconds, metavar="SECONDS", help="repeat, this far apart")
    counters.add_argument("--count", type=positive, metavar="N", help="with --interval: end after N times")
    add_wait(counters, False, "read under the xtables lock, so that no commit is seen half done")


def run(options):
    """Print the counters that *options* say."""
    from ..counters import CounterReader

    show = _as_json if options.format == "json" else _as_table
    previous = None
    done = 0
    with CounterReader(options.table, options.family == "6", netns=options.netns, lock=options.wait) as reader:
        due = time.monotonic()
        while True:
            snapshot = reader.read()
            write(show(options, snapshot, previous) + "\n")
            done += 1
            if options.interval is None or done == options.count:
                return 0
            previous = snapshot
            due += options.interval
            time.sleep(max(0, due - time.monotonic()))


def _chosen(options, snapshot):
    """The chains that were asked for."""
    if not options.chain:
        return snapshot.chains
    chains = []
    for name in options.chain:
        try:
            chains.append(snapshot[name])
        except KeyError:
            raise IPTCError(f"table {options.table} has no chain {name}") from None
    return chains


def _rows(options, snapshot, previous):
    """(chain, [(packets, bytes, added packets, added bytes, rule)]) for each chain."""
    delta = None if previous is None else snapshot.since(previous)
    rules = snapshot.rules
    for chain in _chosen(options, snapshot):
        added = [(None, None)] * len(chain) if delta is None else delta[chain.name]
        yield chain, [(*now, *more, rules[slot]) for now, more, slot in zip(chain, added, chain.slots)]


def _as_table(options, snapshot, previous):
    lines = []
    for chain, rows in _rows(options, snapshot, previous):
        title = f"Chain {chain.name}"
        if chain.policy is not None:
            title += f" (policy {chain.policy} {chain.policy_counters[0]} packets, {chain.policy_counters[1]} bytes)"
        lines.append(title)
        heads = ["pkts", "bytes"] if previous is None else ["pkts", "bytes", "+pkts", "+bytes"]
        cells = [[str(n) for n in row[: len(heads)]] for row in rows]
        widths = [max(8, len(head), *(len(row[i]) for row in cells)) for i, head in enumerate(heads)]
        lines.append(" ".join(head.rjust(width) for head, width in zip(heads, widths)) + " rule")
        for row, (*_, rule) in zip(cells, rows):
            lines.append(" ".join(cell.rjust(width) for cell, width in zip(row, widths)) + f" {rule.text}".rstrip())
        lines.append("")
    return "\n".join(lines)


def _as_json(options, snapshot, previous):
    import json

    chains = []
    for chain, rows in _rows(options, snapshot, previous):
        described = {"name": chain.name, "policy": chain.policy}
        if chain.policy is not None:
            described["packets"], described["bytes"] = chain.policy_counters
        described["rules"] = []
        for packets, size, more_packets, more_bytes, rule in rows:
            one = {"packets": packets, "bytes": size, "rule": rule.text, "target": rule.target, "comment": rule.comment}
            if previous is not None:
                one["added_packets"], one["added_bytes"] = more_packets, more_bytes
            described["rules"].append(one)
        chains.append(described)
    return json.dumps(
        {
            "table": options.table,
            "ip_version": 6 if options.family == "6" else 4,
            "time": snapshot.time[1],
            "generation": snapshot.generation,
            "chains": chains,
        }
    )
