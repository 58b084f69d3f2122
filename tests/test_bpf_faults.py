"""Each call of bpf(2) fails with each errno that it can have: an exception says why, and no descriptor stays open."""

import pytest
from faults import library, start  # noqa: F401  (fixtures)

STEPS = """
from iptc.bpf import btf, kernel
code = bytes.fromhex("b700000007000000" "9500000000000000")
types = bytes.fromhex("9feb0100" "18000000" "00000000" "10000000" "10000000" "05000000"
                      "01000000" "00000001" "04000000" "20000000" "0069333200")

def steps():
    made = kernel.Map(kernel.ARRAY, 8, 100, True)
    per_processor = kernel.Map(kernel.PERCPU_ARRAY, 8, 1)
    described = kernel.ProgramTypes(types)
    program = kernel.Program("seven", kernel.SYSCALL, code, described)
    assert program.run(bytearray(8)) == 7
    kernel.Program.from_descriptor(program.fileno())
    kernel.Map.from_descriptor(made.fileno()).read(7)
    return kernel.TracepointLink(kernel.Program("seven", kernel.RAW_TRACEPOINT, code), "percpu_free_percpu") and "done"

assert steps() == "done"
iptc.IPTCError              # imported now, and not when there is no descriptor left
"""

FAIL = """
before, kinds = left(), {}
for name in ("bpf", "mmap", "bpf info"):
    for number in [errno.EMFILE, errno.ENOMEM, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.E2BIG,
                   errno.ENOENT, errno.EAGAIN, errno.EINTR, errno.ENOSPC]:
        if name == "bpf info" and number == errno.EINVAL:
            continue  # what it stands for is another thing, and not ours to be closed
        for for_ever in (False, True):
            nth = 0
            while True:
                got, calls = attempt(steps, name, nth, number, for_ever)
                if calls <= nth:
                    break
                if got != "done":
                    assert isinstance(got, iptc.IPTCError), (name, nth, number, repr(got))
                    kinds.setdefault(errno.errorcode[number], set()).add(type(got).__name__)
                    assert str(got).startswith("can't "), got
                nth += 1
                del got
                gc.collect()
                assert left() == before, (name, nth, number, left())
assert steps() == "done"
for number, names in kinds.items():
    print(number, *sorted(names))
"""


@pytest.mark.needs("ebpf")
def test_each_failing_call_raises_its_reason(start):
    raised = {number: names for number, *names in map(str.split, start(STEPS + FAIL))}
    # the memory of a map cannot be mapped: this is handled like a failed call of bpf(2)
    assert raised.pop("EMFILE") == ["KernelError"] and raised.pop("ENOMEM") == ["OutOfMemory"]
    assert raised.pop("EPERM") == raised.pop("EACCES") == ["AccessDenied", "Unsupported"]
    assert raised.pop("ENOENT") == ["NotFound", "Unsupported"] and raised.pop("EAGAIN") == ["Conflict", "Unsupported"]
    assert set(map(tuple, raised.values())) == {("KernelError", "Unsupported")}


ROOM = """
import resource
sys.stdout.flush()
before = left()
most = max(int(name) for name in os.listdir("/proc/self/fd"))
for room in range(3, most + 12):
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, 4096))
    try:
        got = steps()
    except iptc.IPTCError as error:
        got = error.errno
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    gc.collect()
    assert got in ("done", errno.EMFILE), got
    assert left() == before
assert got == "done"
print("done")
"""


@pytest.mark.needs("ebpf")
def test_every_step_without_a_free_descriptor_is_reported(start):
    assert start(STEPS + ROOM) == ["done"]
