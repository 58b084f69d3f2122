"""Large rulesets, line by line, the same ones each time: `python generator.py KIND SIZE` prints one.

Each function yields lines of `iptables-save -c`; none needs a set or another object made beforehand.
"""

import base64
import hashlib
import sys

BUILTIN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


def address(number, ipv6=False):
    """The *number*th host."""
    return (
        f"2001:db8:{(number >> 16) + 1:x}::{number % 65535 + 1:x}/128"
        if ipv6
        else f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"
    )


def bare(number, ipv6=False):
    """The *number*th host, without the length of its prefix."""
    return address(number, ipv6).split("/")[0]


def counters(number):
    """Counters as traffic leaves them: some none, a few above 2**32."""
    packets = 0 if number % 3 == 0 else number * 7 % 100_000 << (30 if number % 97 == 0 else 0)
    return f"[{packets}:{packets * 60}]"


def table(name, chains, lines):
    """One table: its chains, sorted as iptables-save has them, and its rules."""
    yield f"*{name}"
    for number, chain in enumerate(BUILTIN[name]):
        yield f":{chain} {'DROP' if name == 'filter' and chain == 'FORWARD' else 'ACCEPT'} {counters(number)}"
    rules = {}
    for chain in sorted(chains):
        yield f":{chain} - [0:0]"
    for line in lines:
        rules.setdefault(line.split(" ", 3)[2], []).append(line)
    for chain in (*BUILTIN[name], *sorted(chains)):
        yield from rules.get(chain, ())
    yield "COMMIT"


# ---------------------------------------------------------------- mixed kinds

_KINDS = (
    "-s {a} -j ACCEPT",
    "-s {a} -d {b} -i eth{i} -p tcp -m tcp --dport {port} -j ACCEPT",
    "-d {b} -p udp -m udp --sport {port}:65535 --dport 53 -j RETURN",
    '-s {a} -m comment --comment "rule {n}" -j DROP',
    "-p tcp -m multiport --dports {port},22,443,8000:8100 -m conntrack --ctstate NEW -j ACCEPT",
    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "! -s {a} -o br-{i}+ -p {icmp} -j REJECT --reject-with {unreachable}",
    '-i ppp+ -m limit --limit 5/min --limit-burst {burst} -j LOG --log-prefix "net {n}: " --log-level 6',
    "-m mark --mark {mark:#x}/0xff00 -j ACCEPT",
    "-p tcp -m addrtype --dst-type LOCAL -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
    "-p tcp -m tcp --dport {port} -m statistic --mode random --probability 0.33332999982 -j ACCEPT",
    "-m mac --mac-source 02:00:00:00:{i:02x}:{j:02x} -j RETURN",
    "-p tcp -m tcp --dport {port} -m connlimit --connlimit-above {j} --connlimit-mask 24 --connlimit-saddr -j DROP",
    "-m length --length {port}:65535 -m pkttype --pkt-type broadcast -j DROP",
    "-s {a} -m recent --set --name list{i} --mask {mask} --rsource",
    "-m iprange --src-range {first}-{last} -j ACCEPT",
)


