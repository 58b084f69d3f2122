"""Whole rulesets: small files that are right or wrong, and the firewalls of real kinds of hosts."""

import pathlib

from rulesets import generator

FOLDER = pathlib.Path(__file__).parent

# what fail2ban.rules names
SETS = (
    "create f2b-sshd hash:ip",
    "create f2b-web hash:ip",
    "create blocked hash:net",
    "create admins hash:ip",
    "create ports bitmap:port range 0-65535",
)

HOSTS = {
    False: ("docker", "libvirt", "ufw", "fail2ban", "kube-proxy", "shorewall", "mixed"),
    True: ("ufw6", "kube-proxy", "shorewall", "mixed"),
}
_SIZES = {"kube-proxy": 4000, "shorewall": 6500, "mixed": 3000}


def load(name, ipv6):
    """Return the ruleset of a kind of host as the text of a file."""
    if name in _SIZES:
        return generator.text(name, _SIZES[name], ipv6)
    return (FOLDER / f"{name}.rules").read_text()
