# shellcheck shell=bash
# Sourced by scripts/demo and scripts/test: gets a Debian machine ready and builds the package.
# Does only what is missing, so a second run needs no network.
#
#   IPTC_BUILD_DIR   keep the virtual environment and the build there instead of in the checkout
#   IPTC_PYTHON      the interpreter, instead of Debian's own; with an IPTC_BUILD_DIR of its own
#
# Leaves behind: SRC (where the built package is), PY (its interpreter), BUILD, NETNS (enters a new network namespace).

# shellcheck source-path=SCRIPTDIR source=machine.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/machine.sh"
PIP_NEEDS=('Cython>=3.3,<3.4' 'setuptools>=77' pytest 'pytest-xdist>=3.6' hypothesis 'mypy>=1.18' 'prometheus_client>=0.20' 'rich>=13')

# --- Debian packages ---------------------------------------------------------------------------------------------

missing_packages() {
    local name
    find_python >/dev/null || echo python3-dev python3-venv
    command -v gcc >/dev/null || echo gcc
    [ -e /usr/include/stdio.h ] || echo libc6-dev
    command -v pkg-config >/dev/null || echo pkg-config
    # shellcheck disable=SC2086
    for name in xtables:libxtables-dev ${IPTC_MORE_LIBRARIES:-}; do
        pkg-config --exists "${name%:*}" 2>/dev/null || echo "${name#*:}"
    done
    for name in iptables-legacy:iptables ip6tables-legacy-save:iptables iptables-nft:iptables nft:nftables ip:iproute2 ipset:ipset \
        unshare:util-linux flock:util-linux strace:strace openssl:openssl tmux:tmux; do
        command -v "${name%:*}" >/dev/null || echo "${name#*:}"
    done
}

# --- Where to build ----------------------------------------------------------------------------------------------

private_folder() { # prints a folder of this user's for this checkout
    local base="${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}"
    if [ -z "$base" ] || ! mkdir -p "$base/iptc" 2>/dev/null || ! [ -w "$base/iptc" ]; then
        base="${TMPDIR:-/tmp}/iptc-$(id -u)"
        mkdir -m 700 "$base" 2>/dev/null || true
        # In /tmp anybody may have made that name first.
        [ -O "$base" ] || return
    fi
    echo "$base/iptc/$(printf %s "$ROOT" | sha256sum | cut -c 1-12)"
}

