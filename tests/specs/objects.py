#!/usr/bin/env python3
"""objects.py COMMAND...: run COMMAND in a network and mount namespace of its own
which has the objects objects.txt names."""

import ctypes
import os
import socket
import struct
import subprocess
import sys

BPF_DIR = "/sys/fs/bpf"  # inside the private mount namespace only


def attr(kind, data, nested=False):
    head = struct.pack("HH", len(data) + 4, kind | (0x8000 if nested else 0))
    return head + data + b"\0" * (-len(data) % 4)


def nfnetlink(subsystem, message, payload):
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    sock.bind((0, 0))
    body = struct.pack("!BBH", 0, 0, 0) + payload
    flags = 0x1 | 0x4 | 0x400  # REQUEST, ACK, CREATE
    sock.send(struct.pack("IHHII", 16 + len(body), subsystem << 8 | message, flags, 1, 0) + body)
    reply = sock.recv(8192)
    sock.close()
    error = struct.unpack("i", reply[16:20])[0]
    if error:
        raise OSError(-error, os.strerror(-error))


def accounting(name):
    nfnetlink(7, 0, attr(1, name.encode() + b"\0"))


def timeout_policy(name, family, proto):
    nfnetlink(
        8,
        0,
        attr(1, name.encode() + b"\0")
        + attr(2, struct.pack("!H", family))
        + attr(3, struct.pack("B", proto))
        + attr(4, attr(3, struct.pack("!I", 100)), True),
    )


def pinned_program(path):
    subprocess.run(["mount", "-t", "bpf", "bpf", BPF_DIR], check=True)
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(struct.pack("BBhi", 0xB7, 0, 0, 1) + struct.pack("BBhi", 0x95, 0, 0, 0))
    licence = ctypes.create_string_buffer(b"GPL")
    load = ctypes.create_string_buffer(
        struct.pack("IIQQIIQ", 1, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0).ljust(120, b"\0")
    )
    fd = libc.syscall(321, 5, load, 120)  # x86-64: bpf(BPF_PROG_LOAD), socket filter
    if fd < 0:
        raise OSError(ctypes.get_errno(), "BPF_PROG_LOAD")
    name = ctypes.create_string_buffer(path.encode())
    pin = ctypes.create_string_buffer(struct.pack("QII", ctypes.addressof(name), fd, 0).ljust(120, b"\0"))
    if libc.syscall(321, 6, pin, 120) < 0:  # BPF_OBJ_PIN
        raise OSError(ctypes.get_errno(), "BPF_OBJ_PIN")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000 | 0x00020000):  # CLONE_NEWNET, CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    accounting("specacct")
    accounting("specacct2")
    timeout_policy("sct4", socket.AF_INET, 6)
    timeout_policy("sct6", socket.AF_INET6, 6)
    pinned_program(BPF_DIR + "/specprog")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
