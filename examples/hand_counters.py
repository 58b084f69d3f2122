#!/usr/bin/env python3
"""Hands the counters of a table over to processes without privileges: see docs/unprivileged.md.

    hand_counters.py --socket PATH     gives descriptors to each process that connects to this socket
    hand_counters.py --store           gives descriptors to systemd, which passes them to iptc-poller.service

Run it as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (and CAP_NET_RAW for legacy tables). The process that
polls needs none of these.
"""

import argparse
import array
import os
import socket

import iptc

NAME = "counters"


def closed(fds):
    """Close our descriptors. The receiver has copies of them."""
    for fd in fds:
        os.close(fd)


def serve(reader, path):
    """Give descriptors to each process that connects. The permissions of *path* and its folder decide who can."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(5)
                try:
                    fds = reader.fds()  # a new set for each process, for the present ruleset
                except iptc.IPTCError as error:
                    print(error, flush=True)
                    continue
                try:
                    socket.send_fds(connection, [b"+"], fds)
                except OSError as error:
                    print(f"a client is gone: {error}", flush=True)
                finally:
                    closed(fds)


def store(reader):
    """Give the descriptors to systemd, in place of earlier ones, and wait until systemd has them."""
    address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect(address)
        manager.send(f"FDSTOREREMOVE=1\nFDNAME={NAME}".encode())
        fds = reader.fds()
        send(manager, f"FDSTORE=1\nFDPOLL=0\nFDNAME={NAME}", fds)
        closed(fds)
        ours, its = os.pipe()
        send(manager, "BARRIER=1", [its])
        os.close(its)
        os.read(ours, 1)  # ends when systemd has closed its side
        os.close(ours)


def send(manager, text, fds):
    """Send a message with descriptors."""
    manager.sendmsg([text.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", default="filter")
    parser.add_argument("--ipv6", action="store_true")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", metavar="PATH")
    where.add_argument("--store", action="store_true")
    arguments = parser.parse_args()
    with iptc.CounterReader(arguments.table, arguments.ipv6, source="bpf") as reader:
        if arguments.store:
            store(reader)
        else:
            serve(reader, arguments.socket)


if __name__ == "__main__":
    main()
