# cython: freethreading_compatible=False
"""The payload of one match or target: parameters become bytes, and bytes become parameters. Also puts a rule together
from its parts.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject_GenericSetAttr
from cpython.unicode cimport PyUnicode_FromObject
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .._linux cimport strnlen
from .._core cimport (
    NFPROTO_IPV4, PAYLOAD_HEADER, XT_EXTENSION_MAXNAMELEN, Base, Family, RuleValue, c_text, family_of, is_verdict,
    made_of, xt_entry_match,
)
from .plugins cimport (
    XTOPT_INVERT, Names, Option, ParseCall, Plugin, begin_names, end_names, find, find_for_payload,
    is_option, look_up, payload_room, read_saved, take_long_prefix, text_of, wants_check, xtables_match,
)
from .._core import VERDICTS as _VERDICTS, standard_target
from ..errors import ParameterError, ParameterTypeError, XTablesError

# ------------------------------------------------------------------- extensions

cdef str _VALUE = "a parameter value"
cdef Base _NO_BASE = Base.__new__(Base)     # the base part of an extension that belongs to no rule yet
_NO_BASE.family = family_of(NFPROTO_IPV4)


cdef class Extension:
    """The payload of one match or target. Options are set and read as text; the payload is bytes."""

    def __cinit__(self):
        self.base = _NO_BASE

    def __dealloc__(self):
        free(self.data)
        free(self.udata)

    cdef int _create(self, RuleValue rule, bint is_target, str name, revision) except -1:
        """Make a payload of extension *name* for *rule*, with no option set."""
        cdef int nfproto = rule.family.nfproto
        self._belong(rule)
        cdef Plugin plugin = find(is_target, nfproto, name, revision)
        if plugin is None:
            raise XTablesError(f"can't find {'target' if is_target else 'match'} {name}")
        self.is_target = is_target
        self.plugin = self.printer = plugin
        if plugin.real_name is not None:
            self.printer = find(is_target, nfproto, plugin.real_name, plugin.revision) or plugin
        return self._clear(nfproto)

    cdef int _read(self, RuleValue rule, bint is_target, bytes payload) except -1:
        """Take *payload*, which was read from the kernel, for *rule*."""
        cdef int nfproto = rule.family.nfproto
        self._belong(rule)
        cdef Plugin plugin
        cdef const xt_entry_match *raw = <const xt_entry_match *> PyBytes_AS_STRING(payload)
        if PyBytes_GET_SIZE(payload) < PAYLOAD_HEADER or raw.u.match_size != PyBytes_GET_SIZE(payload):
            raise ParameterError("not a payload: its size does not add up")
        self.is_target = is_target
        self.given = payload
        self.journal = None
        self.goto = is_target and rule._flags()[0] & rule.family.goto_flag != 0
        if is_target and is_verdict(raw):
            self.plugin = self.printer = None
            return 0
        self.plugin = self.printer = plugin = find_for_payload(is_target, nfproto, raw)
        if plugin is not None and plugin.c.alias != NULL:
            # an alias has its own options, such as `state` for conntrack and NOTRACK for CT
            alias = plugin.alias(raw)
            if alias != plugin.name:
                self.plugin = find(is_target, nfproto, alias, plugin.revision) or plugin
        return 0

    def _begin(self, RuleValue rule not None, bint is_target, str name not None, revision):
        """Call `_create`, for `__init__`."""
        self._create(rule, is_target, name, revision)

    def _take(self, RuleValue rule not None, bint is_target, bytes payload not None):
        """Call `_read`, for `__init__`."""
        self._read(rule, is_target, payload)

    cpdef int _become_verdict(self, RuleValue rule, bytes payload, bint goto) except -1:
        """Become a verdict or a jump. It belongs to *rule*, if that is given."""
        if rule is not None:
            self._belong(rule)
        self.is_target = True
        self.goto = goto
        self.plugin = self.printer = None
        self.given = payload
        self.journal = None
        return 0

    cdef int _clear(self, int nfproto) except -1:
        """Set the payload to the plugin's defaults."""
        cdef const xtables_match *c = self.plugin.c
        cdef size_t size = payload_room(&self.plugin.row)
        if self.data == NULL:
            self.data = <xt_entry_match *> malloc(size)
            if c.udata_size:
                self.udata = malloc(c.udata_size)
            if self.data == NULL or (c.udata_size and self.udata == NULL):
                raise MemoryError
        memset(self.data, 0, size)
        if self.udata != NULL:
            memset(self.udata, 0, c.udata_size)
        self.data.u.match_size = self.plugin.row.size
        cdef const char *name = c.real_name if c.real_name != NULL else c.name
        memcpy(self.data.u.user.name, name, strnlen(name, XT_EXTENSION_MAXNAMELEN - 1))
        self.data.u.user.revision = c.revision
        self.flags = 0
        self.journal = []
        self.given = None
        self.plugin.init(nfproto, self.data)
        return 0

    cdef const xt_entry_match *_raw(self) except NULL:
        if self.given is not None:
            return <const xt_entry_match *> PyBytes_AS_STRING(self.given)
        if self.data == NULL:
            raise ParameterError("this match or target was never made: it has no name")
        return self.data

    # the rule

    cdef int _belong(self, RuleValue rule) except -1:
        rule._own()
        self.base = rule._base
        self.owner = PyWeakref_NewRef(rule, None)
        return 0

    @property
    def rule(self):
        """The `Rule` that it belongs to, or None once the rule is deleted."""
        return None if self.owner is None else self.owner()

    @rule.setter
    def rule(self, RuleValue rule not None):
        if self.base is not _NO_BASE and rule.family.nfproto != self.base.family.nfproto:
            raise ParameterError(f"{self.name}: belongs to a rule of the other family")
        self._belong(rule)

    def _base_state(self):
        """Return (family, base part as bytes), for pickling it without its rule."""
        return (self.base.family.nfproto,
                PyBytes_FromStringAndSize(<char *> &self.base.raw, self.base.family.header))

    # identity

    @property
    def name(self):
        """The name of the extension. An alias has its own name."""
        if self.plugin is not None:
            return self.plugin.name
        cdef const xt_entry_match *raw = self._raw()
        cdef size_t length = 0
        while length < sizeof(raw.u.user.name) and raw.u.user.name[length]:
            length += 1
        return text_of(raw.u.user.name, length)

    @property
    def revision(self):
        """The revision of the extension: which layout the payload has."""
        return self._raw().u.user.revision

    @property
    def opaque(self):
        """Whether no installed plugin can read the payload. It is kept, and written back unchanged."""
        return self.plugin is None and not (self.is_target and is_verdict(self._raw()))

    @property
    def size(self):
        """The size of the whole payload in bytes, with `struct xt_entry_match` or `xt_entry_target`."""
        return self._raw().u.match_size

    @property
    def usersize(self):
        """The bytes of the payload that describe the rule. The bytes after them are for the kernel only."""
        if self.plugin is None:
            return self.size
        return PAYLOAD_HEADER + self.plugin.c.userspacesize

    # setting parameters

    cdef Option _option(self, str name, bint must):
        """Return the option *name*, in which dashes may be written as underscores."""
        cdef dict options = {} if self.plugin is None else self.plugin.options()
        found = options.get(name)
        if found is None:
            found = options.get(name.strip().replace("_", "-"))
        if found is None and must:
            self._miss_plugin()
            raise ParameterError(f"{self.name}: invalid parameter {name.replace('_', '-')}")
        return found

    cdef int _miss_plugin(self) except -1:
        """Raise `Unsupported` if the payload cannot be read because no plugins are installed at all."""
        cdef const xt_entry_match *raw
        if self.plugin is None:
            raw = self._raw()
            if not (self.is_target and is_verdict(raw)):
                find(self.is_target, self.base.family.nfproto, self.name, raw.u.user.revision)
        return 0

    def set_parameter(self, str parameter, value=None):
        """Set option *parameter* to *value*, in place of its old value and negation.

        *value* is a string, or a list of strings if the option takes several words, or "" for a flag. A leading `!`
        negates. Raises `ParameterError` with libxtables' message if it refuses the value. Then nothing is changed.
        """
        self._set(parameter, value)

    cdef int _set(self, str parameter, value) except -1:
        cdef bint negated = False, again = False
        cdef list words
        cdef bytes word
        cdef str name = parameter
        cdef Option item = None if self.plugin is None else self.plugin.options().get(parameter)
        if item is None:
            if "#" in name:
                # "reqid#2" is the second occurrence of an option that a rule may have several times
                name, _, number = name.partition("#")
                again = True
                if not number.isdecimal() or int(number) < 2:
                    raise ParameterError(f"{self.name}: invalid parameter {parameter}")
            item = self._option(name, True)
        if value is None:
            words = []
        elif isinstance(value, str):
            word = c_text(value, _VALUE)
            if PyBytes_AS_STRING(word)[0] == b"!":
                negated, word = self._strip_negation(item, word)
            words = [word]
        else:
            try:
                words = []
                for item_word in value:
                    words.append(c_text(item_word, _VALUE))
            except ParameterError:
                raise
            except TypeError as error:
                raise ParameterTypeError(
                    f"a parameter value must be a string or a list of strings, not {type(value).__name__}") from error
            # a "!" alone may be the value of an option that requires one
            if words and words[0] == b"!" and (len(words) > 1 or item.has_arg != 1):
                negated = True
                del words[0]
        if item.has_arg == 0:
            # a flag of the new parser has no value; an old parser may look at the next word
            words = list(filter(None, words)) if item.entry == NULL else []
        elif item.has_arg == 1 and not words:
            raise ParameterError(f"{self.name}: option \"--{item.name}\" requires an argument.")
        self._apply(item, negated, words, again)
        return 0

    def parse(self, str parameter, value):
        """Do the same as `set_parameter`."""
        self._set(parameter, value)

    cdef tuple _strip_negation(self, Option item, bytes word):
        """Return (word without a leading `!`, whether there was one). In text that cannot be negated, `!` is a
        character."""
        if not word.startswith(b"!"):
            return False, word
        if item.entry != NULL and item.has_arg and not item.entry.flags & XTOPT_INVERT:
            return False, word
        return True, word[1:].lstrip(b" ")

    cdef int _apply(self, Option item, bint negated, list words, bint again) except -1:
        """Let the plugin read one option, and record it."""
        cdef list journal = self._entries()
        cdef list kept = journal
        cdef tuple entry = (item, negated, words)
        if journal and not again:
            kept = []
            for earlier in journal:
                if not _displaces(item, earlier[0]):
                    kept.append(earlier)
        if self.journal is None or len(kept) != len(journal):
            self._replay(kept + [entry], len(kept))
            return 0
        try:
            self._parse(entry)
        except ParameterError:
            split = _split_value(words)
            if split is None and len(words) == 1 and item.has_arg and item.entry == NULL:
                # one value for an option with two words (--tcp-flags, --match-set) is used for both, as in
                # python-iptables
                split = words * 2
            if split is None:
                raise
            try:
                self._parse((item, negated, split))
            except ParameterError:
                split = None
            if split is None:
                self._parse(entry)          # raises with the plugin's message
            entry = (item, negated, split)
        self.journal.append(entry)
        return 0

    cdef int _replay(self, list entries, Py_ssize_t new) except -1:
        """Build the payload again from *entries*. If that fails, this extension stays as it was."""
        cdef Extension fresh = type(self).__new__(type(self))
        cdef Py_ssize_t i
        fresh.base = self.base
        fresh.owner = self.owner
        fresh.is_target = self.is_target
        fresh.plugin = self.plugin
        fresh.printer = self.printer
        fresh._clear(self.base.family.nfproto)
        for i, (item, negated, words) in enumerate(entries):
            if i == new:
                fresh._apply(item, negated, words, True)
            else:
                entry = (item, negated, words)
                fresh._parse(entry)
                fresh.journal.append(entry)
        self.data, fresh.data = fresh.data, self.data
        self.udata, fresh.udata = fresh.udata, self.udata
        self.flags = fresh.flags
        self.journal = fresh.journal
        self.given = None
        return 0

    cdef int _parse(self, tuple entry) except -1:
        """Let the plugin read one option into the payload. If that fails, the payload is restored.

        Raises if the plugin does not use all words.
        """
        cdef Option item = entry[0]
        cdef list words = entry[2]
        cdef const xtables_match *c = self.plugin.c
        cdef size_t size = payload_room(&self.plugin.row), room = 0, i
        cdef unsigned int flags = self.flags
        cdef ParseCall call
        cdef char **argv
        cdef char *text
        cdef char *backup
        cdef bytes word
        cdef Names looked
        cdef int count = len(words), used
        for word in words:
            room += PyBytes_GET_SIZE(word) + 1
        # one allocation for argv, the words, which plugins may write into, and a copy of the payload
        argv = <char **> malloc((count + 3) * sizeof(char *) + room + size + c.udata_size)
        if argv == NULL:
            raise MemoryError
        backup = <char *> (argv + count + 3)
        memcpy(backup, self.data, size)
        if self.udata != NULL:
            memcpy(backup + size, self.udata, c.udata_size)
        begin_names(&looked)
        try:
            while True:
                text = backup + size + c.udata_size
                argv[0] = b"iptables"
                argv[1] = item.label
                for i, word in enumerate(words):
                    argv[i + 2] = text
                    memcpy(text, PyBytes_AS_STRING(word), PyBytes_GET_SIZE(word) + 1)
                    text += PyBytes_GET_SIZE(word) + 1
                argv[count + 2] = NULL
                flags = self.flags
                call.argv = argv
                call.val = item.val
                call.negated = entry[1]
                call.flags = &flags
                call.data = self.data
                memset(&call.guided, 0, sizeof(call.guided))
                call.guided.arg = argv[2] if words else NULL
                call.guided.ext_name = c.name
                call.guided.entry = item.entry
                call.guided.data = self.data.data
                call.guided.xflags = flags
                call.guided.invert = entry[1]
                call.guided.match = &call.data
                call.guided.xt_entry = <char *> &self.base.raw
                call.guided.udata = self.udata
                used = self.plugin.parse(self.base.family.nfproto, item, count, &call, &looked)
                if not looked.wanted:
                    break
                self._put_back(backup, size)
                look_up(&looked)
            if c.x6_parse != NULL:
                flags = call.guided.xflags
                if count > 1:
                    raise ParameterError(f"{self.name}: option \"--{item.name}\" takes one value, not {count}")
            elif item.has_arg and used < count:
                raise ParameterError(f"{self.name}: too many values for option \"--{item.name}\"")
            elif used > count:
                raise ParameterError(f"{self.name}: option \"--{item.name}\" requires more values")
            self.flags = flags
            take_long_prefix(&self.plugin.row, self.data, <const char *> self.udata)
        except BaseException:
            self._put_back(backup, size)
            raise
        finally:
            end_names(&looked)
            free(argv)
        return 0

    cdef int _put_back(self, const char *backup, size_t size) except -1:
        """Restore the payload, unless another thread has replaced it meanwhile."""
        if self.data != NULL and self.plugin is not None and payload_room(&self.plugin.row) == size:
            memcpy(self.data, backup, size)
            if self.udata != NULL:
                memcpy(self.udata, backup + size, self.plugin.c.udata_size)
        return 0

    # reading parameters

    cdef bytes _saved(self):
        """Return the text that the plugin prints for this payload, or b""."""
        if self.printer is None:
            return b""
        return self.printer.save(self.base.family.nfproto, &self.base.raw, self._raw())

    cdef list _entries(self):
        """Return the options that are set: those recorded, or those that the plugin prints for a payload that was
        read."""
        if self.journal is not None:
            return self.journal
        return [] if self.plugin is None else read_saved(self.plugin.options(), self._saved())

    def get_all_parameters(self):
        """Return {name: [words]}. The first word is `!` if the option is negated. A second occurrence has the key
        `name#2`."""
        cdef dict found = {}
        cdef Option item
        if self.plugin is None:
            self._miss_plugin()
            return found
        for item, negated, words in read_saved(self.plugin.options(), self._saved()):
            key = item.name
            number = 1
            while key in found:
                number += 1
                key = f"{item.name}#{number}"
            texts = ["!"] if negated else []
            for word in words:
                texts.append(text_of(word, len(word)))
            found[key] = texts
        return found

    @property
    def parameters(self):
        """{name with underscores: value} of the options that are set.

        The value is a string, with a space between words and a leading `!` if negated. It is a list of words where that
        string would be read differently.
        """
        return {name.replace("-", "_"): self._joined(name, words)
                for name, words in self.get_all_parameters().items()}

    def save(self, name=None):
        """Return the value of parameter *name*, or None. Without a name, return `parameters`."""
        if not name:
            return self.parameters
        name = name.replace("_", "-")
        words = self.get_all_parameters().get(name)
        return None if words is None else self._joined(name, words)

    cdef object _joined(self, str name, list words):
        """Return *words* as one string: ["!", "1", "2"] is "!1 2". If it would be read differently, return the list."""
        cdef bint negated = bool(words) and words[0] == "!"
        cdef list values = words[1:] if negated else words
        if self._looks_negated(name, words):
            return words
        if len(values) > 1 and any(not value or " " in value for value in values):
            return words
        return ("!" if negated else "") + " ".join(values)

    cpdef bint _looks_negated(self, str name, list words) except -1:
        """Whether *words* of parameter *name* are not negated, but would be read as negated if they were set as
        text."""
        cdef Option item
        if not words or not words[0].startswith("!"):
            return False
        item = self._option(name.partition("#")[0], False)
        if words[0] == "!" and (len(words) > 1 or item is None or item.has_arg != 1):
            return False                # they are negated
        return item is None or self._strip_negation(item, b"!")[0]

    def reset(self):
        """Set all options back to their defaults."""
        if self.plugin is not None:
            free(self.data)
            free(self.udata)
            self.data = NULL
            self.udata = NULL
            self._clear(self.base.family.nfproto)

    cpdef bytes _bytes(self):
        """Return the payload as it is now, without the plugin's check."""
        if self.given is not None:
            return self.given
        return PyBytes_FromStringAndSize(<const char *> self._raw(), self._raw().u.match_size)

    def _state(self):
        """Return a description from which `_restore` can make this extension again."""
        cdef Option item
        cdef list entries = []
        if self.journal is None:
            return self.is_target, self.goto, self.given, None, None, None
        for item, negated, words in self.journal:
            entries.append((item.name, negated, tuple(words)))
        return self.is_target, self.goto, None, self.plugin.name, self.plugin.revision, entries

    def _restore(self, RuleValue rule not None, state):
        """Become the extension that *state*, a result of `_state`, describes, and belong to *rule*."""
        is_target, goto, given, name, revision, entries = state
        if given is not None:
            self._read(rule, is_target, given)
            self.goto = goto
            return
        self._create(rule, is_target, name, revision)
        for option_name, negated, words in entries:
            entry = (self._option(option_name, True), negated, list(words))
            self._parse(entry)
            self.journal.append(entry)

    def final_check(self):
        """Raise `ParameterError`, with iptables' message, if a required option is missing."""
        self._packed()

    cpdef bytes _packed_or_bytes(self):
        """Return the payload as it would be written, or if it is not complete, as it is."""
        try:
            return self._packed()
        except ParameterError:
            return self._bytes()

    cpdef bytes _packed(self):
        """Return the payload as it is written: checked and completed by the plugin."""
        cdef bytes payload, scratch
        cdef Names looked
        if self.given is not None:
            return self.given
        payload = PyBytes_FromStringAndSize(<const char *> self._raw(), self._raw().u.match_size)
        cdef const xtables_match *c = self.plugin.c
        if not wants_check(&self.plugin.row, self.flags):
            return payload
        begin_names(&looked)
        try:
            while True:
                # the check may complete the payload, and must not run twice on the same bytes: so it works on a copy
                scratch = PyBytes_FromStringAndSize(<char *> self.udata, c.udata_size) if self.udata != NULL else b""
                self.plugin.check(self.base.family.nfproto, <xt_entry_match *> PyBytes_AS_STRING(payload),
                                  PyBytes_AS_STRING(scratch), self.flags, &looked)
                if not looked.wanted:
                    return payload
                look_up(&looked)
                payload = PyBytes_FromStringAndSize(<const char *> self._raw(), self._raw().u.match_size)
        finally:
            end_names(&looked)

    # options as attributes

    def __getattr__(self, str name):
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = self.save(name)
        if value is None and name not in _known_options:
            _check_option(self, name)
        return value

    def __setattr__(self, str name, value):
        if name[:1] == "_" or name in _PLAIN_ATTRIBUTES:
            PyObject_GenericSetAttr(self, name, value)
        elif value is None:
            raise ParameterTypeError(f"{self.name}: parameter {name} must be a string or a list of strings, not None")
        else:
            self._set(name, value)


