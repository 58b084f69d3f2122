"""Rule specifications: the command line of `iptables -A CHAIN`, read as iptables reads it.

What getopt does there is done here: clusters of short options, `--name=value`, unique abbreviations, options of the extension
that was named last first. Messages are iptables' own, in the wording of the release that is installed.
"""

from . import _core, _plugins, _xtables
from .errors import ParameterError, ParameterTypeError

# short option -> whether it takes a value; those of commands and listings are told apart below
_SHORT = {"p": True, "s": True, "d": True, "j": True, "g": True, "i": True, "o": True, "m": True, "c": True,
          "f": False, "v": False, "4": False, "6": False}  # fmt: skip
_LONG = {"protocol": "p", "source": "s", "src": "s", "destination": "d", "dst": "d", "jump": "j", "goto": "g",
         "in-interface": "i", "out-interface": "o", "match": "m", "set-counters": "c", "fragments": "f", "verbose": "v",
         "ipv4": "4", "ipv6": "6"}  # fmt: skip
# what iptables knows beside a rule specification: commands and ways of listing
_FOREIGN_SHORT = set("ACDRIELSMFZNXPVhbwWntx0")
_FOREIGN_LONG = ("append", "delete", "check", "insert", "replace", "list", "list-rules", "flush", "zero", "new-chain",
                 "delete-chain", "rename-chain", "policy", "table", "numeric", "wait", "wait-interval", "exact", "version",
                 "help", "line-numbers", "modprobe")  # fmt: skip
_FULL_NAMES = {"p": "--protocol", "s": "--source", "d": "--destination", "j": "--jump", "g": "--jump", "i": "--in-interface",
               "o": "--out-interface", "c": "--set-counters", "f": "--fragments"}  # fmt: skip
_INVERTIBLE = frozenset("psdiof")
# of these, releases before 1.8.10 take the whole word for the value where the value is attached: `-ptcp` is refused
_WHOLE_WORD = frozenset("psdioj")


def words_of(specification):
    """Return the words of a text, quoted as in a file of iptables-restore, or of a list of strings."""
    if isinstance(specification, str):
        text = _core.text_bytes(specification, "a rule specification")
        return [word.decode("utf-8", "surrogateescape") for word, _ in _plugins.split_words(text)]
    try:
        words = list(specification)
    except TypeError:
        words = [None]
    for word in words:
        if not isinstance(word, str):
            raise ParameterTypeError(f"a rule specification must be a string or a list of strings, not {type(word).__name__}")
        _core.text_bytes(word, "a word of a rule specification")
    return words


def read_rule(rule, match_class, target_class, words):
    """Make the empty *rule* what *words* say."""
    _Reader(rule, match_class, target_class, words).read()


