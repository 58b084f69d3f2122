# shellcheck shell=bash
# Sourced by scripts/setup.sh, scripts/build and scripts/release.sh: what all of them need of the machine.
# Leaves behind: ROOT (this checkout), say, die, find_python, and install_packages, which installs what the caller's
# missing_packages prints.

SELF=$(basename -- "$0")
ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# An ordinary user's PATH on Debian lacks the folders where ip and iptables are.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
# What the caller's Python or pip settings add must not reach the virtual environment.
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH PIP_TARGET PIP_PREFIX
export PIP_USER=0

say() { printf '%s: %s\n' "$SELF" "$*" >&2; }
die() { say "$*"; exit 1; }

usable_python() { # INTERPRETER: is it new enough, with headers and venv?
    "$1" -c 'import sys, sysconfig, os.path, venv, ensurepip
sys.exit(sys.version_info < (3, 11) or not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
        >/dev/null 2>&1
}

find_python() {
    local candidate
    # Debian's own comes first, if none is named: a python3 earlier on PATH may be a shim or lack its headers.
    for candidate in ${IPTC_PYTHON:-/usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11}; do
        if usable_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

install_packages() {
    local missing log
    # One line, each name once; word splitting below is meant.
    missing=$(missing_packages | tr ' ' '\n' | sort -u | xargs)
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        die "missing: $missing (Debian's names), and there is no apt-get to install them with."
    fi
    if [ "$(id -u)" -ne 0 ]; then
        die "Debian packages are missing; install them with: sudo apt-get install $missing"
    fi
    say "installing Debian packages: $missing"
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    # A failed update is not the end: the packages may be in the local cache.
    apt-get -q update >"$log" 2>&1 </dev/null || true
    # shellcheck disable=SC2086
    if ! apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $missing \
        >>"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get could not install: $missing"
    fi
    rm -f "$log"
    hash -r
    missing=$(missing_packages | xargs)
    [ -z "$missing" ] || die "still missing after apt-get install: $missing"
}
