"""A reader is handed over to another process: `CounterReader.fds` and `CounterReader.from_fds`."""

import array
import contextlib
import fcntl
import os
import pickle
import random
import socket
import struct
import subprocess
import sys
import threading

import pytest
from conftest import PATIENCE
from faults import library, start  # noqa: F401  (fixtures)
from test_bpf_rights import with_only
from test_bpf_source import restored, same
from test_structure import ROOT

import iptc
from iptc.bpf import kernel, parcel

# if the kernel accepts no programs there is nothing to hand over; test_bpf_source tests the error then
pytestmark = pytest.mark.needs("ebpf")

EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
NOBODY += ["--no-new-privs"]


def left_open():
    """Return the descriptors of this process."""
    return sorted(name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}"))


@contextlib.contextmanager
def closing(fds):
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def taken(fds, order=list):
    """Return a reader made of the descriptors *fds*, which are closed then."""
    with closing(fds):
        return iptc.CounterReader.from_fds(order(fds))


@pytest.fixture
def reader(host, ipv6):
    """A reader that reads the counters of some rules by eBPF."""
    lines = (
        ":OUTPUT ACCEPT [0:0]",
        ":web - [0:0]",
        "-A OUTPUT -p udp --dport 7 -j web",
        '-A web -p udp -m comment --comment "first one"',
    )
    restored(host, ipv6, *lines)
    with iptc.CounterReader("filter", ipv6, source="bpf") as made:
        yield made


def test_the_receiver_sees_the_same_numbers_and_rules(reader, ipv6, traffic):
    traffic(7, 3, ipv6)
    before = reader.read()
    other = taken(reader.fds(), lambda fds: [*reversed(fds)])
    assert (other.table, other.ipv6, other.backend, other.source) == ("filter", ipv6, reader.backend, "bpf")
    assert "not compared" in other.source_reason and not other.closed
    first = same(other, reader)
    assert [(r.slot, r.chain, r.text, r.comment, r.target) for r in first.rules] == [
        (r.slot, r.chain, r.text, r.comment, r.target) for r in before.rules
    ]
    assert [r.rule for r in first.rules] == [r.rule for r in before.rules]
    traffic(7, 2, ipv6)
    snapshot = same(other, reader)
    assert snapshot["web"][0].packets == 5
    # snapshots of both readers are of the same ruleset, so they can be compared
    for earlier in (first, before):
        delta = snapshot.since(earlier)
        assert delta["web"][0][0] == 2 and set(delta.flags) == {0}
    assert snapshot._layout is first._layout
    copy = pickle.loads(pickle.dumps(snapshot))
    assert list(copy) == list(snapshot) and copy.generation == snapshot.generation
    assert [r.text for r in copy.rules] == [r.text for r in snapshot.rules] and copy.rules[0].rule == snapshot.rules[
        0
    ].rule
    other.close()
    assert list(snapshot) == list(copy)
    with pytest.raises(iptc.KernelError, match="closed"):
        other.read()


def test_each_receiver_has_memory_of_its_own(reader, ipv6, traffic):
    others = [taken(reader.fds()) for _ in range(3)]
    for _ in range(3):
        traffic(7, 1, ipv6)
        for other in others:
            same(other, reader)


def test_the_descriptors_belong_to_the_caller(reader):
    before = left_open()
    fds = reader.fds()
    assert len(set(fds)) == len(fds) and not any(map(os.get_inheritable, fds))
    assert set(map(str, fds)) == set(left_open()) - set(before)
    other = iptc.CounterReader.from_fds(fds)
    again = iptc.CounterReader.from_fds(iter(fds))
    for fd in fds:
        os.close(fd)
    same(other, reader)
    again.close()
    other.close()
    other.close()
    assert left_open() == before


