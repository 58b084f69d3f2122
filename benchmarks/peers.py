"""Other Python programs that read the counters of nf_tables: with the module of libnftables, and with pyroute2. Each is a
process of its own. See `harness.Worker` for the lines that it reads and writes."""

import json
import sys
from time import perf_counter_ns as now
from time import process_time_ns as spent


class Nft:
    """`nft -j list table` through libnftables, and its JSON parsed, as its module's users do it."""

    def __init__(self):
        import nftables

        self.nft = nftables.Nftables()
        self.nft.set_json_output(True)

    def rules(self):
        status, text, said = self.nft.cmd("list table ip filter")
        if status:
            raise SystemExit(said)
        return [
            (part["counter"]["packets"], part["counter"]["bytes"])
            for thing in json.loads(text)["nftables"]
            if "rule" in thing
            for part in thing["rule"]["expr"]
            if "counter" in part and isinstance(part["counter"], dict)
        ]


class Pyroute2:
    """A dump of all rules of the family. Only the rules of the table are counted."""

    def __init__(self):
        try:
            from pyroute2.nftables.main import NFTables
        except ImportError:
            from pyroute2 import NFTables
        self.nft = NFTables(nfgen_family=2)

    def rules(self):
        found = []
        for rule in self.nft.get_rules():
            if rule.get_attr("NFTA_RULE_TABLE") != "filter":
                continue
            for part in rule.get_attr("NFTA_RULE_EXPRESSIONS"):
                if part.get_attr("NFTA_EXPR_NAME") == "counter":
                    data = part.get_attr("NFTA_EXPR_DATA")
                    found.append((data.get_attr("NFTA_COUNTER_PACKETS"), data.get_attr("NFTA_COUNTER_BYTES")))
        return found


def main():
    kinds, made = {"nft": Nft, "pyroute2": Pyroute2}, {}
    if sys.argv[1:2] == ["--try"]:
        kinds[sys.argv[2]]()
        return
    for line in sys.stdin:
        verb, name, number = line.split()
        if name not in made:
            made[name] = kinds[name]()
        if verb == "totals":
            rules = made[name].rules()
            answer = {"packets": sum(packets for packets, _ in rules), "bytes": sum(size for _, size in rules)}
        else:
            best, end = None, now() + int(number) * 1_000_000
            while best is None or now() < end:
                # they take so long that other processes run in between, so the processor time is measured
                started = spent()
                made[name].rules()
                best = min(spent() - started, best or 1 << 62)
            answer = {"ns": best}
        print(json.dumps(answer), flush=True)


main()
