"""The names that python-iptables has for protocol numbers."""

PROTOCOL_NAMES = {
    0: "ip",
    1: "icmp",
    2: "igmp",
    4: "ipip",
    6: "tcp",
    8: "egp",
    12: "pup",
    17: "udp",
    22: "idp",
    29: "tp",
    41: "ipv6",
    43: "routing",
    44: "fragment",
    46: "rsvp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    59: "none",
    60: "dstopts",
    103: "pim",
    132: "sctp",
    255: "raw",
}
PROTOCOL_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()} | {"all": 0, "hopopts": 0}