def mixed(size, ipv6=False, chain_of=50):
    """*size* rules of mixed kinds, in the filter table, in chains of *chain_of* rules that one chain calls."""
    names = [f"zone{number:05}" for number in range(-(-size // (chain_of + 1)))]
    values = {
        "icmp": "ipv6-icmp" if ipv6 else "icmp",
        "unreachable": "icmp6-port-unreachable" if ipv6 else "icmp-port-unreachable",
        "mask": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" if ipv6 else "255.255.255.255",
    }

    def rules():
        for number, name in enumerate(names):
            yield f"{counters(number)} -A FORWARD -i eth{number} -j {name}"
        for n in range(size - len(names)):
            rule = _KINDS[n % len(_KINDS)].format(
                a=address(n, ipv6),
                b=address(n * 31 & 0xFFFFFF, ipv6),
                n=n,
                i=n // 16 % 250,
                burst=6 + n % 90,
                j=n // 7 % 250 + 1,
                port=1 + n % 60_000,
                mark=(n & 255) << 8,
                first=bare(n, ipv6),
                last=bare(n + 9, ipv6),
                **values,
            )
            yield f"{counters(n)} -A {names[n // chain_of]} {rule}"

    yield from table("filter", names, rules())


# ---------------------------------------------------------------- kube-proxy


def _hashed(kind, *parts):
    """A chain's name as kube-proxy makes them: a prefix and 16 letters of a digest."""
    digest = hashlib.sha256("".join(parts).encode()).digest()
    return f"KUBE-{kind}-{base64.b32encode(digest).decode()[:16]}"


def kube_proxy(size, ipv6=False):
    """A node of a cluster with about *size* rules: services, one in five without endpoints, the others with one to
    six."""
    nat, chains, closed = [], {"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"}, []
    behind = []
    pods = "2001:db8:ffff::/96" if ipv6 else "10.244.0.0/16"
    for number in range(max(1, size // 9)):
        name = f"team-{number % 37}/service-{number}:http"
        virtual, port = address(0xC00000 + number, ipv6), 80 + number % 9000
        endpoints = number % 7 if number % 5 else 0
        if not endpoints:
            closed.append(
                f'[0:0] -A KUBE-SERVICES -d {virtual} -p tcp -m comment --comment "{name} has no endpoints" -m tcp --dport {port} -j REJECT --reject-with '
                f"{'icmp6' if ipv6 else 'icmp'}-port-unreachable"
            )
            continue
        service = _hashed("SVC", name, "tcp")
        chains.add(service)
        nat.append(
            f'{counters(number)} -A KUBE-SERVICES -d {virtual} -p tcp -m comment --comment "{name} cluster IP" -m tcp --dport {port} -j {service}'
        )
        if number % 4 == 0:
            outside = _hashed("EXT", name, "tcp")
            chains.add(outside)
            nat.append(
                f'{counters(number)} -A KUBE-NODEPORTS -p tcp -m comment --comment "{name}" -m tcp --dport {30000 + number % 2768} -j {outside}'
            )
            behind.append(
                f'[0:0] -A {outside} -m comment --comment "masquerade traffic for {name} external destinations" -j KUBE-MARK-MASQ'
            )
            behind.append(f"[0:0] -A {outside} -j {service}")
        behind.append(
            f'{counters(number)} -A {service} ! -s {pods} -d {virtual} -p tcp -m comment --comment "{name} cluster IP" -m tcp --dport {port} -j KUBE-MARK-MASQ'
        )
        for endpoint in range(endpoints):
            chain, rules = _endpoint(number, name, service, endpoint, endpoints, ipv6)
            chains.add(chain)
            behind += rules
    yield from _kube_filter(closed)
    yield from _kube_nat(chains, nat, behind)


def _endpoint(number, name, service, endpoint, endpoints, ipv6):
    """Return (chain, rules) of one of the *endpoints* of a service: the rule that chooses it, and those of its chain."""
    pod = address(number * 8 + endpoint, ipv6)
    to = f"[{pod.split('/')[0]}]:8080" if ipv6 else f"{pod.split('/')[0]}:8080"
    chain = _hashed("SEP", name, "tcp", to)
    share = (
        f" -m statistic --mode random --probability {round(2**31 / (endpoints - endpoint)) / 2**31:.11f}"
        if endpoint + 1 < endpoints
        else ""
    )
    whole = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" if ipv6 else "255.255.255.255"
    # session affinity
    sticky = f" -m recent --set --name {chain} --mask {whole} --rsource" if number % 6 == 0 else ""
    return chain, [
        f'{counters(number + endpoint)} -A {service} -m comment --comment "{name} -> {to}"{share} -j {chain}',
        f'[0:0] -A {chain} -s {pod} -m comment --comment "{name}" -j KUBE-MARK-MASQ',
        f'{counters(number)} -A {chain} -p tcp -m comment --comment "{name}" -m tcp{sticky} -j DNAT --to-destination {to}',
    ]


def _kube_filter(closed):
    yield from table(
        "filter",
        ["KUBE-EXTERNAL-SERVICES", "KUBE-FIREWALL", "KUBE-FORWARD", "KUBE-SERVICES", "KUBE-PROXY-FIREWALL"],
        [
            '[120:7200] -A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL',
            '[120:7200] -A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES',
            "[99999:9999999] -A INPUT -j KUBE-FIREWALL",
            '[7:420] -A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD',
            '[7:420] -A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            '[88:5280] -A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            "[99999:9999999] -A OUTPUT -j KUBE-FIREWALL",
            '[0:0] -A KUBE-FIREWALL -m comment --comment "kubernetes firewall for dropping marked packets" -m mark --mark 0x8000/0x8000 -j DROP',
            "[2:120] -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
            '[0:0] -A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT',
            '[5:300] -A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT',
            *closed,
        ],
    )


def _kube_nat(chains, nat, behind):
    yield from table(
        "nat",
        chains,
        [
            '[500:30000] -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            '[800:48000] -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            '[900:54000] -A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
            "[0:0] -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0xffffffff",
            "[890:53400] -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "[10:600] -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
            '[10:600] -A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
            *nat,
            '[12:720] -A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS',
            *behind,
        ],
    )


# ---------------------------------------------------------------- shorewall


def shorewall(size, ipv6=False):
    """A firewall between zones with about *size* rules: a chain for each pair of zones, and those that they share."""
    zones = max(2, round((size / 7) ** 0.5))
    names = [f"z{number:02}" for number in range(zones)]
    pairs = [(a, b) for a in names for b in names if a != b]
    shared = ["dynamic", "logdrop", "logreject", "reject", "smurfs", "tcpflags", "sha-lh-rate", "%dynamic"]
    chains = [
        *(f"{a}-{b}" for a, b in pairs),
        *(f"{a}_frwd" for a in names),
        *(f"{a}-fw" for a in names),
        *(f"fw-{a}" for a in names),
        *shared,
    ]
    unreachable = "icmp6-adm-prohibited" if ipv6 else "icmp-admin-prohibited"

    def rules():
        for number, a in enumerate(names):
            yield f"{counters(number)} -A INPUT -i eth{number}.{number + 100} -j {a}-fw"
            yield f"{counters(number)} -A FORWARD -i eth{number}.{number + 100} -j {a}_frwd"
            yield f"{counters(number)} -A OUTPUT -o eth{number}.{number + 100} -j fw-{a}"
        yield "[5:300] -A INPUT -i lo -j ACCEPT"
        yield (
            "[1:60] -A INPUT -m addrtype --dst-type BROADCAST -j DROP"
            if not ipv6
            else "[1:60] -A INPUT -d ff00::/8 -j DROP"
        )
        yield '[1:60] -A INPUT -m hashlimit --hashlimit-upto 1/sec --hashlimit-burst 10 --hashlimit-mode srcip --hashlimit-name lograte -j LOG --log-prefix "INPUT REJECT " --log-level 6'
        yield "[1:60] -A INPUT -g reject"
        for number, (a, b) in enumerate(pairs):
            chain = f"{a}-{b}"
            yield f"{counters(number)} -A {a}_frwd -o eth{int(b[1:])}.{int(b[1:]) + 100} -j {chain}"
            yield f"{counters(number)} -A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
            yield f"{counters(number + 1)} -A {chain} -m conntrack --ctstate INVALID,NEW,UNTRACKED -j dynamic"
            yield f"{counters(number + 2)} -A {chain} -p tcp -m multiport --dports 22,80,443 -m comment --comment SSHWeb -j ACCEPT"
            yield f"{counters(number)} -A {chain} -p udp -m udp --dport {1000 + number} -j ACCEPT"
            if number % 3:
                yield f"{counters(number)} -A {chain} -s {address(number, ipv6)} -j ACCEPT"
            yield f'[0:0] -A {chain} -j LOG --log-prefix "{chain} REJECT " --log-level 6'
            yield f"{counters(number)} -A {chain} -g {'reject' if number % 2 else 'logdrop'}"
        for a in names:
            yield f"[0:0] -A {a}-fw -p tcp -j tcpflags"
            yield f"[0:0] -A {a}-fw -j smurfs"
            yield f"[0:0] -A fw-{a} -j ACCEPT"
        yield "[0:0] -A logdrop -j DROP"
        yield "[0:0] -A logreject -j reject"
        yield "[0:0] -A reject -p tcp -j REJECT --reject-with tcp-reset"
        yield f"[0:0] -A reject -j REJECT --reject-with {unreachable}"
        yield f"[0:0] -A smurfs -s {'::/128' if ipv6 else '0.0.0.0/32'} -j RETURN"
        yield "[0:0] -A tcpflags -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG FIN,PSH,URG -g logdrop"
        yield "[0:0] -A tcpflags -p tcp -m tcp --tcp-flags SYN,RST SYN,RST -g logdrop"

    yield from table("filter", chains, rules())


KINDS = {"mixed": mixed, "kube-proxy": kube_proxy, "shorewall": shorewall}


def text(kind, size, ipv6=False):
    """The whole ruleset as text."""
    return "\n".join([*KINDS[kind](size, ipv6), ""])


if __name__ == "__main__":
    for line in KINDS[sys.argv[1]](int(sys.argv[2]), "-6" in sys.argv):
        print(line)
