"""Tests the parts of an installed iptc that need no kernel: text, entries of legacy tables, messages of nf_tables.

    codec_smoke.py write FILE SPECIFICATIONS...      all rules there and back; FILE keeps what was made of them
    codec_smoke.py compare FILE SPECIFICATIONS...    the same on another processor: what it makes must be what FILE says

scripts/trials runs it, with the specifications of tests/specs. Processors differ in the order of bytes. Fields that
nf_tables defines are in network order, and so the same on all processors. Values that the kernel keeps in registers,
and the payloads of compat expressions, are in the order of the processor.
"""

import json
import pathlib
import platform
import socket
import struct
import sys

import iptc
from iptc import _netlink
from iptc.legacy.blob import scan_bytes
from iptc.nft.codec import decode, encode

NESTED = 0x8000
VERDICTS = {"ACCEPT": -2, "DROP": -1, "RETURN": -5}
# the offset of the field with the offset of the target, and the size of an entry's head
HEADS = {socket.AF_INET: (88, 112), socket.AF_INET6: (140, 168)}
HOOKS = ("INPUT", "FORWARD", "OUTPUT")


def rules_of(paths):
    """Yield (family, class of the rule, text) of each specification, for the families of its file."""
    for path in map(pathlib.Path, paths):
        families = {"ipv4": "4", "ipv6": "6"}.get(path.stem, "46")
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                for family in families:
                    kind, number = {"4": (iptc.Rule, socket.AF_INET), "6": (iptc.Rule6, socket.AF_INET6)}[family]
                    yield number, kind, line.split(None, 2)[2]


# ------------------------------------------------------------------ messages of nf_tables


def tree(data):
    """Return the attributes in *data*, each as (kind, attributes or bytes)."""
    found, at = [], 0
    while at < len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        content = data[at + 4 : at + length]
        found.append([kind & ~NESTED, tree(content) if kind & NESTED else content.hex()])
        at += (length + 3) & ~3
    return found


def rebuilt(attributes):
    """Return the bytes of *attributes*, a result of `tree`."""
    return b"".join(
        _netlink.attribute(kind | NESTED, rebuilt(content))
        if isinstance(content, list)
        else _netlink.attribute(kind, bytes.fromhex(content))
        for kind, content in attributes
    )


def turned(content):
    """Return *content*, hexadecimal, with the bytes of each value in the other order, if all values have one size."""
    data = bytes.fromhex(content)
    return {
        b"".join(data[at : at + size][::-1] for at in range(0, len(data), size)).hex()
        for size in (2, 4, 8, 16)
        if len(data) % size == 0
    }


COMPAT = {b"match".hex(): 3, b"target".hex(): 3}  # the attribute with the payload of an extension


def differences(here, there, name=""):
    """Return how many attributes of *here* differ from *there* only in the order of bytes. None: one differs more."""
    if len(here) != len(there):
        return None
    found = 0
    for (kind, ours), (other, theirs) in zip(here, there):
        if kind != other or isinstance(ours, list) != isinstance(theirs, list):
            return None
        if isinstance(ours, list):
            below = differences(ours, theirs, name)
            if below is None:
                return None
            found += below
        elif ours == theirs:
            # the name of an expression comes before its content, which may begin with the name of an extension
            if kind == 1 and name not in COMPAT:
                name = ours.removesuffix("00")
        elif len(ours) == len(theirs) and (theirs in turned(ours) or COMPAT.get(name) == kind):
            found += 1
        else:
            return None
    return found


# ------------------------------------------------------------------ tables of legacy xtables


def as_in_the_kernel(family, entry):
    """Return *entry* with its verdict as the kernel stores it, or None if its target is a jump or an extension."""
    at = struct.unpack_from("=H", entry, HEADS[family][0])[0]
    name = entry[at + 2 : at + 31].rstrip(b"\0").decode()
    if entry[at + 33 : at + 40] != b"verdict":
        return entry
    if name not in VERDICTS:
        return None
    return entry[: at + 2] + bytes(30) + struct.pack("=i4x", VERDICTS[name])


def table(family, entries):
    """Return (struct ipt_getinfo, entries) of a filter table that has *entries* in INPUT."""
    place, head = HEADS[family]

    def closing(target):
        return struct.pack(f"={place}xHH{head - place - 4}x", head, head + len(target)) + target

    policy = closing(struct.pack("=H30xi4x", 40, VERDICTS["ACCEPT"]))
    blob, starts, ends = b"".join(entries), [0], []
    for _ in HOOKS:
        ends.append(len(blob))
        blob += policy
        starts.append(len(blob))
    blob += closing(struct.pack("=H29sB32s", 64, b"ERROR", 0, b"ERROR"))
    hooks = [0, *starts[:3], 0]
    floors = [0, *ends, 0]
    info = struct.pack("=32sI5I5III", b"filter", 0b1110, *hooks, *floors, len(entries) + 4, len(blob))
    return info, blob


# ------------------------------------------------------------------ the trial


def there_and_back(paths):
    """Return three things: [family, texts, tree of the message] of each rule that needs no kernel, as a list; how many
    specifications need a kernel; and how many rules were in tables."""
    made, lost, others = [], 0, 0
    entries = {socket.AF_INET: [], socket.AF_INET6: []}
    for family, kind, specification in rules_of(paths):
        try:
            rules = kind.from_args(specification).expand()
        except (iptc.IPTCError, OSError):
            # an extension that asks the kernel while it parses, or that this release does not have
            others += 1
            continue
        for rule in rules:
            text, entry = str(rule), rule._entry()
            # several matches of one protocol become one in nf_tables: after that nothing changes
            message = encode(family, decode(family, encode(family, entry)))
            assert encode(family, decode(family, message)) == message, text
            attributes = tree(message)
            assert rebuilt(attributes) == message, text
            try:
                assert str(kind.from_args(text)) == text, text
            except iptc.ParameterError:
                # a text that iptables prints, but does not accept
                lost += 1
            made.append([family, f"{specification} -> {text}", attributes])
            if (placed := as_in_the_kernel(family, entry)) is not None:
                entries[family].append((placed, entry))
    for family, pairs in entries.items():
        counts, chains, rules = scan_bytes(family, *table(family, [entry for entry, _ in pairs]))
        assert [chain[0] for chain in chains] == list(HOOKS)
        assert [bytes(rule) for rule in rules] == [entry for _, entry in pairs]
    done = len(made)
    assert done > 0.8 * (done + others) and lost < 0.02 * done, (done, others, lost)
    return made, others, sum(map(len, entries.values()))


def compared(made, expected):
    """Return how many messages differ only in the heads of attributes, and how many in the order of values too."""
    wanted = {(family, texts): attributes for family, texts, attributes in expected}
    same = other = 0
    for family, texts, attributes in made:
        theirs = wanted[family, texts]
        found = differences(attributes, theirs)
        assert found is not None, (texts, attributes, theirs)
        same, other = same + (not found), other + bool(found)
    assert len(made) > 0.99 * len(expected)
    return same, other


def main(verb, file, *paths):
    made, others, in_tables = there_and_back(paths)
    print(
        f"{platform.machine()}, {sys.byteorder}-endian, Python {sys.version.split()[0]}: {len(made)} rules to text"
        f" and to messages of nf_tables, and back; {in_tables} in tables of legacy xtables; {others} need a kernel"
    )
    if verb == "write":
        pathlib.Path(file).write_text(json.dumps(made))
    else:
        same, other = compared(made, json.loads(pathlib.Path(file).read_text()))
        print(
            f"{same} messages say the same as those of the other processor, and {other} but for the order of bytes in"
            " registers and in structures of extensions"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
