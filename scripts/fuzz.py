"""Uses one input of scripts/fuzz. The first byte says how the rest is used: see `one`.

The package may raise its own exceptions. Any other exception, a crash, a hang, or a change of the streams and
descriptors of the process is a finding.
"""

import os
import warnings

warnings.simplefilter("ignore")

import specs  # noqa: E402

import iptc  # noqa: E402
from iptc._netlink import Batch, Socket  # noqa: E402
from iptc.language.plugins import find_match, find_target, library_dirs  # noqa: E402
from iptc.language.restored_text import Reader  # noqa: E402
from iptc.legacy.blob import TableBlob  # noqa: E402
from iptc.legacy.restore import TableDraft  # noqa: E402
from iptc.legacy.save import save_rules  # noqa: E402
from iptc.legacy.table import LegacyTable  # noqa: E402
from iptc.model.commands import interpret  # noqa: E402
from iptc.model.restoring import Restore  # noqa: E402
from iptc.namespace import Place  # noqa: E402
from iptc.nft.plan import TablePlan  # noqa: E402
from iptc.nft.table import NftTable  # noqa: E402

FAMILIES = {2: iptc.Rule, 10: iptc.Rule6}
SPECS = [*specs.load(False), *specs.load(True), *specs.load_invalid()]
TABLES = {}  # (family, name) -> TableBlob, as the namespace had it at first
PLANNED = {}  # (family, name) -> NftTable
SOCKET = Socket()

BEGINNING = """*filter
:INPUT DROP [1:2]
:there - [0:0]
-A INPUT -p tcp -j there
-A there -m mark --mark 1 -j ACCEPT
-A there -p udp -m multiport --dports 1,2 -j LOG
COMMIT
"""


def load_plugins():
    """Load all plugins, so that the fuzzer sees their code from the beginning. Return them."""
    found = []
    for folder in library_dirs():
        for file in sorted(os.listdir(folder)):
            for nfproto, start in ((2, "libipt_"), (10, "libip6t_"), (2, "libxt_"), (10, "libxt_")):
                if file.startswith(start) and file.endswith(".so"):
                    for find in (find_match, find_target):
                        try:
                            found.append(find(nfproto, file[len(start) : -3]))
                        except iptc.IPTCError:
                            pass
    return [plugin for plugin in found if plugin is not None]


def load_tables():
    for nfproto in FAMILIES:
        iptc.restore(BEGINNING, nfproto == 10, backend="nft")
        for name in ("filter", "nat", "mangle", "raw", "security"):
            try:
                TABLES[nfproto, name] = TableBlob(nfproto, name)
                PLANNED[nfproto, name] = NftTable(nfproto, name, Place())
            except iptc.IPTCError:
                pass


def text_of(data):
    return data.decode("utf-8", "surrogateescape")


def round_trip(cls, rule):
    """Read a rule, print it and read it again. Plugins do not always accept the text that they print."""
    printed = str(rule)
    if rule._networks is not None:
        [str(each) for each in rule.expand()]
    try:
        again = cls.from_args(printed)
    except iptc.IPTCError:
        return
    str(again)
    hash(again)
    # iptables accepts spaces in the name of an interface, and prints them unquoted: that text is another rule
    if not any(" " in (name or "") for name in (rule.in_interface, rule.out_interface)):
        assert rule == again
    cls.from_args(rule.to_args())


def read_rule(cls, data):
    round_trip(cls, cls.from_args(text_of(data)))


def read_words(cls, data):
    round_trip(cls, cls.from_args(text_of(data).split("\n")))


def set_parameters(cls, data):
    """`name` of a match or target, then `parameter=value` lines, set one by one by attribute."""
    name, *lines = text_of(data).split("\n")
    rule = cls()
    rule.protocol = "tcp"
    part = rule.create_target(name[1:]) if name[:1] == ">" else rule.create_match(name)
    for line in lines[:16]:
        parameter, _, value = line.partition("=")
        try:
            part.set_parameter(parameter, value.split("\t") if "\t" in value else value)
        except iptc.IPTCError:
            pass
    str(part.parameters)
    str(rule)
    part.final_check()


def as_dict(cls, data):
    """Read a specification, and turn its rule into a dict of `easy` and back."""
    rule = cls.from_args(text_of(data))
    ipv6 = cls is iptc.Rule6
    iptc.easy.encode_iptc_rule(iptc.easy.decode_iptc_rule(rule, ipv6), ipv6)


def read_file(cls, data, counters, flush, only, send):
    nfproto = cls._nfproto
    reader = Reader(nfproto, counters, flush, only)
    middle = len(data) // 2
    restored_tables = []
    try:
        for piece, last in ((data[:middle], False), (data[middle:], True)):
            for _, _, restored in reader.feed(piece, last):
                if restored is not None:
                    restored_tables.append(restored)
        reader.finish()
    finally:
        if reader.table is not None:
            restored_tables.append(reader.partial())
        for restored in restored_tables:
            restored.commands()
            do(nfproto, restored, send)


