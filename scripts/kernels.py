"""Boots Debian's kernels in virtual machines. In each, kernels_trial.py tests the eBPF source of counters.

A machine has no disk. Its whole system is in memory: busybox, this Python, iptc as it is built here, the tools of
iptables and the modules of its kernel. It prints the results to its serial port.
"""

import argparse
import fnmatch
import gzip
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLACE = pathlib.Path(os.environ.get("IPTC_BUILD_DIR", ROOT / "build"), "kernels")
MIRROR = "http://deb.debian.org/debian"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
PATIENCE = 3600
"""Seconds without output after which a machine is given up."""


class Trial(NamedTuple):
    """A kernel, and the expected result."""

    suite: str
    version: str  # the version of the package, as a pattern
    expected: str  # "works", or a part of the reason why it does not
    words: str = ""  # words for the command line of the kernel
    processors: int = 2
    possible: int = 0  # how many processors the machine can get while it runs; 0: no more than it has


OLD, STABLE, NEW = ("bookworm", "6.1.*"), ("trixie", "6.12.*"), ("trixie-backports", "*")
UNSTABLE = ("sid", "*")
SHUT = "lockdown=confidentiality"
TRIALS = {
    "5.10": Trial("bullseye", "5.10.*", "older than 5.18"),
    "6.1": Trial(*OLD, "works"),
    "6.1-one-processor": Trial(*OLD, "works", processors=1),
    "6.1-absent-processors": Trial(*OLD, "works", possible=64),
    "6.1-lockdown": Trial(*OLD, "works", "lockdown=integrity"),
    "6.1-confidential": Trial(*OLD, SHUT, SHUT),
    "6.12": Trial(*STABLE, "works"),
    "6.12-one-processor": Trial(*STABLE, "works", processors=1),
    "6.12-lockdown": Trial(*STABLE, "works", "lockdown=integrity"),
    "6.12-confidential": Trial(*STABLE, SHUT, SHUT),
    "6.12-no-btf": Trial(*STABLE, "the kernel has no BTF", "trial.btf=hidden"),
    "6.12-processors-offline": Trial(*STABLE, "works", "maxcpus=1"),
    "newest": Trial(*NEW, "works"),
    "newest-confidential": Trial(*NEW, SHUT, SHUT),
    "newest-one-processor": Trial(*NEW, "works", processors=1),
    "unstable": Trial(*UNSTABLE, "works"),
}


def say(text):
    print(f"kernels: {text}", file=sys.stderr, flush=True)


# ------------------------------------------------------------------ packages


