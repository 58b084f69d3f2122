"""Says why the kernel refuses a BPF program, as far as this process can find out."""

from __future__ import annotations

import errno
import os
import re

from ..errors import IPTCError, Unsupported, kernel_error

OLDEST = (5, 18)
"""The first kernel that has all functions that the programs call; bpf_map_lookup_percpu_elem was the last to come."""

_RUN_BY_ALL = (5, 19)
"""The first kernel in which a process without capabilities can run a program that it was given, whatever
kernel.unprivileged_bpf_disabled is."""

_NOT_PERMITTED = "not permitted, by a security module or a filter of system calls (seccomp)"
_ONLY_WITH_RIGHTS = "since the kernel is older than 5.19 and kernel.unprivileged_bpf_disabled is set"
_SETTING = "/proc/sys/kernel/unprivileged_bpf_disabled"  # every kernel that has bpf() has it

_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # its inode, which is the same in every kernel
_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_ASKING = {"CAP_NET_ADMIN": 12}
FULL = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""The errnos that mean "no descriptor or no memory is free", and not "this is refused"."""
_MOMENTARY = {errno.ENOMEM, errno.EAGAIN, errno.EINTR}
"""The errnos of running a program that may go away: the open programs and maps can still be used."""


class Doubt(Unsupported):
    """The numbers that eBPF reads may be wrong. The message says why."""


class Hindrance(Unsupported):
    """eBPF cannot be used now, but perhaps later. The message says why.

    `is_lost`: the open programs and maps cannot be used again, so new ones must be made.
    """

    def __init__(self, why: str, is_lost: bool = False) -> None:
        super().__init__(why)
        self.is_lost = is_lost


def not_run(number: int) -> Hindrance:
    """Return the exception for a loaded program that cannot be run. *number* is the errno."""
    return Hindrance(f"the programs cannot be run: {why_not_run(number)}", number not in _MOMENTARY)


def why_not_run(number: int) -> str:
    """Return why a loaded program cannot be run. *number* is the errno."""
    if number in (errno.EPERM, errno.EACCES):
        return _NOT_PERMITTED if kernel_release() >= _RUN_BY_ALL else f"{_NOT_PERMITTED}, or {_ONLY_WITH_RIGHTS}"
    if number == errno.ENOSYS:
        return _no_call()
    if number == errno.EBADF:
        return "their descriptors were closed, or their memory was changed"
    return os.strerror(number)


def content(path: str) -> str:
    """Return the text of a file of the kernel."""
    # unbuffered: a buffer's lock may fail to be allocated, which raises RuntimeError and not MemoryError
    with open(path, "rb", buffering=0) as file:
        return file.readall().decode()


def capabilities(numbers: dict[str, int]) -> set[str]:
    """Return the names of the capabilities that this thread has, out of *numbers*: {name: number}."""
    lines = content("/proc/thread-self/status").splitlines()
    mask = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return {name for name, number in numbers.items() if mask >> number & 1}


def why_not_asked() -> str:
    """Return why the kernel's own interface does not tell this thread the rules any more."""
    try:
        if not capabilities(_ASKING):
            return "this process has no CAP_NET_ADMIN any more"
        if _is_in_user_namespace():
            return "this process is in a user namespace, which does not own the network namespace"
    except OSError:
        pass
    return "the kernel does not let this process read them any more: a security module or a filter of system calls"


def _is_in_user_namespace() -> bool:
    return os.stat("/proc/thread-self/ns/user").st_ino != _FIRST_USER_NAMESPACE


def bpf_error(doing: str, number: int, log: str = "") -> IPTCError:
    """Return the exception for a call of bpf(2) that failed with errno *number*.

    *doing*: what was tried, such as "can't load a program". *log*: the text that the kernel's verifier wrote.
    """
    if number in FULL:
        return kernel_error(doing, number, os.strerror(number))
    return Unsupported(f"{doing}: {_why(number, log)}")


def unreadable(path: str, error: OSError) -> IPTCError:
    """Return the exception for a file of the kernel or of the package that cannot be read."""
    if error.errno in FULL:
        return kernel_error(f"can't read {path}", error.errno, error.strerror)
    return Unsupported(f"can't read {path}: {error.strerror}")


def _why(number: int, log: str) -> str:
    if number == errno.ENOSYS:
        return _no_call()
    lines = [line for line in log.splitlines() if line.strip() and not _STATISTICS.match(line)]
    last = f"{os.strerror(number)}: {lines[-1]}" if lines else os.strerror(number)
    # newer kernels write an advice after the refusal; the instruction before it says what was refused
    calls = [line for line in log.splitlines() if _CALL.search(line)]
    reads = "probe_read_kernel" in last or number == errno.EINVAL and "probe_read_kernel" in "".join(calls[-1:])
    denied = not log and number in (errno.EPERM, errno.EACCES)
    helper = "cannot use helper" in last or "unknown func" in last  # some need CAP_PERFMON
    if reads or denied or helper:
        forbidden = _who_may_not()
        if forbidden:
            return forbidden
    if reads:
        return f"the kernel lets no program read its memory{_locked_down()}"
    release = kernel_release()
    if release < OLDEST:
        # before 5.11 the kernel also answers EPERM if the process would lock too much memory
        return f"the kernel is {release[0]}.{release[1]} and older than {OLDEST[0]}.{OLDEST[1]} ({last})"
    if denied:
        return _NOT_PERMITTED
    return f"the kernel refused it ({last})"


def _no_call() -> str:
    """Return why the kernel says that it has no bpf(). A filter of system calls may say that too."""
    has_it = os.path.exists(_SETTING)
    return "a filter of system calls (seccomp) refuses bpf()" if has_it else "the kernel has no bpf()"


_CALL = re.compile(r"\d+: \(85\) call |cannot use helper|unknown func")
_STATISTICS = re.compile(r"processed \d+ insns|verification time|stack depth|max_states|\d+: \([0-9a-f]{2}\)")


def kernel_release() -> tuple[int, int]:
    """Return the version of the running kernel, such as (6, 1)."""
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _locked_down() -> str:
    try:
        modes = content("/sys/kernel/security/lockdown")
    except OSError:
        return ", perhaps since it is locked down (lockdown=confidentiality)"
    return ": it is locked down (lockdown=confidentiality)" if "[confidentiality]" in modes else ""


def _who_may_not() -> str:
    """Return why this process may not load programs, or "" if that is not known."""
    try:
        if _is_in_user_namespace():
            return "this is a user namespace, and the kernel takes programs from its first one only"
        have = capabilities(_CAPABILITIES)
    except OSError:
        return ""
    if "CAP_SYS_ADMIN" in have:
        return ""
    missing = [name for name in ("CAP_BPF", "CAP_PERFMON") if name not in have]
    return f"this process has no {' and no '.join(missing)}" if missing else ""
