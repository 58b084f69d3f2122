"""Small files for iptables-restore, right and wrong: each is fed to the host's tool and to us, on the same tables.

`@` stands for an address of the family, `@@` for another one.
"""

from dataclasses import dataclass

# What is there before each case, with counters.
BEFORE = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [1:2]
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
[1:1] -A PREROUTING -j MARK --set-xmark 0x1/0xffffffff
COMMIT
*nat
:PREROUTING ACCEPT [5:6]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
*filter
:INPUT ACCEPT [10:20]
:FORWARD DROP [3:4]
:OUTPUT ACCEPT [0:0]
:empty - [0:0]
:log-drop - [0:0]
:web - [0:0]
[1:2] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
[3:4] -A INPUT -j web
[5:6] -A INPUT -j DROP
[7:8] -A web -p udp -m udp --dport 53 -j RETURN
[9:10] -A web -j log-drop
[11:12] -A web -s @ -j ACCEPT
COMMIT
*security
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
"""


@dataclass(frozen=True)
class Case:
    """One file, and how it is restored."""

    text: bytes
    counters: bool = False
    flush: bool = True
    test: bool = False

    @property
    def arguments(self):
        """The options of `iptables-restore`."""
        return [
            *(["--counters"] if self.counters else []),
            *([] if self.flush else ["--noflush"]),
            *(["--test"] if self.test else []),
        ]

    def __str__(self):
        return f"{' '.join(self.arguments)} {self.text[:600]!r}"


CASES = []


def case(text, flags=""):
    """Add a file; *flags*: c counters, n no flush, t test."""
    text = text if isinstance(text, bytes) else text.encode()
    new = Case(text, "c" in flags, "n" not in flags, "t" in flags)
    if new not in CASES:
        CASES.append(new)


def lines(*wanted, table="filter", flags=("n",)):
    """Add a file of one table for each of the texts, once for each of the *flags*."""
    for text in wanted:
        for flag in flags:
            case(f"*{table}\n{text}\nCOMMIT\n", flag)


LONG = "x" * 28
BOTH = ("", "n")
COUNTED = ("n", "cn", "c")

# ---------------------------------------------------------------- the frame

for text in (
    "",
    "\n",
    "\n\n",
    "#\n",
    "# only a comment\n",
    "*filter\nCOMMIT\n",
    "*filter\n",
    "*filter",
    "*filter\nCOMMIT",
    "*filter\nCOMMIT \n",
    "*filter\nCOMMIT\t\n",
    "*filter\nCOMMIT # done\n",
    "*filter\ncommit\n",
    "*filter\n COMMIT\n",
    "*filter\nCOMMITX\n",
    "COMMIT\n",
    "*filter\nCOMMIT\nCOMMIT\n",
    "-A INPUT -j ACCEPT\n",
    "-A INPUT -j ACCEPT\n*filter\nCOMMIT\n",
    ":INPUT DROP [0:0]\n*filter\nCOMMIT\n",
    "x\n",
    " \n",
    " \n*filter\nCOMMIT\n",
    "\t\n*filter\nCOMMIT\n",
    "*filter\nCOMMIT\nx\n",
    "*filter\nCOMMIT\n-A INPUT -j ACCEPT\n",
    "*filter\nCOMMIT\n\n# end\n",
    "*filter\nCOMMIT\n \n",
    "*\n",
    "* \n",
    "*\nCOMMIT\n",
    "* filter\nCOMMIT\n",
    "*\tfilter\nCOMMIT\n",
    "*filter extra\nCOMMIT\n",
    "*filter # comment\nCOMMIT\n",
    " *filter\nCOMMIT\n",
    "*FILTER\nCOMMIT\n",
    "*nosuch\nCOMMIT\n",
    f"*{'x' * 31}\nCOMMIT\n",
    f"*{'x' * 40}\nCOMMIT\n",
    "**filter\nCOMMIT\n",
    "*filter\n*nat\nCOMMIT\n",
    "*filter\n*filter\nCOMMIT\n",
    "*filter\nCOMMIT\n*nosuch\nCOMMIT\n",
    "*filter\n\n# comment\n\n-A INPUT -j ACCEPT\n\nCOMMIT\n",
    "*filter\n   \nCOMMIT\n",
    "*filter\n\t\nCOMMIT\n",
    "*filter\n # indented\nCOMMIT\n",
    "*filter\n-A INPUT -j ACCEPT # why\nCOMMIT\n",
    "*filter\n#-A INPUT -j NOSUCH\nCOMMIT\n",
    "*filter\n  -A INPUT -j ACCEPT\nCOMMIT\n",
    "*filter\n\t-A\tINPUT\t-j\tACCEPT\t\nCOMMIT\n",
    "*filter\n-A INPUT -j ACCEPT   \nCOMMIT\n",
    "*filter\n-A INPUT -j ACCEPT",
    "*filter\n-A INPUT -j ACCEPT\n",
    "*filter\n-A INPUT -j ACCEPT\nCOMMIT",
    # several tables
    "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n*nat\n-A POSTROUTING -j ACCEPT\nCOMMIT\n*raw\n-A OUTPUT -j ACCEPT\nCOMMIT\n",
    "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n*nat\n-A POSTROUTING -j NOSUCH\nCOMMIT\n",
    "*filter\n-A INPUT -j NOSUCH\nCOMMIT\n*nat\n-A POSTROUTING -j ACCEPT\nCOMMIT\n",
    "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n*nat\n-A POSTROUTING -j ACCEPT\n",
    "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n*filter\n-A INPUT -j DROP\nCOMMIT\n",
    "*mangle\nCOMMIT\n*filter\n-A INPUT -m tcp --dport 5\nCOMMIT\n",
    "*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n*filter\n:x - [0:0]\n-A x -j x\nCOMMIT\n",
    "*filter\n-A INPUT -j ACCEPT\n*nat\n-A POSTROUTING -j ACCEPT\nCOMMIT\n",
):
    for flag in BOTH:
        case(text, flag)

# carriage returns, odd bytes
for text in (
    b"*filter\r\n:INPUT ACCEPT [0:0]\r\n-A INPUT -j ACCEPT\r\nCOMMIT\r\n",
    b"*filter\n-A INPUT -j ACCEPT\r\nCOMMIT\n",
    b"*filter\n:INPUT ACCEPT [1:2]\r\nCOMMIT\n",
    b"*filter\n:INPUT ACCEPT\r\nCOMMIT\n",
    b"*filter\n\r\nCOMMIT\n",
    b"*filter\nCOMMIT\r\n",
    b"\r\n*filter\nCOMMIT\n",
    b"*filter\n-A INPUT\r-j ACCEPT\nCOMMIT\n",
    b"\xef\xbb\xbf*filter\nCOMMIT\n",
    b"*filter\n\xef\xbb\xbf-A INPUT\nCOMMIT\n",
    b"*filter\n-A INPUT -m comment --comment \xff\xfe\nCOMMIT\n",
    b"*filter\n:\xff - [0:0]\nCOMMIT\n",
    b"*filter\n-A INPUT -j \xc3\xa9\nCOMMIT\n",
    b"*filter\n:\xc3\xa9 - [0:0]\n-A INPUT -j \xc3\xa9\nCOMMIT\n",
    b"*filter\n-A INPUT -m comment --comment \x01\x1b\x7f\nCOMMIT\n",
    b"*filter\n-A INPUT\x0b-j ACCEPT\nCOMMIT\n",
    b"*filter\n-A INPUT\x0c-j\x0cACCEPT\nCOMMIT\n",
):
    for flag in BOTH:
        case(text, flag)
# the longest lines that iptables-restore reads as one
for size in (1100, 10000, 10220, 10238):
    case("*filter\n" + "-A INPUT -j ACCEPT".ljust(size) + "\nCOMMIT\n")
    case("*filter\n#".ljust(size, "x") + "\nCOMMIT\n")
    case("*filter\n" + ":x - [0:0]".ljust(size) + "\nCOMMIT\n")
for size in (255, 256, 1022, 1023, 1024, 3000):
    lines(
        f"-A INPUT -m comment --comment {'x' * size}",
        f'-A INPUT -m comment --comment "{"x" * size}" -j DROP',
        f"-A {'x' * size}",
        f"{'x' * size}",
        f":{'x' * size} - [0:0]",
    )
for count in (240, 247, 248, 249, 250, 251, 252, 253, 254, 255, 300):
    lines("-A INPUT" + " -v" * count, "-A INPUT" + " x" * count, "[1:2] -A INPUT" + " -v" * count, flags=("n", "c"))

# ---------------------------------------------------------------- chains and policies

lines(
    ":INPUT ACCEPT [5:6]",
    ":INPUT ACCEPT",
    ":INPUT DROP [5:6]",
    ":INPUT DROP",
    ":INPUT - [0:0]",
    ":INPUT - [5:6]",
    ":INPUT -",
    ":INPUT",
    ":",
    ": ",
    ":  INPUT DROP",
    ":INPUT\tDROP\t[7:8]",
    " :INPUT DROP",
    ":INPUT QUEUE [1:2]",
    ":INPUT REJECT [1:2]",
    ":INPUT RETURN [1:2]",
    ":INPUT drop [1:2]",
    ":INPUT LOG [1:2]",
    ":INPUT web [1:2]",
    ":INPUT ACCEPT 5:6",
    ":INPUT ACCEPT [5:6",
    ":INPUT ACCEPT 5:6]",
    ":INPUT ACCEPT [5]",
    ":INPUT ACCEPT [x:y]",
    ":INPUT ACCEPT [5:y]",
    ":INPUT ACCEPT [5 :6]",
    ":INPUT ACCEPT [ 5:6]",
    ":INPUT ACCEPT [5:6]x",
    ":INPUT ACCEPT [5:6] extra",
    ":INPUT ACCEPT []",
    ":INPUT ACCEPT [:]",
    ":INPUT ACCEPT [-1:-1]",
    ":INPUT ACCEPT [+1:+2]",
    ":INPUT ACCEPT [0x5:06]",
    ":INPUT ACCEPT [18446744073709551615:18446744073709551615]",
    ":INPUT ACCEPT [18446744073709551616:1]",
    ":INPUT ACCEPT [1:2]\n:INPUT DROP [3:4]",
    ":INPUT DROP [1:2]\n-P INPUT ACCEPT",
    ":FORWARD ACCEPT [0:0]",
    ":PREROUTING ACCEPT [0:0]",
    ":new - [0:0]",
    ":new -",
    ":new",
    ":new ACCEPT [0:0]",
    ":new DROP",
    ":new - [5:6]",
    ":new - x y z",
    ":web - [0:0]",
    ":web -",
    ":web ACCEPT [0:0]",
    ":new - [0:0]\n:new - [0:0]",
    ":web - [0:0]\n:web - [0:0]",
    ":web - [0:0]\n-A web -j DROP\n:web - [0:0]\n-A web -j ACCEPT",
    "-A new -j DROP\n:new - [0:0]",
    ":new - [0:0]\n-A INPUT -j new\n-A new -j RETURN",
    "-A INPUT -j new\n:new - [0:0]",
    ":LOG - [0:0]",
    ":LOG - [0:0]\n-A INPUT -j LOG",
    ":LOG - [0:0]\n-A INPUT -j LOG --log-prefix x",
    ":ACCEPT - [0:0]",
    ":ACCEPT - [0:0]\n-A INPUT -j ACCEPT",
    ":RETURN - [0:0]",
    ":QUEUE - [0:0]",
    ":-x - [0:0]",
    ":-x - [0:0]\n-A -x -j DROP",
    ":!x - [0:0]",
    ":- - [0:0]",
    ":new* - [0:0]",
    f":{LONG} - [0:0]",
    f":{LONG}x - [0:0]",
    f":{LONG}xxx - [0:0]",
    ":input - [0:0]",
    ":a:b - [0:0]",
    ":[1:2] - [0:0]",
    ':"a b" - [0:0]',
    ':"a" - [0:0]',
    ":#x - [0:0]",
    flags=("", "n", "c", "cn"),
)
lines(
    ":PREROUTING DROP [0:0]",
    ":PREROUTING DROP [0:0]\n-A PREROUTING -j ACCEPT",
    "-P PREROUTING DROP",
    "-P PREROUTING ACCEPT",
    "-A PREROUTING -j DROP",
    "-I PREROUTING -j DROP",
    "-D PREROUTING -j DROP",
    "-A PREROUTING -j DROP -p tcp",
    "-A PREROUTING -g DROP",
    ":DROP - [0:0]",
    "-N x\n-A x -j DROP",
    "-A INPUT -i eth0 -j ACCEPT",
    "-A POSTROUTING -o eth0 -j MASQUERADE",
    "-A POSTROUTING -i eth0",
    "-A PREROUTING -o eth0",
    "-A PREROUTING -j MASQUERADE",
    "-A FORWARD -j ACCEPT",
    ":FORWARD ACCEPT [0:0]",
    table="nat",
    flags=BOTH,
)

# ---------------------------------------------------------------- commands

lines(
    "-A INPUT -j ACCEPT",
    "-A INPUT",
    "-A",
    "-A nosuch",
    "-A nosuch -j ACCEPT",
    "-A INPUT -j",
    "-A INPUT -j nosuch",
    "-A INPUT -g nosuch",
    "-A INPUT -g web",
    "-A INPUT -j INPUT",
    "-A INPUT INPUT",
    "-A INPUT -j ACCEPT stray",
    "-A INPUT -A INPUT",
    "-A INPUT -A FORWARD",
    "-A INPUT -D INPUT 1",
    "-AINPUT -j ACCEPT",
    "--append INPUT -j ACCEPT",
    "--append=INPUT -j ACCEPT",
    "--app INPUT",
    "-j ACCEPT -A INPUT",
    "-j ACCEPT",
    "INPUT -j ACCEPT",
    "-s @ -A INPUT -j ACCEPT",
    "-A web -j empty",
    "-A empty -j web",
    "-A web -j web",
    "-A web -j log-drop\n-A log-drop -j web",
    "! -A INPUT",
    "-A ! INPUT",
    f"-A {LONG}x",
    f"-A INPUT -j {LONG}",
    f"-A INPUT -j {LONG}x",
    "-A INPUT -o eth0",
    "-A OUTPUT -i eth0",
    "-A web -o eth0 -i eth1",
    "-A INPUT -s @,@@ -j ACCEPT",
    "-A INPUT -s @,@@ -d @,@@ -j ACCEPT",
    "-A INPUT ! -s @,@@",
    "-A INPUT -s nosuch.invalid/x",
    "-A INPUT -m nosuch",
    "-A INPUT -p nosuch",
    "-A INPUT -p tcp --dport",
    "-A INPUT -p tcp --dport 22 -j ACCEPT",
    "-A INPUT --dport 22",
    "-A INPUT -m tcp --dport 22",
    "-A INPUT -p udp -m tcp --dport 22",
    "-A INPUT -p tcp -j TCPMSS --set-mss 5",
    "-A INPUT -j MASQUERADE",
    "-A INPUT -j REJECT --reject-with tcp-reset",
    "-A FORWARD -m owner --uid-owner 0",
    "-I INPUT -j RETURN",
    "-I INPUT 1 -j RETURN",
    "-I INPUT 2 -j RETURN",
    "-I INPUT 3 -j RETURN",
    "-I INPUT 4 -j RETURN",
    "-I INPUT 5 -j RETURN",
    "-I INPUT 0 -j RETURN",
    "-I INPUT -1 -j RETURN",
    "-I INPUT x -j RETURN",
    "-I INPUT 1x -j RETURN",
    "-I INPUT 0x2 -j RETURN",
    "-I INPUT 02 -j RETURN",
    '-I INPUT "" -j RETURN',
    "-I INPUT 2147483647",
    "-I INPUT 2147483648",
    "-I INPUT 4294967297",
    "-I INPUT 99999999999999999999",
    "-I INPUT 1 2",
    "-I INPUT 2 -s @,@@ -j ACCEPT",
    "-I INPUT -s @,@@ -j ACCEPT",
    "-I empty -j RETURN",
    "-I empty 1 -j RETURN",
    "-I empty 2 -j RETURN",
    "-I nosuch -j ACCEPT",
    "-I",
    "--insert INPUT 2 -j RETURN",
    "-I INPUT -j RETURN -I INPUT",
    "-R INPUT 1 -j RETURN",
    "-R INPUT 3 -j RETURN",
    "-R INPUT 4 -j RETURN",
    "-R INPUT 0 -j RETURN",
    "-R INPUT x",
    "-R INPUT",
    "-R INPUT -j RETURN",
    "-R",
    "-R INPUT 1 -s @ -j DROP",
    "-R nosuch 1 -j DROP",
    "-R empty 1 -j DROP",
    "-R INPUT 2 -j nosuch",
    "-R INPUT 1 -c 7 8 -j RETURN",
    "--replace INPUT 1 -j RETURN",
    "-D INPUT 1",
    "-D INPUT 3",
    "-D INPUT 4",
    "-D INPUT 0",
    "-D INPUT -1",
    "-D INPUT x",
    "-D INPUT 1 2",
    "-D INPUT 1 -j DROP",
    "-D INPUT",
    "-D",
    "-D INPUT -j DROP",
    "-D INPUT -j ACCEPT",
    "-D INPUT -p tcp --dport 22 -j ACCEPT",
    "-D INPUT -p tcp -m tcp --dport 22 -j ACCEPT",
    "-D INPUT -p tcp -m tcp --dport 23 -j ACCEPT",
    "-D INPUT -j web",
    "-D INPUT -g web",
    "-D INPUT -j nosuch",
    "-D nosuch 1",
    "-D nosuch -j DROP",
    "-D web -s @ -j ACCEPT",
    "-D web -s @,@@ -j ACCEPT",
    "-D web -s @,@ -j ACCEPT",
    "-D INPUT -c 5 6 -j DROP",
    "-D INPUT 1\n-D INPUT 1\n-D INPUT 1",
    "-D INPUT 1\n-D INPUT 1\n-D INPUT 1\n-D INPUT 1",
    "-D INPUT 3\n-A INPUT -j DROP",
    "--delete INPUT 1",
    "-D empty 1",
    "-C INPUT -j DROP",
    "-C INPUT -j ACCEPT",
    "-C INPUT",
    "-C nosuch -j DROP",
    "-C INPUT 1",
    "-C INPUT -p tcp --dport 22 -j ACCEPT",
    "-C INPUT -j nosuch",
    "--check INPUT -j DROP",
    "-C INPUT -c 1 2 -j DROP",
    "-C web -s @,@@ -j ACCEPT",
    "-N new",
    "-N new\n-A new -j DROP",
    "-N new\n-N new",
    "-N web",
    "-N INPUT",
    "-N PREROUTING",
    f"-N {LONG}",
    f"-N {LONG}x",
    "-N -x",
    "-N !x",
    "-N LOG",
    "-N ACCEPT",
    "-N RETURN",
    "-N conntrack",
    '-N ""',
    '-N "a b"',
    "-N",
    "-N new x",
    "-N new -j DROP",
    "-N new -p tcp",
    "--new-chain new",
    "--new new",
    "-Nnew",
    "-N é",
    "-N a*",
    "-X empty",
    "-X web",
    "-X log-drop",
    "-X INPUT",
    "-X nosuch",
    "-X",
    "-X empty extra",
    "-X empty -j DROP",
    "-F\n-X",
    "-F INPUT\n-F web\n-X web",
    "-F web\n-X log-drop",
    "-F INPUT\n-X web",
    "--delete-chain empty",
    "-Xempty",
    "-X empty\n-X empty",
    "-X empty\n-A INPUT -j empty",
    "-F",
    "-F INPUT",
    "-F web",
    "-F nosuch",
    "-F INPUT 1",
    "-F INPUT -j DROP",
    "--flush",
    "--flush web",
    "-FINPUT",
    "-F -F",
    "-Z",
    "-Z INPUT",
    "-Z INPUT 1",
    "-Z INPUT 3",
    "-Z INPUT 4",
    "-Z INPUT 0",
    "-Z INPUT x",
    "-Z nosuch",
    "-Z web",
    "-Z web 2",
    "--zero INPUT",
    "-Z INPUT -j DROP",
    "-Z\n-A INPUT -j RETURN",
    "-ZINPUT",
    "-P INPUT DROP",
    "-P INPUT ACCEPT",
    "-P INPUT REJECT",
    "-P INPUT QUEUE",
    "-P INPUT RETURN",
    "-P INPUT web",
    "-P INPUT drop",
    "-P INPUT -",
    "-P INPUT",
    "-P",
    "-P web DROP",
    "-P nosuch DROP",
    "-P INPUT DROP extra",
    "-P INPUT DROP -c 5 6",
    "-P INPUT DROP -c 5",
    "-P INPUT DROP -j ACCEPT",
    "-P FORWARD ACCEPT",
    "--policy INPUT DROP",
    "-P INPUT DROP\n-P INPUT ACCEPT",
    "-E web www",
    "-E web",
    "-E",
    "-E nosuch x",
    "-E web log-drop",
    "-E web web",
    "-E INPUT x",
    "-E web INPUT",
    "-E web LOG",
    "-E web ACCEPT",
    f"-E web {LONG}",
    '-E web "a b"',
    "-E web -x",
    "-E web www extra",
    "-E web www\n-A www -j DROP",
    "-E web www\n-A web -j DROP",
    "--rename-chain web www",
    "-E empty nothing\n-X nothing",
    "-v",
    "-n",
    "-x",
    "-s @",
    "-j DROP",
    "-p tcp",
    "--",
    "-",
    "!",
    '""',
    "x",
    "-Q",
    "--nosuch",
    "--line-numbers",
    "-c 1 2",
    "-i eth0",
    "-4",
    "-6",
    flags=("n",),
)
# without what was there before
lines(
    "-A INPUT -j ACCEPT",
    "-A web -j ACCEPT",
    "-A INPUT -j web",
    "-I INPUT 2 -j DROP",
    "-I INPUT 1 -j DROP",
    "-I INPUT -j DROP\n-I INPUT -j ACCEPT\n-I INPUT 2 -j RETURN",
    "-D INPUT 1",
    "-D INPUT -j DROP",
    "-R INPUT 1 -j DROP",
    "-A INPUT -j DROP\n-R INPUT 1 -j ACCEPT",
    "-A INPUT -j DROP\n-D INPUT -j DROP",
    "-A INPUT -j DROP\n-D INPUT 1",
    "-N web",
    "-N web\n-A INPUT -j web\n-A web -j DROP",
    "-X web",
    "-F web",
    "-F",
    "-Z",
    "-P INPUT DROP",
    "-E web www",
    "-N a\n-E a b\n-A b -j DROP",
    "-C INPUT -j DROP",
    "-A INPUT -j DROP\n-C INPUT -j DROP",
    "-N a\n-N b\n-A a -j b\n-A b -j a",
    "-N a\n-A a -j a",
    "-N a\n-A a -g a",
    "-N z\n-N a\n-N m\n-N B\n-N _\n-N 0",
    ":z - [0:0]\n:a - [0:0]\n:m - [0:0]\n:B - [0:0]\n-A z -j a",
    "-N a\n-A INPUT -j a\n-X a",
    "-N a\n-A INPUT -j a\n-D INPUT 1\n-X a",
    "-N a\n-X a\n-N a\n-A a -j DROP",
    flags=("", "c", "t"),
)

# names that are builtin in another table
lines(
    ":PREROUTING - [0:0]",
    ":PREROUTING - [0:0]\n-A PREROUTING -j DROP\n-A INPUT -j PREROUTING",
    "-N PREROUTING\n-A PREROUTING -i eth0 -j DROP",
    "-E web PREROUTING",
    "-E empty POSTROUTING\n-A POSTROUTING -j ACCEPT\n-A INPUT -g POSTROUTING",
    "-N POSTROUTING\n-X POSTROUTING",
    "-P PREROUTING DROP",
    "-N PREROUTING\n-P PREROUTING DROP",
    "-A PREROUTING -j DROP",
    flags=COUNTED,
)
lines(
    ":FORWARD - [0:0]\n-A PREROUTING -j FORWARD",
    "-N zed\n-E zed INPUT\n-A INPUT -o eth0 -j DROP",
    "-N zed\n-E zed INPUT\n-A INPUT -i eth0 -j DROP\n-A OUTPUT -j INPUT",
    table="raw",
    flags=COUNTED,
)

# ---------------------------------------------------------------- words that have a meaning in a file

lines(
    "-A INPUT -t filter -j ACCEPT",
    "-A INPUT -t nat -j ACCEPT",
    "-t filter -A INPUT -j ACCEPT",
    "-t nat -A POSTROUTING -j ACCEPT",
    "-A INPUT -tfilter",
    "-A INPUT --table filter",
    "-A INPUT --table=filter -j ACCEPT",
    "-A INPUT --tab filter",
    "-A INPUT -ft filter",
    "-A INPUT -j ACCEPT -t",
    '-A INPUT -m comment --comment "-t nat"',
    "-A INPUT -m comment --comment -t",
    "-A INPUT -w -j ACCEPT",
    "-w -A INPUT",
    "-A INPUT -w 5",
    "-A INPUT --wait",
    "-A INPUT -W 5",
    "-A INPUT -W",
    "-A INPUT --wait-interval=5",
    "-4 -A INPUT -j ACCEPT",
    "-6 -A INPUT -j ACCEPT",
    "-A INPUT -4 -j ACCEPT",
    "-A INPUT -6 -j ACCEPT",
    "-A INPUT -j ACCEPT -4",
    "-A INPUT -j ACCEPT -6",
    "-A INPUT -j NOSUCH -4",
    "-A INPUT -j NOSUCH -6",
    "-4 -A INPUT -j NOSUCH",
    "-6 -A INPUT -j NOSUCH",
    "-6 -A INPUT -j NOSUCH --nosuch",
    "-4 -A INPUT --nosuch",
    "--ipv4 -A INPUT -j ACCEPT",
    "--ipv6 -A INPUT -j ACCEPT",
    "--ip -A INPUT",
    "-4 -6 -A INPUT",
    "-64 -A INPUT",
    "! -4 -A INPUT",
    "-4 -P INPUT DROP",
    "-6 -P INPUT DROP",
    "-4 -N new",
    "-6 -N new",
    "-4 x",
    "-6 x",
    "-4",
    "-6",
    "[1:2] -4 -A INPUT -j ACCEPT",
    "[1:2] -6 -A INPUT -j ACCEPT",
    "-v -A INPUT -j ACCEPT",
    "-A INPUT -v -j ACCEPT",
    "-A INPUT -vv",
    "-A INPUT -n -j ACCEPT",
    "-A INPUT -x",
    "-A INPUT --line-numbers",
    "-A INPUT -M /bin/true -j ACCEPT",
    "-A INPUT --modprobe=/bin/true",
    "-A INPUT --exact",
    "-A INPUT -L",
    "-A INPUT -b",
    "-A INPUT -0",
    flags=BOTH,
)

# ---------------------------------------------------------------- counters

lines(
    "[1:2] -A INPUT -j ACCEPT",
    "[1:2]-A INPUT -j ACCEPT",
    "[1:2]   -A INPUT -j ACCEPT",
    "[1:2]\t-A INPUT -j ACCEPT",
    "[ 1:2 ] -A INPUT",
    "[1 2] -A INPUT -j ACCEPT",
    "[1:2 -A INPUT -j ACCEPT",
    "1:2] -A INPUT -j ACCEPT",
    "[:] -A INPUT",
    "[1:] -A INPUT",
    "[:2] -A INPUT",
    "[x:y] -A INPUT",
    "[1:y] -A INPUT",
    "[1:2:3] -A INPUT -j ACCEPT",
    "[] -A INPUT",
    "[1] -A INPUT",
    "[1:2]",
    "[1:2] ",
    "[",
    "]",
    "[:",
    "[]",
    "[[1:2]] -A INPUT",
    "[1:2] [3:4] -A INPUT",
    "[18446744073709551615:18446744073709551615] -A INPUT -j ACCEPT",
    "[18446744073709551616:1] -A INPUT -j ACCEPT",
    "[99999999999999999999999999:1] -A INPUT",
    "[-1:-1] -A INPUT -j ACCEPT",
    "[+1:+1] -A INPUT",
    "[0x5:0x6] -A INPUT -j ACCEPT",
    "[05:06] -A INPUT",
    "[1.5:2] -A INPUT",
    "[1,2:3] -A INPUT",
    "[1:2,3] -A INPUT",
    "[1:-A INPUT] -A INPUT",
    " [1:2] -A INPUT -j ACCEPT",
    '"[1:2]" -A INPUT',
    "[1:2] -I INPUT -j RETURN",
    "[1:2] -I INPUT 2 -j RETURN",
    "[1:2] -R INPUT 1 -j RETURN",
    "[1:2] -D INPUT 1",
    "[1:2] -D INPUT -j DROP",
    "[1:2] -C INPUT -j DROP",
    "[1:2] -N new",
    "[1:2] -X empty",
    "[1:2] -P INPUT DROP",
    "[1:2] -F INPUT",
    "[1:2] -Z INPUT",
    "[1:2] -E web www",
    "[1:2] -A INPUT -c 5 6 -j ACCEPT",
    "-A INPUT -c 5 6 -j ACCEPT",
    "-A INPUT -j ACCEPT -c 5 6",
    "-A INPUT -c 5,6",
    "-A INPUT -c 5",
    "[1:2] :INPUT DROP [0:0]",
    "[1:2] COMMIT",
    "[1:2] # comment",
    "[1:2] -A INPUT -s @,@@ -j ACCEPT",
    "-A INPUT -j ACCEPT -c 18446744073709551615 18446744073709551615",
    "[0:0] -A INPUT -j ACCEPT",
    flags=COUNTED,
)

# ---------------------------------------------------------------- quoting

for text in (
    '"a b"',
    '""',
    '"a\\"b"',
    '"a\\\\b"',
    'a\\"b',
    '"a"b',
    'a"b"',
    '"a',
    'a"',
    '"',
    "'a b'",
    '"a\'b"',
    '"tab\there"',
    '"#"',
    "#",
    '"-j"',
    '"x" -j ACCEPT',
    '"\\',
    '"\\\n"',
    '"a\\n"',
    '"  "',
    '"é"',
    "a\\ b",
    '"$x"',
    '"%s"',
):
    lines(f"-A INPUT -m comment --comment {text}", f"-A INPUT -m comment --comment {text} -j DROP\n-A INPUT -j ACCEPT")
lines(
    '"-A" INPUT -j ACCEPT',
    '-A "INPUT" -j "ACCEPT"',
    '-"A" INPUT',
    '"-A INPUT"',
    '"-A INPUT" -j ACCEPT',
    '-A INPUT ""',
    '-A "" -j ACCEPT',
    '-A INPUT "-j" ACCEPT',
    '"" -A INPUT',
    '-A INPUT -j "ACCEPT',
    '-A INPUT -j "" ACCEPT',
    '-A IN"PUT"',
    '"COMMIT"',
    '":INPUT" DROP',
    '-A INPUT -m comment --comment "\n" -j DROP',
)

# ---------------------------------------------------------------- one wrong line among right ones

RIGHT = "-A INPUT -i lo -j ACCEPT"
for wrong in (
    "-A INPUT -j NOSUCH",
    "x",
    ":INPUT NOSUCH [0:0]",
    "-A nosuch -j ACCEPT",
    "-A INPUT -p tcp --dport x",
    "-D INPUT -j RETURN",
    "[1:2",
    "-N INPUT",
    '-A INPUT -m comment --comment "a',
):
    for place in range(3):
        text = [RIGHT, RIGHT, RIGHT]
        text.insert(place, wrong)
        for flag in ("", "n", "t"):
            case(
                "\n".join(
                    ["# made by hand", "*filter", ":INPUT DROP [0:0]", ":FORWARD DROP [0:0]", *text, "COMMIT", ""]
                ),
                flag,
            )
# what only the kernel refuses, at COMMIT
lines(
    "-A INPUT -m tcp --dport 22\n-A INPUT -j ACCEPT",
    ":a - [0:0]\n:b - [0:0]\n-A a -j b\n-A b -j a\n-A INPUT -j a",
    "-A INPUT -j ACCEPT\n-A FORWARD -p udp -j REJECT --reject-with tcp-reset",
    "-A OUTPUT -m physdev --physdev-is-in",
    flags=("", "n", "t", "c"),
)
