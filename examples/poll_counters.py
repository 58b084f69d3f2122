#!/usr/bin/env python3
"""Polls the counters of a table without any privilege, by descriptors of hand_counters.py: see docs/unprivileged.md.

poll_counters.py --socket PATH     gets descriptors from this socket, and new ones after each change of the ruleset
poll_counters.py                   gets descriptors from systemd; ends after a change, and systemd starts it again
"""

import argparse
import os
import socket
import sys
import time

import iptc

FIRST = 3  # SD_LISTEN_FDS_START: the first descriptor that systemd passes
AGAIN = 75  # EX_TEMPFAIL


def asked(path):
    """Return the descriptors that hand_counters.py sends over the socket *path*."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        return socket.recv_fds(connection, 1, 16)[1]


def kept():
    """Return the descriptors that systemd has kept for this service."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        sys.exit("--socket is missing, and systemd has passed no descriptors")
    return range(FIRST, FIRST + int(os.environ["LISTEN_FDS"]))


def handed(path):
    """Return a reader of the counters that were handed over."""
    fds = asked(path) if path else kept()
    try:
        return iptc.CounterReader.from_fds(fds)
    finally:
        for fd in fds:
            os.close(fd)


def main():
    """Print the packets and bytes of each rule in each interval."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--socket", metavar="PATH")
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=-1, help="end after so many intervals")
    arguments = parser.parse_args()
    reader = handed(arguments.socket)
    before, left = None, arguments.count
    while left:
        try:
            now = reader.read()
        except iptc.Unsupported as error:
            print(f"poll_counters: {error}", file=sys.stderr)
            reader.close()
            if not arguments.socket:
                sys.exit(AGAIN)
            reader = handed(arguments.socket)
            continue
        if before is not None:
            for rule, (packets, size) in zip(now.rules, now.since(before)):
                print(rule.chain, rule.text, packets, size, flush=True)
            left -= 1
        before = now
        if left:
            time.sleep(arguments.interval)


if __name__ == "__main__":
    main()
