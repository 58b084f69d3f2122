"""A plugin for collectd's Python plugin: the counters of all rules that have a comment.

Each value is named as by collectd's own plugin for iptables: plugin `iptables`, instance TABLE-CHAIN (ip6tables for
IPv6), types `ipt_packets` and `ipt_bytes`, the comment as their instance. Rules of a chain with the same comment are
summed.

    LoadPlugin python
    <Plugin python>
      ModulePath "/usr/local/lib/collectd"
      Import "iptc_collectd"
      <Module iptc_collectd>
        Table "filter" "nat"
        IPv6 true
        Source "auto"
      </Module>
    </Plugin>
"""

import collectd

import iptc

_tables = []


class _Table:
    """One table, and what its rules are called."""

    def __init__(self, name, ipv6, source):
        self.reader = iptc.CounterReader(name, ipv6, source=source)
        self.plugin = "ip6tables" if ipv6 else "iptables"
        self.name = name
        self.generation = None
        self.names = []

    def read(self):
        """Give collectd the counters of now."""
        snapshot = self.reader.read()
        if snapshot.generation != self.generation:
            self.names = [(rule.slot, rule.chain, rule.comment) for rule in snapshot.rules if rule.comment]
            self.generation = snapshot.generation
        sums = {}
        for slot, chain, comment in self.names:
            packets, size = sums.get((chain, comment), (0, 0))
            more_packets, more_size = snapshot[slot]
            sums[chain, comment] = packets + more_packets, size + more_size
        for (chain, comment), counted in sums.items():
            # a slash would end the name
            instance = comment.replace("/", "_").encode("utf-8", "replace").decode()
            for kind, value in zip(("ipt_packets", "ipt_bytes"), counted):
                values = collectd.Values(type=kind, plugin=self.plugin, type_instance=instance)
                values.plugin_instance = f"{self.name}-{chain}"
                values.dispatch(values=[value])


def configure(config):
    """Read `Table NAME…`, `IPv6 true`, and `Source` socket, bpf or auto: how counters are read (socket)."""
    names, ipv6, source = ["filter"], False, "socket"
    for child in config.children:
        if child.key == "Table":
            names = child.values
        elif child.key == "IPv6":
            ipv6 = bool(child.values[0])
        elif child.key == "Source":
            source = child.values[0]
        else:
            raise ValueError(f"iptc_collectd: there is no option {child.key}")
    _tables.extend(_Table(name, family, source) for name in names for family in ([False, True] if ipv6 else [False]))


def read():
    """Called by collectd at each interval."""
    for table in _tables:
        table.read()


collectd.register_config(configure)
collectd.register_read(read)
