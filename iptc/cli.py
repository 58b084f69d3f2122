"""The `iptc` command."""

import argparse
import os
import sys
import time

from . import ruleset
from .counters import CounterReader
from .errors import IPTCError, LockTimeout, ParameterError

# as iptables': 1 an error, 2 bad usage or a bad line, 4 the lock was not obtained
_ERROR, _BAD_LINE, _NO_LOCK = 1, 2, 4

_FAMILIES = {"4": [False], "6": [True], "both": [False, True]}
_HEADINGS = {False: "# IPv4", True: "# IPv6"}


def main(arguments=None):
    """Run the command with *arguments* (`sys.argv`) and return its exit code."""
    options = _parser().parse_args(arguments)
    if options.backend is not None:
        os.environ["IPTC_BACKEND"] = options.backend
    try:
        return options.run(options)
    except LockTimeout as error:
        return _failed(error, _NO_LOCK)
    except ParameterError as error:
        return _failed(error, _BAD_LINE)
    except IPTCError as error:
        return _failed(error, _ERROR)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # whoever read us has enough; nothing more can be written, not even when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _ERROR


def _failed(error, code):
    print(f"iptc: {error}", file=sys.stderr)
    return code


# -------------------------------------------------------------------------- usage


def _parser():
    parser = argparse.ArgumentParser(prog="iptc", description="The Linux firewall, read and written through the kernel.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (_add_save, _add_restore, _add_check, _add_list, _add_counters):
        add(commands)
    return parser


def _command(commands, name, run, both, **words):
    """A command with the options that all have."""
    command = commands.add_parser(name, **words)
    family = command.add_mutually_exclusive_group()
    family.add_argument("-4", "--ipv4", dest="family", action="store_const", const="4", help="IPv4 (the default)")
    family.add_argument("-6", "--ipv6", dest="family", action="store_const", const="6", help="IPv6")
    if both:
        family.add_argument("-a", "--both", dest="family", action="store_const", const="both",
                            help=f"both, under the headings `{_HEADINGS[False]}' and `{_HEADINGS[True]}'")  # fmt: skip
    command.add_argument("--netns", metavar="NAME", type=_netns, help="network namespace: a name, a path or a process id")
    command.add_argument("--backend", choices=["legacy", "nft"], help="legacy xtables or nf_tables (IPTC_BACKEND, else found out)")
    command.set_defaults(run=run, family="4")
    return command


def _add_wait(command, default, text):
    command.add_argument("-w", "--wait", nargs="?", type=_seconds, const=True, default=default, metavar="SECONDS", help=text)


def _add_save(commands):
    save = _command(commands, "save", _save, True, help="print the rules as iptables-save does",
                    description="Print all tables that are in use, or one, in the format of iptables-save.")  # fmt: skip
    save.add_argument("-t", "--table", help="only this table")
    save.add_argument("-c", "--counters", action="store_true", help="with the counters of the rules")
    save.add_argument("-f", "--file", metavar="FILE", help="write to FILE, which is whole or not there, instead of printing")


def _add_restore(commands):
    restore = _command(commands, "restore", _restore, True, help="make the rules what a file says, as iptables-restore does",
                       description="Make the rules what FILE, in the format of iptables-save, says: table by table, each at once.")  # fmt: skip
    restore.add_argument("-t", "--test", action="store_true", help="change nothing")
    _add_source(restore, "set the counters of the file too", "keep the rules that are there")


def _add_check(commands):
    check = _command(commands, "check", _check, True, help="find out whether a file could be restored",
                     description="Read FILE as `restore' would, change nothing, and say what is wrong with it, if anything is.")  # fmt: skip
    check.add_argument("--syntax", action="store_true", help="look at the lines alone: needs no privilege and no kernel table")
    _add_source(check, "look at the counters of the file too", "for a file that is added to the rules that are there")


def _add_source(command, counters, noflush):
    """What is read, and how."""
    command.add_argument("file", nargs="?", metavar="FILE", help="instead of standard input")
    command.add_argument("-T", "--table", help="only this table")
    command.add_argument("-c", "--counters", action="store_true", help=counters)
    command.add_argument("-n", "--noflush", action="store_true", help=noflush)
    _add_wait(command, True, "wait for the xtables lock this long only (for ever)")


def _add_list(commands):
    shown = _command(commands, "list", _list, True, help="print the rules as iptables -S does",
                     description="Print the chains and rules of one table as `iptables -S' does.")  # fmt: skip
    shown.add_argument("chain", nargs="?", metavar="CHAIN", help="only this chain")
    shown.add_argument("-t", "--table", default="filter", help="table (filter)")
    shown.add_argument("-v", "--verbose", action="store_true", help="with counters")
    shown.add_argument("--format", choices=["text", "json"], default="text", help="json: one object a family")


def _add_counters(commands):
    counters = _command(
        commands, "counters", _counters, False,
        help="packet and byte counters of a table",
        description="Print the packet and byte counters of one table; with --interval again and again, with what was added.",
    )  # fmt: skip
    counters.add_argument("-t", "--table", default="filter", help="table (filter)")
    counters.add_argument("--chain", action="append", metavar="NAME", help="only this chain; may be given several times")
    counters.add_argument("--format", choices=["table", "json"], default="table", help="json: one object a line")
    counters.add_argument("--interval", type=_seconds, metavar="SECONDS", help="repeat, this far apart")
    counters.add_argument("--count", type=_positive, metavar="N", help="with --interval: end after N times")
    _add_wait(counters, False, "read under the xtables lock, so that no commit is seen half done")


def _seconds(text):
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError("must be a number of seconds, not negative")
    return value


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _netns(text):
    return int(text) if text.isdigit() else text


def _wait(options):
    """`-w` as the library has it: None for ever."""
    return None if options.wait is True else options.wait


# --------------------------------------------------------------- save and restore


def _save(options):
    parts = []
    for ipv6 in _FAMILIES[options.family]:
        if options.family == "both":
            parts.append(f"{_HEADINGS[ipv6]}\n")
        parts.append(ruleset.save(ipv6, options.counters, netns=options.netns, table=options.table))
    if options.file is None:
        for part in parts:
            sys.stdout.buffer.write(part.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    else:
        _write_whole(options.file, parts)
    return 0


def _write_whole(path, parts):
    """Write *path* so that a reader finds all of it or what stood there before."""
    draft = f"{path}.{os.getpid()}.new"
    try:
        with open(draft, "xb") as file:
            os.fchmod(file.fileno(), 0o600)
            for part in parts:
                file.write(part.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        if os.path.exists(draft):
            os.unlink(draft)
        raise IPTCError(f"can't write {path}: {error.strerror}") from None


def _restore(options):
    settings = {"wait": _wait(options), "netns": options.netns, "table": options.table}
    sources = _sources(options)
    if len(sources) > 1 and not options.test:
        # of two families none is restored where one of them cannot be
        for ipv6, source in sources:
            ruleset.restore(source, ipv6, options.counters, not options.noflush, True, **settings)
    for ipv6, source in sources:
        with _Progress(source) as progress:
            ruleset.restore(source, ipv6, options.counters, not options.noflush, options.test, progress=progress, **settings)
    return 0


def _check(options):
    options.test = True
    if not options.syntax:
        _restore(options)
    else:
        for ipv6, source in _sources(options):
            with _Progress(source) as progress:
                ruleset.parse(source, ipv6, options.counters, not options.noflush, options.table, progress)
    return 0


def _sources(options):
    """[(ipv6, where its text comes from)]."""
    source = sys.stdin.buffer if options.file in (None, "-") else _opened(options.file)
    if options.family != "both":
        return [(options.family == "6", source)]
    text = b"\n" + source.read()
    found = []
    for ipv6 in _FAMILIES["both"]:
        _, heading, rest = text.partition(f"\n{_HEADINGS[ipv6]}\n".encode())
        if not heading:
            raise ParameterError(f"there is no line `{_HEADINGS[ipv6]}' before the rules of that family")
        found.append((ipv6, rest.partition(f"\n{_HEADINGS[not ipv6]}\n".encode())[0] + b"\n"))
    return found


def _opened(path):
    try:
        return open(path, "rb")
    except OSError as error:
        raise IPTCError(f"Can't open {path}: {error.strerror}") from None


class _Progress:
    """A bar on standard error while a text is read, where that is a terminal and takes longer than a moment."""

    def __init__(self, source):
        self._done = 0
        self._started = time.monotonic()
        self._shown = False
        try:
            self._size = len(source) if isinstance(source, bytes) else os.fstat(source.fileno()).st_size
        except (OSError, ValueError):
            self._size = 0

    def __enter__(self):
        return self if sys.stderr.isatty() else None

    def __call__(self, size):
        self._done += size
        if time.monotonic() - self._started < 0.5:
            return
        self._shown = True
        share = min(1, self._done / self._size) if self._size else 0
        bar = "#" * int(30 * share)
        print(f"\r[{bar:30}] {share:4.0%} {self._done / 1e6:.0f} MB", end="", file=sys.stderr, flush=True)

    def __exit__(self, *exc):
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------- list


def _list(options):
    for ipv6 in _FAMILIES[options.family]:
        chains = ruleset.chains(options.table, ipv6, options.netns)
        if options.chain is not None:
            chains = [chain for chain in chains if chain.name == options.chain]
            if not chains:
                raise IPTCError("No chain/target/match by that name.")
        if options.format == "json":
            print(_list_as_json(options, ipv6, chains))
            continue
        if options.family == "both":
            print(_HEADINGS[ipv6])
        sys.stdout.write(ruleset.listing(chains, options.verbose))
        sys.stdout.flush()
    return 0


def _list_as_json(options, ipv6, chains):
    import json

    described = []
    for chain in chains:
        one = {"name": chain.name, "policy": chain.policy}
        if chain.policy is not None:
            one["packets"], one["bytes"] = chain.counters
        one["rules"] = [{"packets": packets, "bytes": size, "rule": text} for (packets, size), text in ruleset.rules_of(chain)]
        described.append(one)
    return json.dumps({"table": options.table, "ip_version": 6 if ipv6 else 4, "chains": described})


# ----------------------------------------------------------------------- counters


def _counters(options):
    show = _as_json if options.format == "json" else _as_table
    previous = None
    done = 0
    with CounterReader(options.table, options.family == "6", netns=options.netns, lock=options.wait) as reader:
        due = time.monotonic()
        while True:
            snapshot = reader.read()
            print(show(options, snapshot, previous), flush=True)
            done += 1
            if options.interval is None or done == options.count:
                return 0
            previous = snapshot
            due += options.interval
            time.sleep(max(0, due - time.monotonic()))


def _chosen(options, snapshot):
    """The chains that were asked for."""
    if not options.chain:
        return snapshot.chains
    chains = []
    for name in options.chain:
        try:
            chains.append(snapshot[name])
        except KeyError:
            raise IPTCError(f"table {options.table} has no chain {name}") from None
    return chains


def _rows(options, snapshot, previous):
    """(chain, [(packets, bytes, added packets, added bytes, rule)]) for each chain."""
    delta = None if previous is None else snapshot.since(previous)
    rules = snapshot.rules
    for chain in _chosen(options, snapshot):
        added = [(None, None)] * len(chain) if delta is None else delta[chain.name]
        yield chain, [(*now, *more, rules[slot]) for now, more, slot in zip(chain, added, chain.slots)]


def _as_table(options, snapshot, previous):
    lines = []
    for chain, rows in _rows(options, snapshot, previous):
        title = f"Chain {chain.name}"
        if chain.policy is not None:
            title += f" (policy {chain.policy} {chain.policy_counters[0]} packets, {chain.policy_counters[1]} bytes)"
        lines.append(title)
        heads = ["pkts", "bytes"] if previous is None else ["pkts", "bytes", "+pkts", "+bytes"]
        cells = [[str(n) for n in row[: len(heads)]] for row in rows]
        widths = [max(8, len(head), *(len(row[i]) for row in cells)) for i, head in enumerate(heads)]
        lines.append(" ".join(head.rjust(width) for head, width in zip(heads, widths)) + " rule")
        for row, (*_, rule) in zip(cells, rows):
            lines.append(" ".join(cell.rjust(width) for cell, width in zip(row, widths)) + f" {rule.text}".rstrip())
        lines.append("")
    return "\n".join(lines)


def _as_json(options, snapshot, previous):
    import json

    chains = []
    for chain, rows in _rows(options, snapshot, previous):
        described = {"name": chain.name, "policy": chain.policy}
        if chain.policy is not None:
            described["packets"], described["bytes"] = chain.policy_counters
        described["rules"] = []
        for packets, size, more_packets, more_bytes, rule in rows:
            one = {"packets": packets, "bytes": size, "rule": rule.text, "target": rule.target, "comment": rule.comment}
            if previous is not None:
                one["added_packets"], one["added_bytes"] = more_packets, more_bytes
            described["rules"].append(one)
        chains.append(described)
    return json.dumps({"table": options.table, "ip_version": 6 if options.family == "6" else 4, "time": snapshot.time[1],
                       "generation": snapshot.generation, "chains": chains})  # fmt: skip
