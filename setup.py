"""Build the extension modules, with the headers of libxtables."""

import glob
import os
import subprocess
import sys

from setuptools import Extension, setup

PACKAGES = "they are in libxtables-dev and pkg-config on Debian (iptables-devel and pkgconf-pkg-config on Fedora)"


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
    return ["-g0"], ["-Wl,--strip-all"]


def extension(name, extra_sources=()):
    """Describe one compiled module. None is linked to libxtables: it is loaded when a rule needs it."""
    compile_words, link_words = without_debug_information()
    return Extension(
        f"iptc.{name}",
        [f"iptc/{name.replace('.', '/')}.pyx", *extra_sources],
        include_dirs=["iptc/language"],
        depends=[*glob.glob("iptc/language/*.h"), *glob.glob("iptc/**/*.pxd", recursive=True)],
        extra_compile_args=pkg_config("--cflags", "xtables")
        + ["-O0" if "-fsanitize" in os.environ.get("CFLAGS", "") else "-O3"]
        + ["-Wall", "-Werror=implicit-function-declaration", *compile_words],
        extra_link_args=link_words,
    )


def extensions():
    """All modules; Cython is imported late so that a missing header is reported first."""
    modules = [
        extension("_core"),
        extension("_applied"),
        extension("_netns"),
        extension("_lockfile"),
        extension("_netlink"),
        extension("_counts"),
        extension("_rope"),
        extension("language.words"),
        extension(
            "language.plugins",
            [f"iptc/language/{name}.c" for name in ("shim", "libxtables", "division", "names")],
        ),
        extension("language.extension"),
        extension("language.printing"),
        extension("language.options"),
        extension("language.specification"),
        extension("language.program"),
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
        extension("monitoring.series"),
        extension("monitoring.passwords"),
        extension("watching.inotify"),
    ]
    from Cython.Build import cythonize

    return cythonize(modules, compiler_directives={"language_level": 3, "binding": True})


if __name__ == "__main__":
    setup(ext_modules=extensions())
