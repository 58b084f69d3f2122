"""Two hosts, a cable and a firewall: the API at work on real traffic, every outcome checked.

scripts/demo starts this program inside a new network namespace, which becomes the firewall host. The program
starts itself a second time in another one, the client, and the two are joined by a veth pair. Both namespaces
live as long as their process, so nothing is left behind.
"""

import contextlib
import functools
import signal
import socket
import subprocess
import sys
import threading
import time

WAIT = 0.5  # seconds until what the firewall has to drop counts as dropped
PATIENCE = 60  # seconds that an expected answer may take: much more than a busy machine needs
CABLE = "veth-fw"
FIREWALL, FIREWALL6 = "198.51.100.1", "2001:db8::1"
CLIENT, CLIENT6 = "198.51.100.2", "2001:db8::2"
INNER = "192.0.2.1"  # an address behind the firewall that the client has no route to
WEB, TELNET, ECHO, PUBLIC, CALLBACK = 8080, 2323, 5353, 80, 9000


# --- What both hosts do -----------------------------------------------------------------------------------------


def run(*command):
    """Run a command and return its output."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tcp(address, port, source=None, wait=PATIENCE):
    """Connect and return the greeting, or how the connection failed."""
    try:
        with socket.create_connection((address, int(port)), wait, (source, 0) if source else None) as connection:
            return connection.makefile().readline().strip()
    except TimeoutError:
        return "no answer"
    except ConnectionRefusedError:
        return "refused"


def udp(address, port, wait=PATIENCE):
    """Send a datagram and return the answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.settimeout(wait)
        datagram.sendto(b"hello", (address, int(port)))
        try:
            return datagram.recv(100).decode()
        except TimeoutError:
            return "no answer"


def serve_tcp(port):
    """Greet every client, over IPv4 and IPv6, with the port that it has reached and the address that it has."""

    def loop():
        while True:
            connection, caller = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(f"port {port} greets {caller[0].removeprefix('::ffff:')}\n".encode())

    server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=loop, daemon=True).start()


def serve_udp(port):
    """Send every datagram back."""

    def loop():
        while True:
            data, caller = datagram.recvfrom(100)
            datagram.sendto(data, caller)

    datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagram.bind(("", port))
    threading.Thread(target=loop, daemon=True).start()


# --- The client host --------------------------------------------------------------------------------------------