@pytest.mark.parametrize("change", ["-A web -p tcp", "-Z web", "-P FORWARD DROP", "-t mangle -A OUTPUT -p tcp"])
def test_after_a_change_of_the_ruleset_nothing_is_read(reader, host, ipv6, change, traffic):
    other = taken(reader.fds())
    same(other, reader)
    host.iptables(change, ipv6=ipv6)
    traffic(7, 1, ipv6)
    # another table, and zeros, are no other ruleset to legacy tables; to iptables-nft, zeros are some times
    if "-Z" in change or host.backend == "legacy" and "mangle" in change:
        with contextlib.suppress(iptc.Unsupported):
            same(other, reader)
            return
    for _ in range(2):
        with pytest.raises(iptc.Unsupported, match="the ruleset was changed.*ask for them again"):
            other.read()
    same(taken(reader.fds()), reader)


def test_after_the_end_of_the_namespace_nothing_is_read(host, ipv6):
    """The descriptors of the receiver do not keep the namespace alive."""
    name = f"handed{os.getpid()}"
    host.run("ip", "netns", "add", name)
    try:
        command = [host.tool(ipv6), "-A", "OUTPUT", "-p", "udp"]
        host.run("ip", "netns", "exec", name, *command)
        with iptc.CounterReader("filter", ipv6, netns=name, source="bpf", backend=host.backend) as reader:
            other = taken(reader.fds())
            same(other, reader)
    finally:
        host.run("ip", "netns", "delete", name)
    # it ends in another thread of the kernel's
    with pytest.raises(iptc.Unsupported, match="its network namespace has ended"):
        while True:
            other.read()


def test_counters_that_are_read_by_socket_cannot_be_handed_over(reader, ipv6):
    with iptc.CounterReader("filter", ipv6) as by_socket, pytest.raises(iptc.Unsupported, match="source is 'socket'"):
        by_socket.fds()
    with taken(reader.fds()) as other, pytest.raises(iptc.Unsupported, match="were handed over"):
        other.fds()
    reader.close()
    with pytest.raises(iptc.KernelError, match="closed"):
        reader.fds()


def test_two_readers_with_one_set_never_return_wrong_numbers(reader, ipv6, traffic):
    """Each of the two notices that the other one has read meanwhile, and reads all again."""
    with closing(reader.fds()) as fds:
        one, two = iptc.CounterReader.from_fds(fds), iptc.CounterReader.from_fds(fds)
    for _ in range(3):
        traffic(7, 1, ipv6)
        for other in (one, two, one):
            same(other, reader)


def test_many_threads_can_use_one_handed_reader(reader, ipv6):
    other = taken(reader.fds())
    wanted, wrong = list(reader.read()), []

    def work():
        for _ in range(50):
            if list(other.read()) != wanted:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not wrong


def test_a_child_of_a_fork_can_use_a_handed_reader(reader):
    other = taken(reader.fds())
    wanted = list(other.read())
    with other._mutex:  # of a thread that the child does not have
        child = os.fork()
        if not child:
            status = 1
            try:
                status = list(other.read()) != wanted
            finally:
                os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert list(other.read()) == wanted


# ------------------------------------------------------------------ what is no such descriptor

OTHERS = [
    ("x", iptc.ParameterTypeError, "a descriptor is an integer"),
    (1.0, iptc.ParameterTypeError, "a descriptor is an integer"),
    (True, iptc.ParameterTypeError, "a descriptor is an integer"),
    (-1, iptc.ParameterError, "is no descriptor"),
    (1 << 31, iptc.ParameterError, "is no descriptor"),
    (1 << 70, iptc.ParameterError, "is no descriptor"),
    (1 << 20, iptc.ParameterError, "is no open descriptor"),
]


@pytest.mark.parametrize(("other", "raised", "why"), OTHERS)
def test_what_is_no_descriptor_is_refused(reader, other, raised, why):
    with closing(reader.fds()) as fds:
        for place in range(len(fds)):
            with pytest.raises(raised, match=why):
                iptc.CounterReader.from_fds([*fds[:place], other, *fds[place + 1 :]])


