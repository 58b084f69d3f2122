"""Measures what a trace costs the packets that it does not choose, and whether its limit holds for chosen packets.

    unshare -n python benchmarks/trace.py [ROUNDS]

Packets are sent over the loopback at 100,000 a second, in turn with a trace and without. For each back end it prints the
median ratio of the packets sent in neighbouring rounds; the processor time that a trace adds to a packet, which passes
the hooks twice here, out and in; and how many packets a second a trace reports of a flood that it chooses.
"""

import os
import socket
import statistics
import subprocess
import sys
import time

import iptc

RATE = 100_000
SECONDS = 0.5


def steady(sender):
    """Send packets for half a second, at the rate if possible. Return how many were sent per second."""
    begun, sent = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < SECONDS:
        while sent < passed * RATE:
            sender.send(b"x")
            sent += 1
    return sent / passed


def flood(sender, count):
    """Send *count* packets as fast as possible. Return the processor time of one in nanoseconds."""
    begun = time.process_time()
    for _ in range(count):
        sender.send(b"x")
    return (time.process_time() - begun) / count * 1e9


def main():
    """Print the figures."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 9))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("127.0.0.1", 9))
    os.environ["XTABLES_LOCKFILE"] = f"/tmp/iptc-trace-{os.getpid()}.lock"
    for backend in ("nft", "legacy"):
        for _ in range(10):
            subprocess.run([f"iptables-{backend}", "-A", "INPUT", "-s", "198.51.100.1", "-j", "DROP"], check=True)
        rates, ratios, plain, traced = [], [], [], []
        for _ in range(rounds):
            rates.append(steady(sender))
            plain.append(flood(sender, 20_000))
            with iptc.Trace("-p tcp --dport 22", backend=backend):
                ratios.append(steady(sender) / rates[-1])
                traced.append(flood(sender, 20_000))
        with iptc.Trace("-p udp -i lo", backend=backend) as trace:
            begun = time.perf_counter()
            found = []
            while time.perf_counter() - begun < 5:
                flood(sender, 5000)
                found += trace.read()
            seconds = time.perf_counter() - begun
            lost = trace.lost
        print(
            f"{backend}: {statistics.median(rates):,.0f} packets/s, with a trace {statistics.median(ratios):.1%} of that; "
            f"{min(traced) - min(plain):.0f} ns more of {min(plain):.0f} ns; "
            f"chosen: {len(found) / seconds:.0f}/s given out in {seconds:.0f} s of a flood, {lost} lost"
        )
        subprocess.run([f"iptables-{backend}", "-F"], check=True)
    os.unlink(os.environ["XTABLES_LOCKFILE"])


if __name__ == "__main__":
    main()