cdef set _known_options = set()     # names that were read as attributes, and that some extension has


cdef int _check_option(Extension extension, str asked) except -1:
    """Warn if *asked*, an attribute that was read and is not set, is no option of any extension.

    Programs read options that only some matches have from every match, such as its comment. That is no mistake.
    """
    cdef str name = asked.partition("#")[0].replace("_", "-")
    cdef dict options = {} if extension.plugin is None else extension.plugin.options()
    if name not in options:
        from ..misnomers import is_well_known, warn_of_option
        # all plugins are loaded only for a name that no common extension has
        if not is_well_known(name) and not is_option(name):
            warn_of_option(extension.name, name, list(options))
            return 0
    if "#" not in asked:        # names with a number are endless
        _known_options.add(asked)
    return 0


cdef frozenset _PLAIN_ATTRIBUTES = frozenset(("rule", "standard_target"))


cdef bint _displaces(Option new, Option old):
    """Whether setting *new* unsets *old*: it is the same option, or they exclude each other."""
    if new.name == old.name:
        return True
    if new.entry == NULL or old.entry == NULL:
        return new.entry == old.entry and new.val == old.val     # two names of the same option
    return new.entry.id == old.entry.id or new.entry.excl & (1 << old.entry.id) != 0


cdef list _split_value(list words):
    """Return the words of a value that was given as one string, or None if it is one word."""
    if len(words) != 1:
        return None
    split = (<bytes> words[0]).split()
    return split if len(split) > 1 else None