class _Reader:
    """One pass over the words of one rule."""

    def __init__(self, rule, match_class, target_class, words):
        self.rule = rule
        self.match_class = match_class
        self.target_class = target_class
        self.words = words
        self.at = 0
        self.negated = False
        self.given = set()
        self.networks = {}
        self.protocol = None
        self.protocol_match_tried = False
        self.tables = []        # (name of the extension, its options), named last first; None: the target
        self.latest = {}        # name of a match -> the last one of that name
        self.target = None
        self.old = _plugins.is_old_release()

    def read(self):
        while self.at < len(self.words):
            word = self.words[self.at]
            self.at += 1
            if word == "--":
                if self.at < len(self.words):
                    raise ParameterError("unknown arguments found on commandline")
                break
            if word == "!":
                if self.negated:
                    raise ParameterError("multiple consecutive ! not allowed")
                self.negated = True
                continue
            if not word.startswith("-") or word == "-":
                raise ParameterError(f"Bad argument `{word}'")
            if word.startswith("--"):
                self._long(word)
            else:
                self._cluster(word)
            self.negated = False
        if self.negated:
            raise ParameterError("nothing appropriate following !")
        self._finish()

    # words -> options

    def _cluster(self, word):
        """`-p tcp`, `-ptcp`, `-fi eth0`."""
        position = 1
        while position < len(word):
            letter = word[position]
            position += 1
            if letter in _FOREIGN_SHORT:
                raise ParameterError(f"-{letter} has no place in a rule specification")
            if letter not in _SHORT:
                raise ParameterError(f'unknown option "{word if self.old else "-" + letter}"')
            if not _SHORT[letter]:
                self._base(letter, None)
                self.negated = False
                continue
            value = self._attached(letter, word, word[position:]) if position < len(word) else self._next(word)
            self._base(letter, value)
            return

    def _next(self, word):
        """The value behind *word*."""
        if self.at == len(self.words):
            raise ParameterError(f'option "{word}" requires an argument')
        self.at += 1
        return self.words[self.at - 1]

    def _attached(self, letter, word, value):
        return word if self.old and letter in _WHOLE_WORD else value

    def _long(self, word):
        """`--dport 22`, `--dport=22`, `--dpo 22`."""
        name, equals, attached = word[2:].partition("=")
        found = self._look_up(name)
        if found is None and self._load_protocol_match():
            found = self._look_up(name)
        if found is None:
            raise ParameterError(f'unknown option "{word}"')
        owner, option = found
        if owner == "base":
            if option is None:
                raise ParameterError(f"--{name} has no place in a rule specification")
            value = None
            if _SHORT[option]:
                value = self._attached(option, word, attached) if equals else self._next(word)
            elif equals:
                raise ParameterError(f'unknown option "{word}"')
            self._base(option, value)
            return
        if equals and not option.has_arg:
            raise ParameterError(f'unknown option "{word}"')
        rest = [*([attached] if equals else []), *self.words[self.at :]]
        if option.has_arg == 1 and not rest:
            raise ParameterError(f'option "{word}" requires an argument')
        extension = self.target if owner is None else self.latest[owner]
        used = extension._feed(option, self.negated, [_core.text_bytes(value, "an option") for value in rest])
        self.at += used - (1 if equals else 0)

    def _look_up(self, name):
        """(owner, option) for a long option: base options first, then the extension named last; None if there is none.

        An abbreviation must be unique over all of them, as getopt_long has it.
        """
        if name in _LONG:
            return "base", _LONG[name]
        if name in _FOREIGN_LONG:
            return "base", None
        for owner, options in self.tables:
            if name in options:
                return owner, options[name]
        candidates = {("base", letter) for long, letter in _LONG.items() if long.startswith(name)}
        candidates |= {("base", None) for long in _FOREIGN_LONG if long.startswith(name)}
        for owner, options in self.tables:
            candidates |= {(owner, option) for long, option in options.items() if long.startswith(name)}
        return candidates.pop() if len(candidates) == 1 else None

    def _load_protocol_match(self):
        """`-p tcp --dport` means `-p tcp -m tcp --dport`: once, and only if there is such a match."""
        if self.protocol is None or self.protocol_match_tried:
            return False
        self.protocol_match_tried = True
        name = self.protocol
        if name.isdigit():
            name = _plugins.protocol_of(int(name))
        if not name or _plugins.find_match(self.rule.nfproto, name) is None:
            return False
        self._add_match(name)
        return True

    # options -> rule

    def _base(self, letter, value):
        if letter == "m":
            if self.negated:
                raise ParameterError("unexpected ! flag before --match")
            if _plugins.find_match(self.rule.nfproto, value) is None:
                raise ParameterError(f"Couldn't load match `{value}':No such file or directory")
            self._add_match(value)
            return
        if letter in "v46":
            if letter == "4" and self.rule.nfproto != _core.IPV4 or letter == "6" and self.rule.nfproto != _core.IPV6:
                raise ParameterError(f"-{letter} is of the other family")
            return
        if letter == "f" and self.rule.nfproto == _core.IPV6:
            raise ParameterError("`-f' is not supported in IPv6, use -m frag instead")
        if letter in "io" and value == "":
            raise ParameterError("Empty interface is likely to be undesired")
        self._note(letter)
        getattr(self, f"_read_{letter}")(value)

    def _note(self, letter):
        """An option is given once, and negated only where that means something."""
        kind = "j" if letter == "g" else letter
        name = f"-{kind}" if self.old else _FULL_NAMES[letter]
        if kind in self.given:
            raise ParameterError(f"multiple {name} {'flags' if self.old else 'options'} not allowed")
        self.given.add(kind)
        if self.negated and kind not in _INVERTIBLE:
            raise ParameterError(f"cannot have ! before {name}")

    def _read_p(self, value):
        self.protocol = value.lower()
        number = _plugins.parse_protocol(self.protocol)
        if number == 0 and self.negated:
            raise ParameterError("rule would never match protocol")
        self.rule._set_proto(number, self.negated)
        if self.rule.nfproto == _core.IPV6:
            self.rule._set_protocol_given()

    def _read_s(self, value):
        self.networks[0] = value, self.negated

    def _read_d(self, value):
        self.networks[1] = value, self.negated

    def _read_i(self, value):
        self.rule.in_interface = self._interface(value)

    def _read_o(self, value):
        self.rule.out_interface = self._interface(value)

    def _interface(self, value):
        if len(_core.text_bytes(value, "an interface name")) > 15:
            limit = "IFNAMSIZ (15)" if self.old else "16 characters"
            raise ParameterError(f"interface name `{value}' must be shorter than {limit}")
        if value.startswith("!"):
            raise ParameterError(f"an interface name does not start with !: {value}")
        return f"!{value}" if self.negated else value

    def _read_f(self, value):
        self.rule._set_fragment(True, self.negated)

    def _read_c(self, value):
        packets, comma, size = value.partition(",")
        if not comma:
            if self.at == len(self.words) or self.words[self.at][:1] in ("-", "!"):
                name = "-c" if self.old else "--set-counters"
                raise ParameterError(f"{name} requires packet and byte counter")
            size = self._next("-c")
        counters = []
        for text, kind in ((packets, "packet"), (size, "byte")):
            digits = text.strip()
            end = 0
            while end < len(digits) and digits[end] in "0123456789":
                end += 1
            if not end:
                raise ParameterError(f"{'-c' if self.old else '--set-counters'} {kind} counter not numeric")
            counters.append(min(int(digits[:end]), 2**64 - 1))
        self.rule.counters = counters

    def _read_g(self, value):
        self._read_j(value, goto=True)

    def _read_j(self, value, goto=False):
        if not value:
            raise ParameterError("Invalid target name (too short)")
        if len(_core.text_bytes(value, "a target name")) > 28:
            raise ParameterError(f"Invalid target name `{value}' (28 chars max)")
        if any(character in " \t\n\v\f\r" for character in value):
            raise ParameterError(f"Invalid target name `{value}'")
        if goto and (value in _plugins.VERDICTS or _plugins.find_target(self.rule.nfproto, value) is not None):
            raise ParameterError(f"goto '{value}' is not a chain")
        if not goto and value not in _plugins.VERDICTS and _plugins.find_target(self.rule.nfproto, value) is not None:
            self.target = self.target_class.__new__(self.target_class)
            self.target._begin(self.rule, True, value, None)
            self.tables.insert(0, (None, self.target._options()))
        else:
            # a verdict or a chain, which there may be or not: the table knows
            self.target = self.target_class.__new__(self.target_class)
            self.target._become_verdict(self.rule, _core.standard_target(value), goto)

    def _add_match(self, name):
        match = _xtables.new_match(self.match_class, self.rule, name, None)
        known = name in self.latest
        self.latest[name] = match
        if not known:
            self.tables.insert(0, (name, match._options()))

    def _finish(self):
        for which, (text, negated) in self.networks.items():
            found = _plugins.parse_addresses(self.rule.nfproto, text)
            if len(found) > 1:
                if negated:
                    raise ParameterError("! not allowed with multiple source or destination IP addresses")
                raise ParameterError(f"{text} stands for {len(found)} addresses, which makes as many rules, not one")
            self.rule._set_network(which, *found[0], negated)
        if self.target is None:
            self.target = self.target_class.__new__(self.target_class)
            self.target._become_verdict(self.rule, _core.standard_target(""), False)
        self.rule.target = self.target
        self.rule.final_check()