checkout_is_ours() {
    [ -w "$ROOT" ] || return
    local places=() place
    for place in iptc tests build .venv; do
        [ -e "$ROOT/$place" ] && places+=("$ROOT/$place")
    done
    [ ${#places[@]} -eq 0 ] || [ -z "$(find "${places[@]}" ! -type l ! -writable -print -quit 2>&1)" ]
}

choose_folders() {
    if [ -z "${IPTC_BUILD_DIR:-}" ] && checkout_is_ours; then
        SRC=$ROOT BUILD=$ROOT/build VENV=$ROOT/.venv
        mkdir -p "$BUILD"
        return
    fi
    BUILD=${IPTC_BUILD_DIR:-$(private_folder)} || die "found no folder to build in: set IPTC_BUILD_DIR to one."
    { mkdir -p "$BUILD/src" && [ -w "$BUILD" ]; } 2>/dev/null ||
        die "cannot write to $BUILD: set IPTC_BUILD_DIR to a folder of yours."
    BUILD=$(CDPATH='' cd -- "$BUILD" && pwd -P)
    SRC=$BUILD/src VENV=$BUILD/venv
    if [ -n "${IPTC_BUILD_DIR:-}" ]; then return; fi
    # A complete environment made by another user serves as well, and needs no network.
    if environment_is_complete "$ROOT/.venv"; then VENV=$ROOT/.venv; fi
    say "not all of $ROOT is writable: working on a copy in $BUILD"
}

copy_sources() {
    [ "$SRC" != "$ROOT" ] || return 0
    # Emptied first, so that files which are gone from the checkout are gone here too.
    find "$SRC" -type f ! -name '*.so' -delete
    tar -C "$ROOT" --exclude=./.git --exclude=./.venv --exclude=./build --exclude=__pycache__ --exclude='*.so' \
        -cf - . | tar -C "$SRC" --no-same-owner -xf -
}

# --- Python environment and build --------------------------------------------------------------------------------

environment_is_complete() { # VENV
    usable_python "$1/bin/python" && "$1/bin/python" -c 'import sys
from importlib.metadata import version
for name in ("pytest", "pytest-xdist", "hypothesis", "mypy", "prometheus_client"):
    version(name)
sys.exit(version("Cython").split(".")[:2] != ["3", "3"] or int(version("setuptools").split(".")[0]) < 77)' >/dev/null 2>&1
}

make_environment() {
    local python
    environment_is_complete "$VENV" && return
    python=$(find_python)
    if ! usable_python "$VENV/bin/python" || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        say "creating the virtual environment $VENV with $("$python" --version)"
        "$python" -m venv --clear "$VENV" || die "could not create $VENV"
    fi
    say "installing ${PIP_NEEDS[*]}"
    if ! "$VENV/bin/python" -m pip --disable-pip-version-check --no-input --retries 2 install "${PIP_NEEDS[@]}" \
        >"$BUILD/pip.log" 2>&1 </dev/null; then
        tail -n 3 "$BUILD/pip.log" >&2
        die "pip could not install ${PIP_NEEDS[*]} into $VENV, which the first run needs the network for."
    fi
}

toolchain() { # a checksum of what makes every compiled module stale
    {
        "$PY" -c 'import Cython, sys; print(Cython.__version__, sys.version, sys.prefix)'
        pkg-config --modversion xtables
        cat "$SRC/setup.py" "$SRC/pyproject.toml"
        find "$SRC/iptc" -name '*.h' -type f -exec cat {} +
    } | sha256sum
}

sources() { # a checksum of what setuptools and Cython check module by module
    local file
    find "$SRC/iptc" -type f \( -name '*.pyx' -o -name '*.px[di]' -o -name '*.c' \) | LC_ALL=C sort |
        while read -r file; do
            # Cython's output lies beside its source.
            if [ -e "${file%.c}.pyx" ] && [ "${file%.c}" != "$file" ]; then continue; fi
            sha256sum "$file"
        done | sha256sum
}

modules_are_there() {
    local source
    while read -r source; do
        compgen -G "${source%.pyx}.*so" >/dev/null || return
    done < <(find "$SRC/iptc" -name '*.pyx')
    (cd "$SRC" && "$PY" -c 'import iptc._core') >/dev/null 2>&1
}

build() {
    local toolchain sources library module force=()
    [ -e "$SRC/setup.py" ] || die "$SRC has no setup.py: this is not a complete checkout."
    toolchain=$(toolchain) sources=$(sources)
    if [ "$toolchain $sources" = "$(cat "$BUILD/built" 2>/dev/null)" ] && modules_are_there; then return; fi
    if ! grep -qsF "$toolchain" "$BUILD/built"; then
        force=(--force)
        export CYTHON_FORCE_REGEN=1
    fi
    say "building the extension modules"
    rm -f "$BUILD/built"
    while read -r library; do
        # A binary without its source would hide the Python module that has replaced it.
        module=${library##*/}
        case $module in _cyutility.*) continue ;; esac      # Cython writes its source
        [ -e "${library%/*}/${module%%.*}.pyx" ] || rm -f "$library"
    done < <(find "$SRC/iptc" -name '*.so')
    if ! (cd "$SRC" && "$PY" setup.py -q build_ext --inplace -j "$(nproc)" "${force[@]}") >"$BUILD/build.log" 2>&1 </dev/null; then
        tail -n 60 "$BUILD/build.log" >&2
        die "the build failed; all that it said is in $BUILD/build.log"
    fi
    modules_are_there ||
        die "the package was built but cannot be imported: $(cd "$SRC" && "$PY" -c 'import iptc' 2>&1 | tail -n 1)"
    echo "$toolchain $sources" >"$BUILD/built"
}

# --- Network namespace -------------------------------------------------------------------------------------------

choose_namespace() {
    NETNS=(unshare -n)
    if [ "$(id -u)" -eq 0 ] && "${NETNS[@]}" true 2>/dev/null; then return; fi
    # The users first: a network namespace that is made before they are mapped has files of nobody. With a mount
    # namespace: names of network namespaces are mounts in /run.
    NETNS=(unshare -Ur unshare -nm)
    "${NETNS[@]}" true 2>/dev/null || die "this kernel or container does not let $(id -un) make a network namespace" \
        "(${NETNS[*]}); run as the machine's root, or allow unprivileged user namespaces."
}

check_kernel() {
    local answer
    # In a namespace of its own, so that what follows starts on an untouched one. Listing nat loads its module.
    # shellcheck disable=SC2016
    answer=$("${NETNS[@]}" sh -c 'for tool in iptables-legacy ip6tables-legacy; do
        $tool -w 5 -A INPUT -j ACCEPT || exit
        $tool -w 5 -t nat -S >/dev/null 2>&1 || true
    done' 2>&1 </dev/null) || die "the kernel takes no legacy iptables rules here (${answer%%$'\n'*}); as root, try:" \
        "modprobe -a ip_tables iptable_filter iptable_nat ip6_tables ip6table_filter ip6table_nat"
}

# -----------------------------------------------------------------------------------------------------------------

install_packages
choose_folders
{
    # Two runs at a time must not build into one another.
    flock 9
    copy_sources
    make_environment
    PY=$VENV/bin/python
    build
} 9>"$BUILD/lock"
# So that every child process imports what was built here.
export PYTHONPATH=$SRC PYTHONNOUSERSITE=1
# The machine's own lock is neither needed nor, for an ordinary user, writable.
export XTABLES_LOCKFILE=$BUILD/xtables.lock
choose_namespace
check_kernel
