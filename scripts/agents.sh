# shellcheck shell=bash
# Sourced by scripts/test for a long run: gets the programs that iptc's formats are tried with, and installs none of them.
# Leaves behind: IPTC_AGENTS, a folder with what Debian's packages hold, and two packages of PyPI in python/.

export IPTC_AGENTS=$BUILD/agents

get_packages() { # PROGRAM:PACKAGE ...
    local pair log=$BUILD/agents.log
    for pair in "$@"; do
        if command -v "${pair%:*}" >/dev/null || [ -x "$IPTC_AGENTS/usr/bin/${pair%:*}" ]; then continue; fi
        say "getting Debian's package ${pair#*:}"
        rm -rf "$IPTC_AGENTS/package" && mkdir -p "$IPTC_AGENTS/package"
        if ! (cd "$IPTC_AGENTS/package" && apt-get -q download "${pair#*:}" && dpkg-deb -x ./*.deb "$IPTC_AGENTS") >"$log" 2>&1; then
            tail -n 3 "$log" >&2
            die "Debian's package ${pair#*:} could not be had, which scripts/test --long needs"
        fi
    done
    rm -rf "$IPTC_AGENTS/package"
}

get_modules() { # NAME ...
    if (cd "$IPTC_AGENTS/python" 2>/dev/null && "$PY" -c 'import line_protocol_parser, grafana_foundation_sdk') 2>/dev/null; then return; fi
    say "getting $*"
    "$PY" -m pip --disable-pip-version-check --no-input -q install --upgrade --target "$IPTC_AGENTS/python" "$@" \
        >"$BUILD/agents.log" 2>&1 </dev/null || die "pip could not get $*, which scripts/test --long needs"
}

get_packages promtool:prometheus prometheus:prometheus prometheus-node-exporter:prometheus-node-exporter systemd-analyze:systemd
get_modules line-protocol-parser grafana-foundation-sdk