class Client:
    """The other host: this program again, in a namespace of its own. It gets its commands through a pipe."""

    def __init__(self):
        command = ["unshare", "-n", sys.executable, __file__, "--client"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.process.stdout.readline()  # it is in its namespace now

    def __call__(self, *words):
        print(*words, file=self.process.stdin)
        return self.process.stdout.readline().strip()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def client():
    """Carry out one line after the other until the pipe closes. It also closes when the firewall host dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both hosts; the firewall host ends this one
    dropped = {f"dropped-{verb.__name__}": functools.partial(verb, wait=WAIT) for verb in (tcp, udp)}
    verbs = {"tcp": tcp, "udp": udp, **dropped, "connect-cable": connect_cable}
    serve_tcp(CALLBACK)
    print("ready", flush=True)
    for line in sys.stdin:
        verb, *words = line.split()
        print(verbs[verb](*words), flush=True)


def connect_cable(name, address, address6):
    """Give this host's end of the cable its addresses and turn it on."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{address}/24", "dev", name)
    # Without nodad the address would be unusable for the first second.
    run("ip", "address", "add", f"{address6}/64", "dev", name, "nodad")
    run("ip", "link", "set", name, "up")
    return "connected"


# --- The firewall host ------------------------------------------------------------------------------------------


class Show:
    """Prints what happens, and counts how often it was not what was expected."""

    def __init__(self):
        self.steps = self.good = self.bad = 0

    def step(self, text):
        """Print what comes next."""
        self.steps += 1
        print(f"\n{self.steps}. {text}")

    def check(self, text, expected, got):
        ok = expected == got
        self.good += ok
        self.bad += not ok
        print(f"   {'ok  ' if ok else 'FAIL'} {text}: {got}" + ("" if ok else f" (expected: {expected})"))


def build_firewall(iptc):
    """Build the rules through the API. Return the tables."""
    table, nat, table6 = iptc.Table(iptc.Table.FILTER), iptc.Table(iptc.Table.NAT), iptc.Table6(iptc.Table6.FILTER)
    for family, rule_class in ((table, iptc.Rule), (table6, iptc.Rule6)):
        services = family.create_chain("services")
        services.append_rule(tcp_rule(rule_class, WEB, "ACCEPT", comment="the web server"))
        services.append_rule(tcp_rule(rule_class, TELNET, "REJECT", reject_with="tcp-reset"))

        entrance = iptc.Chain(family, "INPUT")
        known = rule_class()
        known.create_match("conntrack").ctstate = "RELATED,ESTABLISHED"
        known.create_target("ACCEPT")
        entrance.append_rule(known)
        jump = rule_class()
        jump.in_interface = CABLE
        jump.protocol = "tcp"
        jump.create_target("services")
        entrance.append_rule(jump)
        entrance.set_policy("DROP")

    # IPv6 finds its neighbours by ICMP: a closed INPUT chain must let it in.
    neighbours = iptc.Rule6()
    neighbours.protocol = "icmpv6"
    neighbours.create_target("ACCEPT")
    iptc.Chain(table6, "INPUT").insert_rule(neighbours)

    forward = tcp_rule(iptc.Rule, PUBLIC, "DNAT", to_destination=f"{FIREWALL}:{WEB}")
    forward.in_interface = CABLE
    iptc.Chain(nat, "PREROUTING").append_rule(forward)
    hide = iptc.Rule()
    hide.src = f"{INNER}/32"
    hide.out_interface = CABLE
    hide.create_target("MASQUERADE")
    iptc.Chain(nat, "POSTROUTING").append_rule(hide)
    return {"iptables filter": table, "iptables nat": nat, "ip6tables filter": table6}


def tcp_rule(rule_class, port, target, comment=None, **parameters):
    """Return a rule for a TCP port, built match by match."""
    rule = rule_class()
    rule.protocol = "tcp"
    match = rule.create_match("tcp")
    match.dport = str(port)
    if comment:
        rule.create_match("comment").comment = comment
    target = rule.create_target(target)
    for name, value in parameters.items():
        setattr(target, name, value)
    return rule


def read_counters(tables):
    """Every rule's counters, through the API: {(table, chain, rule as text): (packets, bytes)}."""
    found = {}
    for name, table in tables.items():
        table.refresh()
        for chain in table.chains:
            for rule in chain.rules:
                found[name, chain.name, str(rule)] = rule.get_counters()
    return found


def save(backend, name):
    """Return a table as the host's own tool prints it, without the comments with the date."""
    family, table = name.split()
    lines = run(f"{family}-{backend}-save", "-c", "-t", table).splitlines()
    return [line for line in lines if not line.startswith("#")]


def differences(backend, tables):
    """Return the rules with counters that only the API or only the host's own tool shows."""
    ours = {f"{key[0]}: [{p}:{b}] -A {key[1]} {key[2]}" for key, (p, b) in read_counters(tables).items()}
    theirs = {f"{name}: {line}" for name in tables for line in save(backend, name) if line.startswith("[")}
    return sorted(ours ^ theirs)


def demonstrate(peer, step, check):
    """Show one thing after the other."""
    import iptc

    backend = iptc.backend()  # what the host's own `iptables` works on: its view is printed below

    step(f"Two hosts: the firewall {FIREWALL}, {FIREWALL6} and a client {CLIENT}, {CLIENT6}, joined by a cable.")
    run("ip", "link", "add", CABLE, "type", "veth", "peer", "name", "veth-client")
    run("ip", "link", "set", "veth-client", "netns", str(peer.process.pid))
    connect_cable(CABLE, FIREWALL, FIREWALL6)
    check("the client's end", "connected", peer("connect-cable", "veth-client", CLIENT, CLIENT6))
    run("ip", "address", "add", f"{INNER}/32", "dev", "lo")

    step("Without rules the client reaches every service of the firewall host.")
    for port in (WEB, TELNET):
        serve_tcp(port)
        check(f"TCP {port}", f"port {port} greets {CLIENT}", peer("tcp", FIREWALL, port))
    serve_udp(ECHO)
    check(f"UDP {ECHO}", "hello", peer("udp", FIREWALL, ECHO))

    step("A firewall is built through the API: policy DROP, a chain of services, NAT, and the same for IPv6.")
    tables = build_firewall(iptc)
    for name in tables:
        print(f"   $ {name.replace(' ', f'-{backend}-save -c -t ')}")
        print(*("   " + line for line in save(backend, name)), sep="\n")

    step("The same traffic again: accepted, rejected with an answer, dropped without one.")
    before = read_counters(tables)
    check(f"TCP {WEB} is accepted", f"port {WEB} greets {CLIENT}", peer("tcp", FIREWALL, WEB))
    check(f"TCP {TELNET} is rejected", "refused", peer("tcp", FIREWALL, TELNET))
    check(f"UDP {ECHO} is dropped by the policy", "no answer", peer("dropped-udp", FIREWALL, ECHO))
    check(f"IPv6 TCP {WEB} is accepted", f"port {WEB} greets {CLIENT6}", peer("tcp", FIREWALL6, WEB))
    check(f"IPv6 TCP {TELNET} is rejected", "refused", peer("tcp", FIREWALL6, TELNET))

    step("NAT: one port leads to another service, and an inner address goes out under the firewall's own.")
    check(f"TCP {PUBLIC} is sent on to {WEB}", f"port {WEB} greets {CLIENT}", peer("tcp", FIREWALL, PUBLIC))
    seen = tcp(CLIENT, CALLBACK, source=INNER)
    check(f"what comes from {INNER} is masqueraded", f"port {CALLBACK} greets {FIREWALL}", seen)

    step("The counters moved: packets per rule before and after, read through the API.")
    after = read_counters(tables)
    for key, (packets, _) in after.items():
        name, chain, text = key
        print(f"   {before[key][0]:4} -> {packets:4}  {name}: -A {chain} {text}")
    moved = sum(after[key][0] > before[key][0] for key in after)
    check("rules whose counter moved", len(after), moved)
    dropped = iptc.Chain(tables["iptables filter"], "INPUT").get_counters()[0]
    check("packets dropped by the policy", 1, dropped)

    step("The host's own tool prints the same rules with the same counters.")
    for _ in range(100):
        # A late packet between the two readings must not count as a difference.
        if not (differing := differences(backend, tables)):
            break
        time.sleep(0.2)
    check("rules that differ", [], differing)

    step("The client is barred by one rule at the top, and let in again by deleting it.")
    entrance = iptc.Chain(tables["iptables filter"], "INPUT")
    bar = iptc.Rule()
    bar.src = CLIENT
    bar.create_target("DROP")
    entrance.insert_rule(bar)
    print(f"   inserted: -A INPUT {entrance.rules[0]}")
    check(f"TCP {WEB} is dropped", "no answer", peer("dropped-tcp", FIREWALL, WEB))
    tables["iptables filter"].refresh()
    check("the new rule has counted it", True, entrance.rules[0].get_counters()[0] > 0)
    entrance.delete_rule(bar)
    check(f"TCP {WEB} is accepted again", f"port {WEB} greets {CLIENT}", peer("tcp", FIREWALL, WEB))


def main():
    """Demonstrate; tell how it went."""
    started, show, peer = time.monotonic(), Show(), Client()
    try:
        demonstrate(peer, show.step, show.check)
    except KeyboardInterrupt:
        return 130
    finally:
        peer.close()
    seconds = time.monotonic() - started
    print(f"\n{show.good} outcomes as expected, {show.bad} not, in {seconds:.1f} s; both hosts are gone again.")
    return 1 if show.bad else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(client() if sys.argv[1:] == ["--client"] else main())
