"""Measures what a fresh process takes over a bare Python until it has read the counters of a table, or made a rule."""

from harness import Command, interleave
from report import Table, number, ratio

OURS = "iptc"

# what -> code, the most that it may take over bare Python in ms
READ = 'import iptc; iptc.CounterReader("filter").read()', 6
DOING = {
    "legacy": {
        "`iptc.CounterReader` looked up": ("import iptc; iptc.CounterReader", None),
        "counters read, legacy": READ,
        "a rule made": ('import iptc; iptc.Rule.from_args("-p tcp --dport 22 -j ACCEPT")', 9),
    },
    "nft": {"counters read, nf_tables": READ},
}
# only one back end has rules, which says that it is in use
PREPARING = """
import iptc
for name in ("legacy", "nft"):
    for table in ("raw", "mangle", "nat", "filter"):
        iptc.Table(table, backend=name).flush()
    chain = iptc.Chain(iptc.Table("filter", backend=name), "INPUT")
    if name == {backend!r}:
        chain.append_rule(iptc.Rule.from_args("-j ACCEPT"))
"""


def measure_starts(bench):
    rows = []
    for backend, doing in DOING.items():

        def process(code):
            python, path = bench.python[OURS]
            command = Command(python, "-c", code, path=path)
            command.environment.pop("IPTC_BACKEND", None)
            return command.run

        samplers = {"bare": process("pass")} | {what: process(code) for what, (code, _) in doing.items()}
        process(PREPARING.format(backend=backend))()
        for sample in samplers.values():
            sample()  # so that what Python compiles is compiled
        ns = bench.keep(f"starts, {backend}", interleave(samplers, 2 * bench.rounds, bench.patience))
        for what, (_, most) in doing.items():
            over = ns[what] - ns["bare"]
            rows.append([what, number(over / 1e6), ratio(over, ns["bare"])])
            if most:
                met = over <= most * 1e6
                bench.goal(f"a fresh process: {what}, over bare Python", f"≤ {most} ms", f"{over / 1e6:.1f} ms", met)
    yield Table(
        "Fresh processes",
        "The time of a new process `python -c …`, minus that of `python -c pass` with the same interpreter. iptc finds out"
        " which back end is in use. The table exists already: otherwise the kernel creates it at the first request, which"
        " can take a quarter of a second. The requests themselves take 0.03 ms in the kernel.",
        ["", "ms over bare Python", "to bare Python's own start"],
        rows,
    )