class Packages:
    """Debian's packages of one suite, in a folder of their own."""

    def __init__(self, suite):
        self.folder = PLACE / "apt" / suite
        for part in ("lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        sources = self.folder / "sources.list"
        sources.write_text(f"deb [arch=amd64 signed-by={KEYS}] {MIRROR} {suite} main\n")
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": self.folder / "lists",
            "Dir::Cache": self.folder / "cache",
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "root",
        }
        self.options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        if not any(self.folder.glob("lists/*Packages*")):
            subprocess.run(["apt-get", *self.options, "-qq", "update"], check=True)

    def newest_kernel(self, version):
        """Return (release, package) of the newest kernel like *version*: the one for clouds, which is the smallest."""
        command = ["apt-cache", *self.options, "search", "--names-only", "^linux-image-[0-9].*-cloud-amd64$"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        names = [line.split()[0] for line in listed.splitlines()]
        releases = [name.removeprefix("linux-image-") for name in names]
        release = max(
            (release for release in releases if fnmatch.fnmatch(release, version)),
            key=lambda release: [int(number) for number in re.findall(r"\d+", release)],
        )
        return release, f"linux-image-{release}"

    def fetch(self, package):
        """Download *package*. Return its file."""
        self.folder.joinpath("debs").mkdir(exist_ok=True)
        if not any(self.folder.glob(f"debs/{package}_*.deb")):
            command = ["apt-get", *self.options, "-qq", "download", package]
            subprocess.run(command, cwd=self.folder / "debs", check=True)
        return next(self.folder.glob(f"debs/{package}_*.deb"))

    def needed(self, package):
        """Return the packages with the files of the kernel's *package*, which may be split into several."""
        command = ["apt-cache", *self.options, "show", "--no-all-versions", package]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        depends = re.search(r"^Depends: (.*)$", said, re.MULTILINE)[1]
        return re.findall(r"\b(linux-(?:base|binary|modules)-[0-9][^ ,]+)", depends)


def kernel(trial):
    """Download and unpack a kernel. Return (its path, the folder of its modules)."""
    packages = Packages(trial.suite)
    release, package = packages.newest_kernel(trial.version)
    unpacked = PLACE / "unpacked" / release
    if not unpacked.exists():
        say(f"Linux {release} of {trial.suite}")
        working = unpacked.with_name(f"{release}.part")
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        for name in [package, *packages.needed(package)]:
            subprocess.run(["dpkg", "-x", packages.fetch(name), working], check=True)
        working.rename(unpacked)
    (image,) = [*unpacked.glob("boot/vmlinuz-*"), *unpacked.glob("usr/lib/modules/*/vmlinuz")]
    (modules,) = [*unpacked.glob("lib/modules/*"), *unpacked.glob("usr/lib/modules/*")]
    return image, modules


# ---------------------------------------------------------- the guest's files

PROGRAMS = ["busybox", "xtables-legacy-multi", "xtables-nft-multi"]
NAMES = {
    "xtables-legacy-multi": "legacy",
    "xtables-nft-multi": "nft",
}
MODULES = [
    "kernel/net/netfilter/*",
    "kernel/net/ipv4/netfilter/*",
    "kernel/net/ipv6/netfilter/*",
    "kernel/lib/*",
    "kernel/crypto/*crc32*",
    "kernel/arch/x86/crypto/*crc32*",
    "kernel/net/ipv6/ipv6.ko*",
    "modules.builtin*",
    "modules.order",
]
LEFT_OUT = shutil.ignore_patterns(
    "test",
    "tests",
    "site-packages",
    "dist-packages",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
    "config-*",
    "*.a",
    "turtledemo",
    "pydoc_data",
    "*.c",
    "*.pyx",
    "*.pxd",
)

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin LD_LIBRARY_PATH=%(libraries)s PYTHONHOME=%(prefix)s
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t securityfs security /sys/kernel/security 2>/dev/null
grep -q trial.btf=hidden /proc/cmdline && mount -t tmpfs none /sys/kernel/btf
ip link set lo up
%(python)s /trial.py "%(expected)s" %(possible)d
echo "TRIAL ended $?"
poweroff -f
"""


def libraries_of(path):
    """Return the shared libraries to which the program or library at *path* is linked."""
    done = subprocess.run(["ldd", path], capture_output=True, text=True)
    return [pathlib.Path(word) for word in re.findall(r"(/[^ ]+) \(0x", done.stdout)]


def put(root, source, place=None):
    """Copy the file *source* into the system below *root*: to the same path, or to *place*."""
    target = root / str(place or source).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def make_root(root):
    """Make the system of all machines, without kernel modules."""
    for folder in ("proc", "sys", "dev", "run", "tmp", "sbin", "bin"):
        (root / folder).mkdir(parents=True)
    python = pathlib.Path(sys.executable).resolve()
    put(root, python)
    shutil.copytree(
        sysconfig.get_path("stdlib"), root / sysconfig.get_path("stdlib").lstrip("/"), ignore=LEFT_OUT, symlinks=False
    )
    shutil.copytree(ROOT / "iptc", root / "iptc", ignore=LEFT_OUT)
    put(root, ROOT / "scripts" / "kernels_trial.py", "/trial.py")
    for name in PROGRAMS:
        put(root, shutil.which(name), f"/bin/{name}")
        for family in ("iptables", "ip6tables") if name in NAMES else ():
            for verb in ("", "-save", "-restore"):
                (root / "bin" / f"{family}-{NAMES[name]}{verb}").symlink_to(name)
    for name in ("modprobe", "insmod"):
        (root / "sbin" / name).symlink_to("/bin/busybox")
    said = subprocess.run(
        ["pkg-config", "--variable=xtlibdir", "xtables"], capture_output=True, text=True
    ).stdout.strip()
    plugins = pathlib.Path(os.environ.get("XTABLES_LIBDIR") or said or "/usr/lib/x86_64-linux-gnu/xtables")
    for plugin in plugins.glob("*.so"):
        put(root, plugin)
    needed, looked = set(), [*root.rglob("*.so"), *root.glob("bin/xtables*"), root / str(python).lstrip("/")]
    for path in looked:
        needed.update(libraries_of(path))
    for library in needed:
        put(root, library)
    return python, sorted({str(library.parent) for library in needed})


def put_modules(root, modules):
    """Copy the modules of netfilter and what they need, uncompressed, so that busybox can load them."""
    place = root / "lib" / "modules" / modules.name
    for pattern in MODULES:
        for path in modules.glob(pattern):
            for file in path.rglob("*") if path.is_dir() else [path]:
                target = place / file.relative_to(modules)
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.suffix == ".xz":
                    target.with_suffix("").write_bytes(lzma.decompress(file.read_bytes()))
                elif file.suffix == ".gz":
                    target.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
                elif file.is_file():
                    shutil.copy2(file, target)
    subprocess.run(["depmod", "-b", root, modules.name], check=True)


def archive(trial, modules, name):
    """Make the whole system of a machine as one file."""
    root = PLACE / "roots" / name
    shutil.rmtree(root, ignore_errors=True)
    python, libraries = make_root(root)
    put_modules(root, modules)
    words = {
        "libraries": ":".join(libraries),
        "prefix": pathlib.Path(sysconfig.get_path("stdlib")).parent.parent,
        "python": python,
        "expected": trial.expected,
        "possible": trial.possible or trial.processors,
    }
    (root / "init").write_text(INIT % words)
    (root / "init").chmod(0o755)
    made = PLACE / f"{name}.cpio"
    names = subprocess.run(["find", ".", "-print0"], cwd=root, check=True, capture_output=True).stdout
    with open(made, "wb") as file:
        command = ["cpio", "--null", "--create", "--format=newc", "--quiet", "--owner=0:0"]
        subprocess.run(command, cwd=root, input=names, stdout=file, check=True)
    shutil.rmtree(root)
    return made


# ------------------------------------------------------------------- machines


def run(name, trial):
    """Boot the machine of a trial. Return its results: [(what was tested, verdict)]."""
    image, modules = kernel(trial)
    system = archive(trial, modules, name)
    log = PLACE / f"{name}.log"
    command = ["qemu-system-x86_64", "-cpu", "max", "-m", "2048", "-nographic"]
    # each processor in a package of its own: a kernel takes no further processors in a package that is there
    most = trial.possible or trial.processors
    command += ["-smp", f"{trial.processors},maxcpus={most},sockets={most},cores=1,threads=1"]
    command += ["-no-reboot", "-nodefaults", "-serial", "stdio", "-kernel", image, "-initrd", system]
    command += ["-append", f"console=ttyS0 quiet panic=-1 no_timer_check {trial.words}"]
    say(f"{name}: Linux {modules.name} {trial.words}".rstrip())
    try:
        with open(log, "wb") as output:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        say(f"{name}: it said nothing more")
    finally:
        system.unlink()
    said = log.read_text(errors="replace").replace("\r", "")
    found = re.findall(r"^TRIAL (.*): (well|wrong)(.*)$", said, re.MULTILINE)
    if "TRIAL ended 0" not in said:
        found.append(("the trial came to its end", "wrong", f", see {log}"))
    for what, verdict, more in found:
        print(f"{name}: {what}: {verdict}{more}", flush=True)
    return [verdict for _, verdict, _ in found]


def main():
    parser = argparse.ArgumentParser(prog="scripts/kernels", description=__doc__.split("\n")[0])
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help="of those that --list prints; all, if none is given")
    parser.add_argument("--list", action="store_true", help="print what there is to try")
    arguments = parser.parse_args()
    if arguments.list:
        for name, trial in TRIALS.items():
            print(f"{name:24} {trial.suite} {trial.version} {trial.words}".rstrip())
        return
    unknown = set(arguments.trials) - set(TRIALS)
    if unknown:
        sys.exit(f"scripts/kernels: no such trial: {', '.join(sorted(unknown))}")
    missing = [name for name in ["qemu-system-x86_64", "cpio", "dpkg", "depmod", *PROGRAMS] if not shutil.which(name)]
    if missing:
        sys.exit(f"scripts/kernels: {', '.join(missing)} is missing")
    PLACE.mkdir(parents=True, exist_ok=True)
    verdicts = {name: run(name, TRIALS[name]) for name in arguments.trials or TRIALS}
    wrong = [name for name, found in verdicts.items() if "wrong" in found]
    print(
        f"{len(verdicts) - len(wrong)} of {len(verdicts)} kernels did as expected"
        + f"; not: {', '.join(wrong)}" * bool(wrong)
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