def do(nfproto, restored, send):
    """Carry *restored* out on a view and a draft of its table, and on a batch of nf_tables. With *send*, send them, and
    restore the old table."""
    blob = TABLES.get((nfproto, restored.table))
    if blob is None:
        return
    for way in (view, draft, plan):
        try:
            way(nfproto, restored, blob, send)
        except iptc.IPTCError:
            pass


def view(nfproto, restored, blob, send):
    there = LegacyTable(nfproto, restored.table, Place())._view(blob)
    interpret(restored, there)
    for chain in there.in_order():
        len(chain.entries)


def draft(nfproto, restored, blob, send):
    made = TableDraft(blob)
    try:
        interpret(restored, made)
        if send:
            commit(nfproto, restored.table, made)
    finally:
        made.close()


def plan(nfproto, restored, blob, send):
    table = PLANNED[nfproto, restored.table]
    if send:
        # the kernel only checks it
        table.rehearse([Restore(restored)], None)
        return
    made = TablePlan(SOCKET, Batch(), [], table)
    interpret(restored, made)
    made.seal()


def commit(nfproto, table, draft):
    """Send *draft*, print the table, read the text again, and restore the old table."""
    draft.commit()
    try:
        blob = TableBlob(nfproto, table)
        text = save_rules(blob, True, f"*{table}\n".encode(), b"COMMIT\n")
        for _ in Reader(nfproto, True, False).feed(text.encode("utf-8", "surrogateescape"), True):
            pass
    except iptc.IPTCError:
        pass
    draft.undo()


def one(data):
    """Use one input. Bit 0 of its first byte selects the first family, bits 1 to 3 the action, the rest how files are
    read."""
    if not data:
        return
    how, data = data[0], data[1:]
    first = iptc.Rule6 if how & 1 else iptc.Rule
    # a text of one family is read for the other one too: other code reads lines that are not for a family
    for cls in (first, iptc.Rule if first is iptc.Rule6 else iptc.Rule6):
        try:
            do_one(cls, how, data)
        except iptc.IPTCError:
            pass


def do_one(cls, how, data):
    kind = how >> 1 & 7
    if kind >= 4:
        read_file(
            cls,
            data,
            bool(how & 16),
            bool(how & 32),
            "filter" if how & 0xC0 == 0xC0 else None,
            how & 0xC0 == 0x80 and len(data) % 32 == 0,
        )
    else:
        (read_rule, read_words, set_parameters, as_dict)[kind](cls, data)


COMMON = """! -- - *filter *nat *mangle *raw COMMIT :INPUT\tACCEPT\t[1:2] :new\t-\t[0:0] [1:2] " \\ ' # \
-A\tINPUT -I\tINPUT\t1 -D\tINPUT -D\tINPUT\t1 -R\tINPUT\t1 -N\tnew -X\tnew -E\tnew\tother -P\tINPUT\tDROP -F -Z -Z\tINPUT\t1 -C\tINPUT \
-c\t1\t2 -g\tnew -j\tnew -s -d -i -o -p -f -4 -6 -w -t -m -j 0 1 -1 1: :1 1-2 2-1 65535 65536 4294967295 4294967296 \
18446744073709551615 18446744073709551616 0x 0xffffffff / /0 /32 /128 /33 /255.0.255.0 :: ::/0 1.2.3.4,5.6.7.8 1.2.3.4-1.2.3.5 %s%n \
1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16 1/s 1/day 00:00:00:00:00:00 SYN,ACK\tSYN ALL NONE |00| 2038-01-19T03:14:08"""


def words(plugins):
    """Return the words that the mutator inserts: those of specifications, and names of extensions and options."""
    words = [word.replace("\t", " ") for word in COMMON.split()]
    for plugin in plugins:
        words.append(f"{'-j' if plugin.is_target else '-m'} {plugin.name}")
        words += [f"--{option}" for option in plugin.option_names]
    for spec in SPECS:
        words += spec.text.split(" ")
    return [word.encode("utf-8", "surrogateescape") for word in dict.fromkeys(words)]


def seeds(folder):
    """Write the first corpus into *folder*, with one input in each file."""
    cases = []
    for spec in SPECS:
        v6, text = int(spec.ipv6), spec.text
        cases += [(v6, text), (v6 | 2, text.replace(" ", "\n")), (v6 | 6, text)]
        rule = f"{spec.chain} {text}"
        cases.append((v6 | 0xB8, f"*{spec.table}\n:new - [0:0]\n[1:2] -A {rule}\n-D {rule}\n-I {rule}\nCOMMIT\n"))
        cases += [(v6 | 4, parameters) for parameters in _parameters(v6, text)]
    for number, (how, text) in enumerate(cases):
        with open(os.path.join(folder, str(number)), "wb") as file:
            file.write(bytes([how]) + text.encode("utf-8", "surrogateescape"))


def _parameters(v6, text):
    """The inputs of `set_parameters` for each extension of a rule."""
    try:
        rule = FAMILIES[10 if v6 else 2].from_args(text)
    except iptc.IPTCError:
        return
    for sign, part in [*(("", match) for match in rule.matches), (">", rule.target)]:
        lines = [
            f"{name}={value if isinstance(value, str) else chr(9).join(value)}"
            for name, value in part.parameters.items()
        ]
        yield "\n".join([sign + part.name, *lines])


WORDS = words(load_plugins())
load_tables()
