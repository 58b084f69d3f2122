"""A grammar of rules that iptables accepts, and of files: hypothesis strategies, from options to whole tables."""

import functools
import ipaddress

from hypothesis import strategies as st

byte = st.integers(0, 255)
port = st.integers(0, 65535)
word = st.integers(0, 2**32 - 1)
number = st.integers(0, 2**64 - 1)


def either(*choices):
    """Return a strategy for one of the words."""
    return st.sampled_from(choices)


def listed(*choices, largest=None):
    """Return a strategy for some of the words, separated by commas."""
    return st.lists(st.sampled_from(choices), min_size=1, max_size=largest or len(choices), unique=True).map(",".join)


def span(values):
    """Return a strategy for a number or a range."""
    pairs = st.tuples(values, values).map(sorted)
    return st.one_of(values.map(str), pairs.map(lambda pair: f"{pair[0]}:{pair[1]}"))


def option(name, values=None, invertible=False):
    """Return a strategy for `--name value`, with or without `!` before it and `=` in it."""
    signs = either("", "", "! ") if invertible else st.just("")
    if values is None:
        return signs.map(lambda sign: f"{sign}--{name}")
    return st.tuples(signs, either(" ", " ", "="), values.map(str)).map(
        lambda made: f"{made[0]}--{name}{made[1]}{made[2]}"
    )


def some(*options):
    """Return a strategy for one or several of the options, in any order."""
    return st.lists(st.sampled_from(range(len(options))), min_size=1, max_size=len(options), unique=True).flatmap(
        lambda chosen: st.tuples(*(options[index] for index in chosen)).map(" ".join)
    )


def maybe(strategy):
    """Return a strategy for the part or nothing."""
    return st.one_of(st.just(""), strategy)


def of(name, *parts):
    """Return a strategy for `-m name` with options."""
    return st.tuples(*parts).map(lambda made: " ".join([f"-m {name}", *filter(None, made)]))


text = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs",)), min_size=1, max_size=60
)
quoted = text.map(lambda value: '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"')
mark = st.one_of(word.map(str), word.map(hex), st.tuples(word, word).map(lambda pair: f"{pair[0]:#x}/{pair[1]:#x}"))
ports = st.tuples(maybe(option("sport", span(port), True)), maybe(option("dport", span(port), True))).map(" ".join)
interface = st.from_regex(r"[a-z]{1,7}[0-9]{0,3}(\.[0-9]{1,2})?\+?", fullmatch=True)
flags = listed("SYN", "ACK", "FIN", "RST", "URG", "PSH")


