"""Build the extension modules, with the headers of libxtables."""

import glob
import os
import subprocess
import sys
import sysconfig

from setuptools import Extension, setup

PACKAGES = "they are in libxtables-dev and pkg-config on Debian (iptables-devel and pkgconf-pkg-config on Fedora)"

# CPython 3.11's limited API, for modules that serve every later Python too: IPTC_ABI3=1. They are slower, by what
# docs/platforms.md says.
LIMITED_API = os.environ.get("IPTC_ABI3", "0") not in ("", "0")
# What only describes the package needs neither headers nor Cython.
DESCRIBING = {"dist_info", "egg_info", "sdist"}


def refusal():
    """Why iptc cannot be built for this Python, in one sentence, or None."""
    if sys.platform != "linux":
        return f"iptc is for Linux only: its firewall is what it talks to, and this is {sys.platform}."
    if sys.maxsize < 2**63 - 1:
        return (
            "iptc is for 64-bit Python only: the kernel exchanges other structures with 32-bit programs, which"
            " iptc does not know."
        )
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return (
            "iptc needs a Python with the GIL, which guards libxtables: it is not for free-threaded ones, such as"
            " python3.14t."
        )
    return None


def pkg_config(*arguments):
    """Return the words that pkg-config prints, or end the build in one sentence."""
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    except FileNotFoundError:
        sys.exit(f"iptc needs pkg-config and the headers of libxtables to build: {PACKAGES}.")
    except subprocess.CalledProcessError:
        sys.exit(f"iptc needs the headers of {' and '.join(arguments[1:])} to build: {PACKAGES}.")


def without_debug_information():
    """(compiler's, linker's words) that leave out what only a debugger reads, unless whoever builds asks for it by `-g`
    in CFLAGS."""
    if "-g" in os.environ.get("CFLAGS", "").split():
        return [], []
    compile_words, link_words = ["-g0", "-fno-asynchronous-unwind-tables"], ["-Wl,--strip-all"]
    if "zig" in os.environ.get("CC", ""):
        # clang makes these tables unless both options say no, and zig's linker two tables of symbols, one for systems
        # older than any that wheels are for
        return [*compile_words, "-fno-unwind-tables"], [*link_words, "-Wl,--hash-style=gnu"]
    # GNU's linker fills the file up to whole pages otherwise
    return compile_words, [*link_words, "-Wl,-z,noseparate-code"]


# How much code the compiler may make for speed. What is done for each rule of a table, by small functions and loops, is
# worth more of it. What is seldom done is made small: a program that starts has to load it.
HOT = {
    "_counts",
    "_netlink",
    "bpf.copies",
    "legacy.blob",
    "managing.lcs",
    "nft.codec",
    "nft.expressions",
    "nft.parts",
    "nft.reader",
    "nft.restore",
}
SELDOM = {
    "_lockfile",
    "_netns",
    "_pace",
    "bpf.btf",
    "bpf.frees",
    "bpf.handed",
    "bpf.handing",
    "bpf.kernel",
    "legacy.libiptc",
    "managing.numbering",
    "monitoring.passwords",
    "watching.inotify",
}
# What Cython's modules have in common, such as the type of their functions, is in one module that all of them use.
SHARED = "_cyutility"


def level_of(name):
    """How module *name* is optimised."""
    if any(word in os.environ.get("CFLAGS", "") for word in ("-fsanitize", "--coverage")):
        return "-O0"
    return "-O3" if name in HOT else "-Os" if name in SELDOM else "-O2"


def extension(name, extra_sources=(), suffix=".pyx"):
    """Describe one compiled module. None is linked to libxtables: it is loaded when a rule needs it."""
    compile_words, link_words = without_debug_information()
    return Extension(
        f"iptc.{name}",
        [f"iptc/{name.replace('.', '/')}{suffix}", *extra_sources],
        include_dirs=["iptc/language"],
        depends=["iptc/_build.h", *glob.glob("iptc/*/*.h"), *glob.glob("iptc/**/*.pxd", recursive=True)],
        define_macros=[("Py_LIMITED_API", "0x030b0000")] if LIMITED_API else [],
        py_limited_api=LIMITED_API,
        extra_compile_args=["-include", "iptc/_build.h", *pkg_config("--cflags", "xtables")]
        + [level_of(name)]
        + ["-Wall", "-Werror=implicit-function-declaration", *compile_words]
        + (["-Wno-unused-const-variable"] if LIMITED_API else []),
        extra_link_args=link_words,
    )


def extensions():
    """All modules; Cython is imported late so that a missing header is reported first."""
    modules = [
        extension(SHARED, suffix=".c"),
        extension("_core"),
        extension("_applied"),
        extension("_agent"),
        extension("_netns"),
        extension("_lockfile"),
        extension("_netlink"),
        extension("_counts"),
        extension("_pace"),
        extension("_rope"),
        extension("language.words"),
        extension(
            "language.plugins",
            [f"iptc/language/{name}.c" for name in ("shim", "libxtables", "division", "names")],
        ),
        extension("language.extension"),
        extension("language.printing", ["iptc/language/native.c"]),
        extension("language.comparing"),
        extension("language.options"),
        extension("language.specification"),
        extension("language.restored_text"),
        extension("model.recording"),
        extension("legacy.blob"),
        extension("legacy.draft"),
        extension("legacy.save"),
        extension("legacy.restore"),
        extension("legacy.libiptc"),
        extension("nft.expressions"),
        extension("nft.parts"),
        extension("nft.codec"),
        extension("nft.restore"),
        extension("nft.reader"),
        extension("managing.lcs"),
        extension("managing.numbering"),
        extension("monitoring.quick"),
        extension("monitoring.turns"),
        extension("monitoring.series"),
        extension("monitoring.passwords"),
        extension("watching.inotify"),
        extension("bpf.btf", ["iptc/bpf/types.c"]),
        extension("bpf.kernel", ["iptc/bpf/calls.c"]),
        extension("bpf.window"),
        extension("bpf.copies", ["iptc/bpf/sums.c"]),
        extension("bpf.finder"),
        extension("bpf.frees"),
        extension("bpf.net"),
        extension("bpf.percpu"),
        extension("bpf.legacy"),
        extension("bpf.nft"),
        extension("bpf.handing"),
        extension("bpf.handed"),
        extension("bpf.scan"),
    ]
    try:
        from Cython.Build import cythonize
    except ImportError:
        return translated(modules)

    return cythonize(
        modules,
        compiler_directives={"language_level": 3, "binding": True, "auto_pickle": False},
        shared_utility_qualified_name=f"iptc.{SHARED}",
        shared_utility_features_disabled=["MemoryView"],
    )


def translated(modules):
    """*modules* with what Cython made of them, which the source packages of distributions carry."""
    for module in modules:
        module.sources = [f"{source[:-4]}.c" if source.endswith(".pyx") else source for source in module.sources]
        if not os.path.exists(module.sources[0]):
            sys.exit("iptc needs Cython 3.3 to build from these sources: pip install 'Cython>=3.3,<3.4'.")
    return modules


if __name__ == "__main__":
    described = not DESCRIBING.isdisjoint(sys.argv[1:])
    if not described and (reason := refusal()):
        sys.exit(reason)
    setup(
        ext_modules=[] if described else extensions(),
        options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED_API else {},
    )