def test_descriptors_of_other_kinds_are_refused(reader):
    one, two = socket.socketpair()
    array_map, program = (
        kernel.Map(kernel.ARRAY, 8, 1, True),
        kernel.Program("seven", kernel.SYSCALL, bytes.fromhex("b7000000070000009500000000000000")),
    )
    # another map that has the right name
    seeming = kernel.Map(kernel.ARRAY, 8, 1, True, "iptc_given")
    with closing(reader.fds()) as fds, open("/proc/self/status") as file, one, two:
        before = left_open()
        for other in (one, file, array_map, program, seeming):
            for place in range(len(fds)):
                with pytest.raises(iptc.ParameterError):
                    iptc.CounterReader.from_fds([*fds[:place], other.fileno(), *fds[place + 1 :]])
            with pytest.raises(iptc.ParameterError):
                iptc.CounterReader.from_fds([*fds, other.fileno()])
        assert left_open() == before


def test_too_few_and_too_many_descriptors_are_refused(reader):
    with closing(reader.fds()) as fds, closing(reader.fds()) as more:
        for place in range(len(fds)):
            with pytest.raises(iptc.ParameterError, match="among the descriptors there must be"):
                iptc.CounterReader.from_fds(fds[:place] + fds[place + 1 :])
            with pytest.raises(iptc.ParameterError, match="a second one|exactly one|none that fds"):
                iptc.CounterReader.from_fds([*fds, fds[place]])
        for wrong in ([], [*fds, *more], fds * 100):
            with pytest.raises(iptc.ParameterError):
                iptc.CounterReader.from_fds(wrong)
        for place in range(4):
            with pytest.raises(iptc.ParameterError, match="were not handed over together"):
                iptc.CounterReader.from_fds([*fds[:place], more[place], *fds[place + 1 :]])
        with pytest.raises(iptc.ParameterTypeError):
            iptc.CounterReader.from_fds(None)


# ------------------------------------------------------------------ the memfd


def content_of(fds):
    """(the place of the memfd among *fds*, what it says)."""
    place = next(number for number, fd in enumerate(fds) if parcel.seals_of(fd))
    return place, os.pread(fds[place], 1 << 30, 0)


def memfd(content, seals=parcel.SEALS):
    made = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(made, content)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, seals)
    return made


def with_content(fds, content, seals=parcel.SEALS):
    """A reader, with another memfd."""
    place, _ = content_of(fds)
    with closing([memfd(content, seals)]) as made:
        return iptc.CounterReader.from_fds([*fds[:place], *made, *fds[place + 1 :]])


def test_a_memfd_that_can_be_changed_is_refused(reader):
    with closing(reader.fds()) as fds:
        _, content = content_of(fds)
        same(with_content(fds, content), reader)
        for left_out in (fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SEAL):
            with pytest.raises(iptc.ParameterError, match="is not sealed"):
                with_content(fds, content, parcel.SEALS & ~left_out)
        place, _ = content_of(fds)
        for change in (lambda fd: os.write(fd, b"x"), lambda fd: os.ftruncate(fd, 0)):
            with pytest.raises(PermissionError):
                change(fds[place])


def test_a_memfd_of_another_release_is_refused(reader):
    with closing(reader.fds()) as fds:
        _, content = content_of(fds)
        with pytest.raises(iptc.Unsupported, match="another release of iptc.* in form 2, and not 1"):
            with_content(fds, content[:8] + struct.pack("<I", 2) + content[12:])