# -------------------------------------------------- the extensions of a rule

# The payloads of the targets that are neither extensions nor chains, by their names.
VERDICT_PAYLOADS = {name: standard_target(name) for name in _VERDICTS}
cdef dict _verdict_payloads = VERDICT_PAYLOADS
cdef type _match_class = Extension
cdef type _target_class = Extension


cpdef str checked_name(name):
    """Return *name* of a match or target, or raise `ParameterTypeError`."""
    if type(name) is str:
        return name
    if not isinstance(name, str):
        raise ParameterTypeError(f"the name of a match or target must be a string, not {type(name).__name__}")
    return PyUnicode_FromObject(name)    # of a subclass of str only the characters are taken


def use_classes(type match not None, type target not None):
    """From now on make matches of class *match* and targets of class *target*, which are built on `Extension`."""
    global _match_class, _target_class
    _match_class = match
    _target_class = target


def create_match(RuleValue self not None, name, revision=None):
    """Add a match of the extension *name* (`-m name`) behind the others, and return it."""
    cdef Extension match = <Extension?> made_of(_match_class)
    if self._matches is None:
        _read_payloads(self)
    match._create(self, False, checked_name(name), revision)
    self._matches.append(match)
    return match


def create_target(RuleValue self not None, name, revision=None, goto=False):
    """Set the target to *name*, with *goto* as by `-g` and otherwise as by `-j`, and return it."""
    cdef Extension target
    payload = _verdict_payloads.get(name) if type(name) is str and not goto else None
    if payload is not None:
        target = <Extension?> made_of(_target_class)
        target._become_verdict(self, <bytes> payload, False)
    else:
        target = _target_class(self, name, None, revision, goto)
    if self._matches is None:
        _read_payloads(self)
    self._target = target
    return target


