"""Measures how long a guarded port is open after another program flushes the rules, with 10,000 packets a second.

    unshare -n python benchmarks/guard.py [FLUSHES]

For each back end it prints the median, the 99th percentile and the maximum of the milliseconds in which packets passed
after `iptables -F`. It also prints how many packets passed a table of our own during `nft flush ruleset`.
"""

import os
import pathlib
import socket
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).parent.parent
RATE = 10_000
FILE = 'owner = "web"\n[[chain]]\nchain = "INPUT"\nrules = ["-p udp --dport 9999 -j DROP"]\n'


class Sender(threading.Thread):
    """Sends packets at a steady rate, until it is told to end."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ended = False
        self.sent = 0

    def run(self):
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        begun = time.perf_counter()
        while not self.ended:
            due = int((time.perf_counter() - begun) * RATE)
            while self.sent < due:
                out.sendto(b"x", ("127.0.0.1", 9999))
                self.sent += 1
            time.sleep(0.00005)


def drained(receiver):
    """Receive all packets that are there. Return how many there were."""
    count = 0
    while True:
        try:
            receiver.recv(16)
            count += 1
        except BlockingIOError:
            return count


def measure(backend, flushes, flush, *arguments):
    """Flush the rules again and again. Return for each flush the milliseconds in which packets passed."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    receiver.bind(("127.0.0.1", 9999))
    receiver.setblocking(False)
    exposed = []
    sender = Sender()
    command = [sys.executable, "-m", "iptc", "guard", "-", "--limit", "1000000/10", *arguments]
    guard = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={**os.environ, "IPTC_BACKEND": backend}
    )
    guard.stdin.write(FILE.encode())
    guard.stdin.close()
    try:
        time.sleep(1)
        sender.start()
        time.sleep(0.2)
        drained(receiver)
        for _ in range(flushes):
            subprocess.run(flush, check=True)
            time.sleep(0.02)
            exposed.append(drained(receiver) * 1000 / RATE)
    finally:
        sender.ended = True
        guard.terminate()
        guard.wait()
        receiver.close()
        subprocess.run(flush, check=True)
    return exposed


def main():
    flushes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ["PYTHONPATH"] = str(ROOT)
    print("| | median ms | 99 % | most |\n|---|---|---|---|")
    for backend in ("nft", "legacy"):
        exposed = measure(backend, flushes, [f"iptables-{backend}", "-F", "INPUT"])
        cut = statistics.quantiles(exposed, n=100)[98]
        print(
            f"| {backend}, `iptables-{backend} -F` | {statistics.median(exposed):.1f} | {cut:.1f} | {max(exposed):.1f} |"
        )
    exposed = measure("nft", flushes // 4, ["nft", "flush", "ruleset"], "--own-table")
    print(f"| own table, `nft flush ruleset` | {statistics.median(exposed):.1f} | | {max(exposed):.1f} |")


if __name__ == "__main__":
    main()