def test_a_memfd_that_was_tampered_with_is_refused(reader):
    with closing(reader.fds()) as fds:
        _, content = content_of(fds)
        for cut in (0, 7, 40, len(content) - 1):
            with pytest.raises(iptc.ParameterError, match="no description of counters|is damaged"):
                with_content(fds, content[:cut])
        for place in range(16, len(content), 97):
            with pytest.raises(iptc.ParameterError, match="is damaged: its checksum is wrong"):
                with_content(fds, content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


HEAD = struct.Struct("<8sIIQQQQQQ")


def parts_of(content):
    """The parts of a parcel: what is said as JSON, spots, sheets, pieces, identities, texts."""
    lengths, at, parts = HEAD.unpack_from(content)[3:], HEAD.size, []
    for length in lengths:
        parts.append(content[at : at + length])
        at += length
    return parts


def joined(parts):
    """A parcel of these parts, with the right checksum."""
    import binascii

    lengths = [len(part) for part in parts]
    body = b"".join(parts)
    head = HEAD.pack(b"iptc fds", parcel.FORM, 0, *lengths)
    return HEAD.pack(b"iptc fds", parcel.FORM, binascii.crc32(body, binascii.crc32(head[16:])), *lengths) + body


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"cpus": ', b'"cpus": 0'),
        (b'"cpus": ', b'"cpus": 9999'),
        (b'"cpus": ', b'"cpus": -'),
        (b'"stride": ', b'"stride": 1000'),
        (b'"kept": true', b'"kept": 1'),
        (b'"slots": ', b'"slots": 9'),
        (b'"rules": ', b'"rules": 1'),
        (b'"rule": [', b'"rule": [4, '),
        (b'"rule": [16', b'"rule": [8'),
        (b'"policy": [16', b'"policy": [4096'),
        (b'"chains": [[', b'"chains": [[], ['),
        (b'["INPUT", "ACCEPT"', b'["INPUT", null'),
        (b'["INPUT", "ACCEPT", 0', b'["INPUT", "ACCEPT", 1'),
        (b'["INPUT"', b'["FORWARD"'),
        (b'"set": ', b'"set": 1'),
        (b'"table": "', b'"table": 7, "x": "'),
        (b'"generation"', b'"generations"'),
        (b"{", b"["),
        (b"{", b'{"a": ' + b"[" * 100_000),
    ],
)
def test_every_wrong_number_in_the_memfd_is_refused(reader, old, new):
    with closing(reader.fds()) as fds:
        said, *rest = parts_of(content_of(fds)[1])
        assert old in said
        with pytest.raises(iptc.ParameterError, match="is damaged|not handed over together"):
            with_content(fds, joined([said.replace(old, new, 1), *rest]))


def test_wrong_texts_in_the_memfd_raise_when_they_are_read(reader):
    with closing(reader.fds()) as fds:
        *rest, texts = parts_of(content_of(fds)[1])
        for wrong in (b"", b"[]", b"{}", texts[:-1], texts.replace(b'"', b""), b'[["a", null], 7]', b"[" * 100_000):
            other = with_content(fds, joined([*rest, wrong]))
            snapshot = same(other, reader)
            with pytest.raises(iptc.ParameterError, match="is damaged"):
                assert snapshot.rules


FUZZ = """
import os, random, struct, sys
sys.path.insert(0, sys.argv[1])
import iptc
from test_bpf_handing import closing, content_of, joined, parts_of, with_content

chosen = random.Random(int(sys.argv[2]))
ODD = [0, 1, 2, 15, 16, 17, 4080, 4095, 4096, 4097, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
table, ipv6 = "filter", sys.argv[3] == "6"
with iptc.CounterReader(table, ipv6, source="bpf") as reader, closing(reader.fds()) as fds:
    wanted = list(reader.read())
    parts = parts_of(content_of(fds)[1])
    read = refused = 0
    for _ in range(int(sys.argv[4])):
        changed = list(map(bytearray, parts))
        for _ in range(chosen.choice([1, 1, 2, 5])):
            part = changed[chosen.choice([1, 1, 2, 2, 3, 3, 4])]
            width = 2 if part is changed[3] else 4
            if chosen.random() < 0.1:
                del part[chosen.randrange(len(part) + 1):]
            elif chosen.random() < 0.1:
                part += chosen.randbytes(chosen.randrange(1, 40))
            elif part:
                at = chosen.randrange(len(part) // width or 1) * width
                number = chosen.choice(ODD) if chosen.random() < 0.8 else chosen.getrandbits(32)
                part[at:at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
        try:
            other = with_content(fds, joined(list(map(bytes, changed))))
            for _ in range(3):
                snapshot = other.read()
                assert len(snapshot) == len(wanted)
            snapshot.since(snapshot)
            read += 1
        except (iptc.ParameterError, iptc.Unsupported):
            refused += 1
    assert read and refused, (read, refused)
    assert list(with_content(fds, joined(parts)).read()) == wanted
print("done")
"""