def read_payloads(RuleValue self not None):
    """Make the `Match` and `Target` objects of the bytes that were read. Return the matches."""
    return _read_payloads(self)


cdef list _read_payloads(RuleValue rule):
    cdef list payloads, matches = []
    cdef Extension made
    cdef bytes target
    if rule.entry is None:       # made by `__new__` without `__init__`, or read already
        if rule._matches is None:
            rule._matches = matches
        return rule._matches
    payloads = rule._body_payloads()
    target = payloads.pop()
    for payload in payloads:
        made = <Extension?> made_of(_match_class)
        made._read(rule, False, payload)
        matches.append(made)
    made = <Extension?> made_of(_target_class)
    made._read(rule, True, target)
    rule._target = made
    rule._matches = matches
    rule.entry = None
    return matches


cdef bytes _as_it_was_read(RuleValue rule):
    """Return the whole entry of a rule whose matches and target were not asked for."""
    cdef Family *family = rule.family
    cdef const char *seen = rule._seen()
    cdef bytes entry = rule.entry
    cdef char *raw
    # nfcache and comefrom are for the kernel only
    if (rule._base is None and (<const uint32_t *> (seen + family.offsets))[-1] == 0
            and (<const uint32_t *> (seen + family.offsets))[1] == 0):
        return entry
    entry = PyBytes_FromStringAndSize(PyBytes_AS_STRING(entry), PyBytes_GET_SIZE(entry))
    raw = PyBytes_AS_STRING(entry)
    memcpy(raw, seen, family.header)
    memset(raw + family.offsets - 4, 0, 4)
    memset(raw + family.offsets + 4, 0, 4)
    return entry