def address(ipv6):
    """Return a strategy for addresses with masks in every notation."""
    bits = 128 if ipv6 else 32
    kind = ipaddress.IPv6Address if ipv6 else ipaddress.IPv4Address
    host = st.integers(0, 2**bits - 1).map(lambda value: str(kind(value)))
    return st.one_of(
        host,
        st.tuples(host, st.integers(0, bits)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
        st.tuples(host, host).map("/".join),
    )


def matches(ipv6):
    """Return a strategy for matches that need no protocol."""
    return st.one_of(*matches_of_packets(ipv6), *matches_of_connections(ipv6), *matches_of_times())


def matches_of_packets(ipv6):
    """Return strategies for matches of what a packet has."""
    shared = [
        of("comment", option("comment", quoted)),
        of("mark", option("mark", mark, True)),
        of("length", option("length", span(port), True)),
        of("pkttype", option("pkt-type", either("unicast", "broadcast", "multicast"), True)),
        of("addrtype", option("src-type", listed("LOCAL", "UNICAST", "MULTICAST", largest=2), True)),
        of("devgroup", option("src-group", mark, True)),
        of(
            "string",
            option(
                "string", st.from_regex(r"[A-Za-z0-9/ ]{1,60}", fullmatch=True).map(lambda value: f'"{value}"'), True
            ),
            option("algo", either("bm", "kmp")),
            maybe(option("from", st.integers(0, 100))),
            maybe(option("to", st.integers(100, 65535))),
            maybe(option("icase")),
        ),
        of(
            "u32",
            option(
                "u32",
                st.tuples(word, word, word, word).map(
                    lambda v: f'"{v[0]:#x}>>{v[1] % 32}&{v[2]:#x}={min(v[2:]):#x}:{max(v[2:]):#x}"'
                ),
                True,
            ),
        ),
        of("dscp", option("dscp", st.integers(0, 63).map(hex), True)),
        of("tos", option("tos", st.tuples(byte, byte).map(lambda pair: f"{pair[0]:#x}/{pair[1]:#x}"), True)),
        of("physdev", option("physdev-in", interface, True)),
    ]
    own = (
        [
            of("hl", option("hl-eq", byte, True)),
            of("frag", option("fragid", span(word), True), maybe(option("fragres"))),
            of("rt", option("rt-type", byte, True), maybe(option("rt-segsleft", span(word), True))),
        ]
        if ipv6
        else [of("ttl", option("ttl-eq", byte, True)), of("realm", option("realm", mark, True))]
    )
    return shared + own


def matches_of_connections(ipv6):
    """Return strategies for matches of what connection tracking knows."""
    return [
        of("connmark", option("mark", mark, True)),
        of("state", option("state", listed("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"), True)),
        of(
            "conntrack",
            some(
                option(
                    "ctstate", listed("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", "SNAT", "DNAT"), True
                ),
                option("ctproto", st.integers(1, 255), True),
                option("ctexpire", span(word), True),
                option("ctorigsrc", address(ipv6), True),
                option("ctrepldst", address(ipv6), True),
                option("ctorigsrcport", span(port), True),
                option("ctstatus", listed("EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED"), True),
                option("ctdir", either("ORIGINAL", "REPLY")),
            ),
        ),
        of("helper", option("helper", either("ftp", "sip", "tftp"), True)),
        of(
            "connbytes",
            option("connbytes", st.tuples(number, number).map(sorted).map(lambda pair: f"{pair[0]}:{pair[1]}"), True),
            option("connbytes-dir", either("original", "reply", "both")),
            option("connbytes-mode", either("packets", "bytes", "avgpkt")),
        ),
    ]


def matches_of_times():
    """Return strategies for matches of when, and how often, packets come."""
    return [
        of(
            "limit",
            option(
                "limit",
                st.tuples(
                    st.integers(1, 10000), either("s", "sec", "second", "m", "minute", "h", "hour", "d", "day")
                ).map(lambda pair: f"{pair[0]}/{pair[1]}"),
            ),
            option("limit-burst", st.integers(1, 40)),
        ),
        of("cpu", option("cpu", word, True)),
        of("quota", option("quota", number, True)),
        of(
            "statistic",
            option("mode", st.just("random")),
            option("probability", st.integers(0, 2**31).map(lambda value: f"{value / 2**31:.11f}"), True),
        ),
        of(
            "statistic",
            st.just("--mode nth"),
            st.integers(1, 2**32 - 1).flatmap(
                lambda every: st.integers(0, every - 1).map(lambda packet: f"--every {every} --packet {packet}")
            ),
        ),
        of(
            "time",
            maybe(option("timestart", st.integers(0, 1439).map(lambda m: f"{m // 60}:{m % 60}"))),
            option(
                "monthdays",
                st.lists(st.integers(1, 31), min_size=1, max_size=8, unique=True).map(
                    lambda days: ",".join(map(str, days))
                ),
                True,
            ),
        ),
        of(
            "recent",
            option("rcheck", None, True),
            option("name", st.from_regex(r"[a-z]{1,20}", fullmatch=True)),
            # from 2**31 on, iptables takes the number, and prints a negative one, which it does not take
            maybe(option("seconds", st.integers(1, 2**31 - 1))),
            maybe(either("--rsource", "--rdest")),
        ),
        of(
            "hashlimit",
            option(
                "hashlimit-upto",
                st.tuples(st.integers(1, 1000), either("sec", "min", "hour")).map(lambda pair: f"{pair[0]}/{pair[1]}"),
            ),
            option("hashlimit-mode", listed("srcip", "dstip")),
            option("hashlimit-name", st.from_regex(r"[a-z]{1,15}", fullmatch=True)),
        ),
    ]


def protocols(ipv6):
    """Return a strategy for a protocol with matches that need it."""
    tcp = st.tuples(
        either("-p tcp", "-p 6", "--protocol tcp"),
        maybe(st.just("-m tcp")),
        ports,
        maybe(option("syn", None, True)),
        maybe(option("tcp-option", st.integers(1, 255), True)),
    ).map(" ".join)
    masks = st.tuples(flags, flags).map(lambda pair: f"-p tcp -m tcp --tcp-flags {pair[0]} {pair[1]}")
    # multiport refuses a range of one port
    wide = (
        st.tuples(port, port)
        .filter(lambda pair: pair[0] != pair[1])
        .map(sorted)
        .map(lambda pair: f"{pair[0]}:{pair[1]}")
    )
    several = st.lists(st.one_of(port.map(str), wide), min_size=1, max_size=7).map(",".join)
    multi = st.tuples(
        either("tcp", "udp", "sctp", "dccp", "udplite"), either("sports", "dports", "ports"), either("", "! "), several
    ).map(lambda m: f"-p {m[0]} -m multiport {m[2]}--{m[1]} {m[3]}")
    rest = [
        tcp,
        masks,
        multi,
        st.tuples(either("-p udp", "-p 17"), ports).map(" ".join),
        st.tuples(st.just("-p sctp"), ports).map(" ".join),
        st.tuples(
            st.just("-p dccp"), ports, maybe(option("dccp-types", listed("REQUEST", "DATA", "ACK", "CLOSE"), True))
        ).map(" ".join),
        st.tuples(st.just("-p esp"), option("espspi", span(word), True)).map(" ".join),
        st.tuples(either("", "! "), st.integers(1, 255)).map(lambda pair: f"{pair[0]}-p {pair[1]}"),
        st.tuples(
            st.just("-p icmpv6" if ipv6 else "-p icmp"),
            option(
                "icmpv6-type" if ipv6 else "icmp-type",
                st.one_of(byte.map(str), st.tuples(byte, byte).map(lambda pair: f"{pair[0]}/{pair[1]}")),
                True,
            ),
        ).map(" ".join),
        st.just(""),
    ]
    return st.one_of(*rest)


def targets(ipv6):
    """Return a strategy for targets."""
    log = st.tuples(
        st.just("-j LOG"),
        maybe(
            option("log-prefix", st.from_regex(r"[a-zA-Z0-9: ]{1,28}", fullmatch=True).map(lambda value: f'"{value}"'))
        ),
        maybe(option("log-level", st.integers(0, 7))),
        maybe(option("log-uid")),
        maybe(option("log-ip-options")),
    ).map(" ".join)
    queue = st.one_of(
        option("queue-num", port),
        st.tuples(st.integers(0, 100), st.integers(101, 65534)).map(
            lambda pair: f"--queue-balance {pair[0]}:{pair[1]}"
        ),
    )
    return st.one_of(
        either("-j ACCEPT", "-j DROP", "-j RETURN", "-j web", "-g web", "--jump log-drop", "-g log-drop", ""),
        log,
        st.tuples(st.just("-j NFQUEUE"), queue, maybe(option("queue-bypass"))).map(" ".join),
        st.tuples(
            st.just("-j NFLOG"),
            maybe(option("nflog-group", port)),
            maybe(
                option(
                    "nflog-prefix", st.from_regex(r"[a-z ]{1,60}[a-z]", fullmatch=True).map(lambda value: f'"{value}"')
                )
            ),
            maybe(option("nflog-threshold", st.integers(1, 65535))),
        ).map(" ".join),
        st.tuples(
            st.just("-j MARK"),
            st.one_of(
                option("set-xmark", mark),
                option("set-mark", mark),
                option("and-mark", word),
                option("or-mark", word),
                option("xor-mark", word),
            ),
        ).map(" ".join),
        st.tuples(
            st.just("-j REJECT"),
            maybe(
                option(
                    "reject-with",
                    either(
                        *(
                            ("icmp6-no-route", "icmp6-adm-prohibited", "icmp6-port-unreachable")
                            if ipv6
                            else ("icmp-net-unreachable", "icmp-host-prohibited", "icmp-admin-prohibited")
                        )
                    ),
                )
            ),
        ).map(" ".join),
    )


@functools.cache
def rules(ipv6):
    """Return a strategy for whole rules of chain INPUT, with the parts in any order that iptables accepts."""
    base = st.tuples(
        maybe(
            st.tuples(either("", "! "), either("-s", "--source", "--src"), address(ipv6)).map(
                lambda made: f"{made[0]}{made[1]} {made[2]}"
            )
        ),
        maybe(
            st.tuples(either("", "! "), either("-d", "--destination"), address(ipv6)).map(
                lambda made: f"{made[0]}{made[1]} {made[2]}"
            )
        ),
        maybe(st.tuples(either("", "! "), interface).map(lambda made: f"{made[0]}-i {made[1]}")),
        maybe(st.tuples(number, number).map(lambda pair: f"-c {pair[0]} {pair[1]}")),
    ).flatmap(lambda parts: st.permutations([part for part in parts if part]))
    return st.tuples(base, protocols(ipv6), st.lists(matches(ipv6), max_size=3), targets(ipv6), st.booleans()).map(
        lambda made: " ".join(
            filter(
                None, [*([made[3]] if made[4] else []), *made[0], made[1], *made[2], *([] if made[4] else [made[3]])]
            )
        )
    )


# ---------------------------------------------------------------- files

CHAINS = ("INPUT", "FORWARD", "OUTPUT", "web", "log-drop", "empty", "new", "zed")
# `@` stands for an address of the family, `@@` for another one. Some are refused by the parser, some by the kernel
PLAIN = (
    "",
    "-j ACCEPT",
    "-j DROP",
    "-j web",
    "-j log-drop",
    "-j new",
    "-g zed",
    "-j RETURN",
    "-j LOG",
    "-p tcp -m tcp --dport 22 -j ACCEPT",
    "-p tcp --dport 22 -j ACCEPT",
    "-s @ -j ACCEPT",
    "-s @,@@ -j ACCEPT",
    "-s @,@@ -d @,@@",
    "-i eth0 -j DROP",
    "-o eth1 -j DROP",
    "-m conntrack --ctstate NEW -j ACCEPT",
    '-m comment --comment "a b" -j DROP',
    "-m recent --set --name r1",
    "-m quota --quota 10 -j ACCEPT",
    "-c 5 6 -j ACCEPT",
    "-j MARK --set-mark 1",
    "-j REJECT",
    "-m tcp --dport 1",
    "-j nosuch",
    "-p nosuch",
    "-v -j ACCEPT",
)


def command():
    """Return a strategy for a line of a table: a command with a chain, a number, a rule or a policy, right or wrong."""
    chain, rule, place = st.sampled_from(CHAINS), st.sampled_from(PLAIN), st.sampled_from("123490")
    policy = either("ACCEPT", "DROP", "ACCEPT -c 7 8")
    made = st.one_of(
        st.tuples(either("-A", "-I", "-D", "-C", "-A"), chain, rule),
        st.tuples(st.just("-I"), chain, place, rule),
        st.tuples(st.just("-R"), chain, place, rule.filter(lambda text: "," not in text)),
        st.tuples(either("-D", "-Z"), chain, place),
        st.tuples(either("-N", "-X", "-F", "-Z"), chain),
        st.tuples(either("-X", "-F", "-Z", "# x", "x", "")),
        st.tuples(st.just("-P"), chain, policy),
        st.tuples(st.just("-E"), chain, chain),
    ).map(" ".join)
    counted = st.tuples(byte, byte, made).map(lambda parts: f"[{parts[0]}:{parts[1]}] {parts[2]}")
    declared = st.tuples(chain, either("-", "ACCEPT", "DROP"), byte, byte).map(
        lambda parts: f":{parts[0]} {parts[1]} [{parts[2]}:{parts[3]}]"
    )
    return st.one_of(made, made, counted, declared)


@functools.cache
def files():
    """Return a strategy for a file of one or two tables."""
    declared = st.lists(st.sampled_from(CHAINS[3:]), unique=True).map(
        lambda chains: [f":{chain} - [0:0]" for chain in chains]
    )
    table = st.tuples(
        either("filter", "filter", "mangle", "nat"), declared, st.lists(command(), min_size=1, max_size=8)
    )
    return st.lists(table, min_size=1, max_size=2).map(
        lambda tables: "".join(
            "\n".join([f"*{name}", *chains, *lines, "COMMIT", ""]) for name, chains, lines in tables
        ).encode()
    )