def test_no_content_leads_out_of_the_memory(host, ipv6):
    """A memfd with random changes is refused, or read without harm."""
    restored(host, ipv6, *[f"-A {chain} -p udp --dport {n}" for n in range(300) for chain in ("INPUT", "OUTPUT")])
    times = 400 * int(os.environ.get("IPTC_STRESS", 1))
    words = [str(ROOT / "tests"), "7", "6" if ipv6 else "4", str(times)]
    done = subprocess.run([sys.executable, "-c", FUZZ, *words], env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]


# ------------------------------------------------------------------ what the receiver gets, and what not


def test_only_what_is_needed_is_handed_over(reader, host):
    """The receiver gets no map that says which memory is read, and no program that reads other memory."""
    with closing(reader.fds()) as fds:
        things = [kernel.Descriptor.of(fd) for fd in fds if not parcel.seals_of(fd)]
        said = [(kind, of_map, of_program) for kind, of_map, of_program in (each.names() for each in things)]
        maps = {of_map for kind, of_map, _ in said if kind == kernel.ARRAY}
        programs = {of_program for kind, _, of_program in said if kind == kernel.SYSCALL}
        assert (maps, programs) == ({"iptc_given"}, {"hand", "hand_pair"})
        assert len(fds) == (5 if host.backend == "legacy" else 4)


def programs_of(fds):
    """{name: program} of those that were handed over."""
    each = [kernel.Program.from_descriptor(fd) for fd in fds if not parcel.seals_of(fd)]
    return {program.names()[2]: program for program in each}


def given_of(fds):
    """The map that was handed over."""
    each = [fd for fd in fds if not parcel.seals_of(fd)]
    return next(kernel.Map.from_descriptor(fd) for fd in each if kernel.Descriptor.of(fd).names()[1] == "iptc_given")


def poll_request(first, count, cpu, cpus, page, stride):
    """`struct poll`."""
    return bytearray(struct.pack("6I", first, count, cpu, cpus, page, stride) + bytes(16 * 2 + 16 + 8 + 16))


def test_the_programs_give_nothing_out_after_a_change(reader, host, ipv6, traffic):
    """The programs themselves refuse, so a receiver cannot go on by running them itself."""
    traffic(7, 3, ipv6)
    with closing(reader.fds()) as fds:
        programs = programs_of(fds)
        given = given_of(fds)
        copies = len(parts_of(content_of(fds)[1])[3]) // 4
    cpus = len(kernel.possible_processors())

    def run(name, request):
        programs[name].run(request)
        return request

    first = run("hand", poll_request(0, copies, 0, cpus, 0, 1))
    before = given.read(0)
    assert struct.unpack_from("I", first, 76) == (0,) and any(before)
    pair = struct.pack("4I", 0, 0, 0, 8) + bytes(32)
    assert struct.unpack_from("I", run("hand_pair", bytearray(pair)), 36) == (0,)
    host.iptables("-A web -p tcp", ipv6=ipv6)
    traffic(7, 5, ipv6)
    chosen = random.Random(7)
    for _ in range(200):
        numbers = [chosen.choice([0, 1, 2, 15, 4096, (1 << 32) - 1, chosen.getrandbits(32)]) for _ in range(6)]
        assert struct.unpack_from("I", run("hand", poll_request(*numbers)), 76) != (0,)
        answer = run("hand_pair", bytearray(struct.pack("4I", *numbers[:4]) + bytes(32)))
        assert struct.unpack_from("2QII", answer, 16) in ((0, 0, 0, 1), (0, 0, 0, 3))
    assert given.read(0) == before