cdef inline const xt_entry_match *_ready(Extension part) noexcept:
    """Return the payload if it is written as it is: the plugin has nothing to check or to complete. Otherwise NULL."""
    if part.given is not None:
        return <const xt_entry_match *> PyBytes_AS_STRING(part.given)
    if part.data == NULL or part.plugin is None or wants_check(&part.plugin.row, part.flags):
        return NULL
    return part.data


cdef bytes _joined_parts(RuleValue rule):
    """Return the whole entry of *rule*, copied from its parts, or None if the plugin of one must look first."""
    cdef Py_ssize_t size = rule.family.header
    cdef list matches = rule._matches
    cdef Extension target = rule._target
    cdef Extension part
    cdef const xt_entry_match *payload
    cdef const xt_entry_match *last = _ready(target)
    cdef char *raw
    for part in matches:
        payload = _ready(part)
        if payload == NULL:
            return None
        size += payload.u.match_size
    if last == NULL:
        return None
    cdef bytes entry = rule._begin_entry(size + last.u.match_size, size)
    raw = PyBytes_AS_STRING(entry) + rule.family.header
    for part in matches:
        payload = _ready(part)
        memcpy(raw, payload, payload.u.match_size)
        raw += payload.u.match_size
    memcpy(raw, last, last.u.match_size)
    return entry


def pack(RuleValue rule not None, bint checked):
    """Return the whole entry of *rule* as bytes, or None if it has no target.

    *checked*: let the plugins check and complete the payloads. Otherwise incomplete ones are written as they are.
    """
    return packed(rule, checked)


cdef bytes packed(RuleValue rule, bint checked):
    """Return what `pack` returns."""
    cdef list payloads
    cdef bytes entry
    cdef Extension part
    if checked and rule._networks is not None:
        raise ParameterError("this rule has several addresses and stands for as many rules: expand() it")
    if rule._matches is None:
        if rule.entry is not None:
            return _as_it_was_read(rule)
        rule._matches = []       # made by `__new__` without `__init__`
    if rule._target is None:
        return None
    rule._set_goto((<Extension> rule._target).goto)
    entry = _joined_parts(rule)
    if entry is not None:
        return entry
    payloads = []
    for part in rule._matches:
        payloads.append(part._packed() if checked else part._packed_or_bytes())
    part = rule._target
    payloads.append(part._packed() if checked else part._packed_or_bytes())
    return rule._assemble(payloads)