def test_programs_without_the_tracepoint_read_only_the_present_table(reader, host, ipv6):
    """The receiver may close the link of the tracepoint, and then freed blocks are not counted any more. The programs
    still give out counters of the present table only."""
    if host.backend != "legacy":
        return  # there is nothing to end
    with closing(reader.fds()) as fds:
        programs, given = programs_of(fds), given_of(fds)
        copies = len(parts_of(content_of(fds)[1])[3]) // 4
    cpus = len(kernel.possible_processors())
    rules = [f"[{{number}}:7] -A web {text}" for text in ("-p udp", "-p tcp")]
    for turn in range(20):
        for number in (1000 + turn, 2000 + turn):
            lines = [":OUTPUT ACCEPT [0:0]", ":web - [0:0]", *(rule.format(number=number) for rule in rules)]
            host.restore("\n".join(["*filter", *lines, "COMMIT", ""]), ipv6=ipv6, arguments=["-c"])
        request = poll_request(0, copies, 0, cpus, 0, 1)
        programs["hand"].run(request)
        if struct.unpack_from("I", request, 76) == (0,):
            numbers = {
                number for bank in range(given.entries) for (number,) in struct.iter_unpack("Q", given.read(bank))
            }
            assert {each for each in numbers if 1000 <= each < 3000} <= {2000 + turn}


def test_odd_requests_are_harmless(reader, ipv6):
    """Whatever a receiver requests of the programs, it gets counters of this table or nothing."""
    other = taken(reader.fds())
    wanted = list(other.read())
    with closing(reader.fds()) as fds:
        programs = programs_of(fds)
        mine = iptc.CounterReader.from_fds(fds)
    chosen = random.Random(8)
    for _ in range(300):
        numbers = [chosen.choice([0, 0, 1, 2, 3, 14, 15, 4096, (1 << 32) - 1]) for _ in range(6)]
        programs["hand"].run(poll_request(*numbers))
        programs["hand_pair"].run(bytearray(struct.pack("4I", *numbers[:4]) + bytes(32)))
        for length in (0, 4, 79):
            with pytest.raises(iptc.Unsupported):
                programs["hand"].run(bytearray(length))
    assert list(mine.read()) == list(other.read()) == wanted


PRIVILEGES = """
import ctypes, os, sys
import iptc
reader = iptc.CounterReader.from_fds([int(word) for word in sys.argv[1:]])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
assert os.getuid() == 65534 and {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")} == {0}
print(list(reader.read()), flush=True)
libc = ctypes.CDLL(None, use_errno=True)

def bpf(command, *numbers):
    attributes = (ctypes.c_uint32 * 32)(*numbers)
    answer = libc.syscall(321 if os.uname().machine == "x86_64" else 280, command, attributes, 128)
    return answer if answer >= 0 else -ctypes.get_errno()

# neither new programs nor maps, nor the maps of others by their numbers
MAP_CREATE, GET_FD_BY_ID, NEXT_ID = 0, 14, 12
print({bpf(GET_FD_BY_ID, number) for number in range(1, 2000)} <= {-1, -2})
input()
print(list(reader.read()))
input()
try:
    reader.read()
except iptc.Unsupported as error:
    print(error)
"""


@pytest.mark.needs("other users")
def test_a_process_without_privileges_in_another_namespace_reads(reader, host, ipv6, traffic):
    """A process of another user, without a capability, in another network namespace."""
    with closing(reader.fds()) as fds:
        for fd in fds:
            os.set_inheritable(fd, True)
        command = ["unshare", "-n", *NOBODY, sys.executable, "-c", PRIVILEGES, *map(str, fds)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, pass_fds=fds
        )
    with process:
        assert process.stdout.readline() == f"{list(reader.read())}\n"
        assert process.stdout.readline() == "True\n"
        traffic(7, 3, ipv6)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{list(reader.read())}\n"
        host.iptables("-I web -p tcp", ipv6=ipv6)
        assert "the ruleset was changed" in process.communicate("\n", timeout=PATIENCE)[0]
    assert process.returncode == 0


# ------------------------------------------------------------------ rights that are given up

GIVEN_UP = """
import ctypes, os, struct, sys
import iptc
from iptc.bpf import reasons
libc = ctypes.CDLL(None, use_errno=True)

def give_up():
    head = struct.pack("Ii", 0x20080522, 0)
    assert libc.capset(head, bytes(24)) == 0
    names = {"CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}
    assert reasons.capabilities(names) == set()

ipv6, backend = sys.argv[1] == "6", sys.argv[2]
reader = iptc.CounterReader("filter", ipv6, backend, source="bpf", source_check=float(sys.argv[3]))
fds = reader.fds()
first = list(reader.read())
give_up()
for _ in range(3):
    assert list(reader.read()) == first
assert list(iptc.CounterReader.from_fds(fds).read()) == first
print(reader.source, reader.source_reason)
try:
    reader.fds()
except iptc.IPTCError as error:
    print(error, flush=True)
sys.stdin.readline()             # the ruleset was changed
for _ in range(2):
    try:
        reader.read()
    except iptc.Unsupported as error:
        print(error)
"""


@pytest.mark.parametrize("period", [0, 60, 1e-9])
@pytest.mark.needs("other users")
def test_counters_are_handed_over_and_then_capabilities_are_given_up(reader, host, ipv6, period):
    """With exactly the capabilities that the documentation names, and then with none."""
    rights = ["bpf", "perfmon", "net_admin", *(["net_raw"] if host.backend == "legacy" else [])]
    granted = ",".join(f"+{name}" for name in rights)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps=-all,{granted}"]
    command += [f"--ambient-caps={granted}", f"--bounding-set=-all,{granted}", sys.executable, "-c", GIVEN_UP]
    command += ["6" if ipv6 else "4", host.backend, str(period)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        first, second = process.stdout.readline(), process.stdout.readline()
        host.iptables("-I OUTPUT -p tcp", ipv6=ipv6)
        third, fourth = process.communicate("\n", timeout=PATIENCE)[0].splitlines()
    assert process.returncode == 0
    assert first.strip() == "bpf" if period != 1e-9 else "not compared" in first
    assert "no CAP_BPF" in second or "without CAP_NET_ADMIN" in second
    # what eBPF finds after a change cannot be compared any more
    assert third == fourth and third.startswith(
        "can't read the counters with eBPF: what it finds now cannot be compared"
    )
    assert "CAP_NET_ADMIN" in third


def test_without_the_rights_nothing_is_handed_over(host, ipv6):
    for rights in (["net_admin", "net_raw", "bpf"], ["net_admin", "net_raw", "perfmon"], ["net_admin", "net_raw"]):
        code = f"import iptc; iptc.CounterReader('filter', {ipv6}, {host.backend!r}, source='bpf')"
        done = subprocess.run(
            [*with_only(*rights), sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True
        )
        assert "this process has no CAP_" in done.stderr


# ------------------------------------------------------------------ calls that fail

FAIL = """
import signal
reader = iptc.CounterReader("filter", backend=sys.argv[1], source="bpf")
taken = reader.fds()
iptc.IPTCError              # imported now, and not when there is no descriptor left

def hand():
    fds = reader.fds()
    for fd in fds:
        os.close(fd)

def take():
    other = iptc.CounterReader.from_fds(taken)
    for _ in range(2):
        other.read()

def interrupted(action):
    try:
        action()
    except KeyboardInterrupt:
        pass

hand(), take()
for action in (hand, take):
    for name in ("bpf", "mmap", "memfd_create", "write", "fcntl"):
        for number in (errno.EMFILE, errno.EPERM, errno.EINTR, -signal.SIGINT):
            nth = 0
            while True:
                reader.read()       # after a failure it opens anew
                before = left()
                step = action if number > 0 else lambda: interrupted(action)
                got, calls = attempt(step, name, nth, number)
                assert got is None or isinstance(got, iptc.IPTCError), (action, name, nth, number, repr(got))
                if calls <= nth:
                    break
                nth += 1
                del got
                gc.collect()
                reader.read()
                assert left() == before, (action, name, nth, number, before, left())
hand(), take()
print("done")
"""


@pytest.mark.parametrize("ipv6", [False])
def test_each_failing_call_leaves_nothing_open(host, ipv6, start):
    """One of iptc's exceptions is raised, and nothing stays open."""
    restored(host, ipv6, "-A OUTPUT -p udp --dport 7")
    assert start(FAIL, host.backend) == ["done"]


# ------------------------------------------------------------------ the examples


def poller(*words, **how):
    return subprocess.run(
        [*NOBODY, sys.executable, str(EXAMPLES / "poll_counters.py"), "--interval", "0", *words],
        capture_output=True,
        text=True,
        **{"env": ENVIRONMENT, **how},
    )


@pytest.mark.parametrize("ipv6", [False])
@pytest.mark.needs("other users")
def test_the_example_with_a_socket_works(reader, host, ipv6, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for each in (folder, *folder.parents):
        with contextlib.suppress(PermissionError):
            each.chmod(each.stat().st_mode | 0o111)
    path = "counters.sock"  # within the folder: a whole path may be longer than the 107 bytes of a socket's address
    giver = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "hand_counters.py"), "--socket", path],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**ENVIRONMENT, "IPTC_BACKEND": host.backend},
    )
    with giver:
        try:
            assert giver.stdout.readline() == "ready\n"
            (folder / path).chmod(0o666)
            done = poller("--socket", path, "--count", "2", cwd=folder)
            assert (done.returncode, done.stderr) == (0, "")
            texts = [rule.text for rule in reader.read().rules]
            assert done.stdout.splitlines() == [f"OUTPUT {texts[0]} 0 0", f"web {texts[1]} 0 0"] * 2
        finally:
            giver.terminate()


AS_SYSTEMD = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
os.environ.update(LISTEN_FDS=str(len(high)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=":".join(["counters"] * len(high)))
os.execvp(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("ipv6", [False])
@pytest.mark.needs("other users")
def test_the_example_with_systemd_works(reader, host, ipv6):
    """The test plays systemd: it keeps the descriptors, and passes them on in another order."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, contextlib.ExitStack() as stack:
        manager.bind("")  # a name in the network namespace, which the kernel chooses
        address = "@" + manager.getsockname()[1:].decode()
        giver = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "hand_counters.py"), "--store"],
            env={**ENVIRONMENT, "IPTC_BACKEND": host.backend, "NOTIFY_SOCKET": address},
        )
        said, fds = [], []
        while not said or not said[-1].startswith(b"BARRIER"):
            text, ancillary, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(64))
            numbers = array.array("i", b"".join(data for _, _, data in ancillary)).tolist()
            said.append(text)
            if text.startswith(b"FDSTORE=1"):
                fds += numbers
                stack.enter_context(closing(numbers))
            else:
                assert giver.poll() is None or not numbers  # it waits until the barrier is taken
                for number in numbers:
                    os.close(number)
        assert giver.wait(PATIENCE) == 0
        words = [*NOBODY, sys.executable, str(EXAMPLES / "poll_counters.py"), "--interval", "0", "--count", "1"]
        service = subprocess.Popen(
            [sys.executable, "-c", AS_SYSTEMD, ",".join(map(str, reversed(fds))), *words],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=fds,
            env=ENVIRONMENT,
        )
        said_there = service.communicate(timeout=PATIENCE)[0].splitlines()
        texts = [rule.text for rule in reader.read().rules]
        assert (service.returncode, said_there) == (0, [f"OUTPUT {texts[0]} 0 0", f"web {texts[1]} 0 0"])
        # once the ruleset was changed, the service ends and is started again, with others
        host.iptables("-A web -p tcp")
        service = subprocess.run(service.args, capture_output=True, text=True, pass_fds=fds, env=ENVIRONMENT)
        assert service.returncode == 75 and "ask for them again" in service.stderr
    assert said == [b"FDSTOREREMOVE=1\nFDNAME=counters", b"FDSTORE=1\nFDPOLL=0\nFDNAME=counters", b"BARRIER=1"]
