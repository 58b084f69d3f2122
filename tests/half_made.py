"""Every class of the package, made by `__new__` alone, half initialised, closed and copied: each of its methods is
called. So is each function of the compiled modules, with arguments that it does not expect.

`tests/test_half_made.py` runs this in a process of its own. What is expected is an exception or a result; a signal, a
SystemError, or a descriptor of somebody else that is gone is a finding.
"""

import copy
import gc
import importlib
import inspect
import itertools
import os
import pathlib
import pickle
import signal
import sys
import warnings

import iptc

warnings.simplefilter("ignore")
# what would stop this process, as iptc top does at Ctrl-Z, or end it
os.kill = lambda number, name: None
PACKAGE = pathlib.Path(iptc.__file__).parent
SUFFIXES = {".pyx": "compiled", ".py": "plain"}
LONG_ENOUGH = 0.1
"""Seconds after which a call is interrupted; that may be before it waits, since any exception is an answer."""

VALUES = [b"x", "filter", 0, 1, -1, None, [], (b"", b""), 1 << 70, [None], [1]]
"""What is given for an argument that no signature tells more of."""
NEVER = {
    "__new__",
    "__class__",
    "__init_subclass__",
    "__subclasshook__",
    "__getattribute__",
    "__dir__",
    "__sizeof__",
    "__del__",
}
"""Of no class of ours, or called by the interpreter itself."""


def classes(kind):
    """The classes of all compiled or all plain modules, each once."""
    found = {}
    for path in sorted(PACKAGE.rglob("*")):
        if SUFFIXES.get(path.suffix) != kind or path.name == "__main__.py":
            continue
        name = ".".join(["iptc", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        module = importlib.import_module(name)
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__ == name:
                found[f"{name}.{value.__qualname__}"] = value
    return found


def functions():
    """The functions of all compiled modules."""
    for path in sorted(PACKAGE.rglob("*.pyx")):
        name = ".".join(["iptc", *path.relative_to(PACKAGE).with_suffix("").parts])
        for attribute, value in sorted(vars(importlib.import_module(name)).items()):
            if callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == name:
                yield f"{name}.{attribute}", value


def argument_lists(function):
    """Some lists of arguments for *function*: as many as it needs, and one for each kind of value."""
    try:
        parameters = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return [[], *([value] for value in VALUES), [0, 0], ["x", b"x"]]
    needed = sum(p.default is p.empty for p in parameters)
    if not needed:
        return [[], *([value] for value in VALUES if parameters)]
    if needed == 1:
        return [[value] for value in VALUES]
    mixed = itertools.islice(itertools.product(*[VALUES[i % 3 :: 2] for i in range(needed)]), 24)
    return [[value] * needed for value in VALUES] + [list(values) for values in mixed]


class Waits(Exception):
    """A call waits for what will not come: a change of rules, the next sample."""


def interrupt(number, frame):
    raise Waits


def attempt(action, *arguments):
    """Do *action*; any exception but SystemError is an answer. What waits is interrupted, as by the handler of a
    signal."""
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, LONG_ENOUGH, LONG_ENOUGH)
            result = action(*arguments)
            if inspect.isgenerator(result):
                next(result, None)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except SystemError as error:
        print("SystemError:", error)
    except (Exception, SystemExit):
        signal.setitimer(signal.ITIMER_REAL, 0)


def use(make, name):
    """Call all that objects have which *make* makes: a new one for each attribute, and one for all of them."""
    one = make()
    for attribute in sorted(set(dir(type(one))) - NEVER):
        for thing in (make(), one):
            # said before, so that a crash tells where it was
            print("at", name, attribute, flush=True)
            attempt(getattr, thing, attribute)
            function = getattr(type(thing), attribute, None)
            for arguments in argument_lists(function) if callable(function) else ():
                attempt(getattr(type(thing), attribute), thing, *arguments)
            if not callable(function) and not attribute.startswith("__"):
                for value in VALUES:
                    attempt(setattr, thing, attribute, value)
                attempt(delattr, thing, attribute)
    for action in (
        copy.copy,
        copy.deepcopy,
        lambda it: pickle.loads(pickle.dumps(it)),
        repr,
        str,
        hash,
        len,
        list,
        bool,
        memoryview,
        bytes,
        vars,
        lambda it: it == it,
        lambda it: it != 1,
        lambda it: it < it,
        lambda it: it[0],
        lambda it: it["x"],
        lambda it: 1 in it,
    ):
        print("at", name, "copies and operators", flush=True)
        for thing in (make(), one):
            attempt(action, thing)


def half_initialised(cls):
    """An object of *cls* whose `__init__` raised, or did not."""
    thing = cls.__new__(cls)
    for arguments in ([], ["nosuch"], [2, "nosuch"], [b"x", b"y", b"z"], [object()] * 4):
        try:
            thing.__init__(*arguments)
        except (Exception, SystemExit):
            continue
        break
    return thing


def closed(cls):
    thing = half_initialised(cls)
    for arguments in ([2, "filter"], ["filter"], [cls]):
        attempt(thing.__init__, *arguments)
    attempt(cls.close, thing)
    return thing


def descriptors():
    """What this process has open, by number."""
    return {
        number: os.readlink(f"/proc/self/fd/{number}")
        for number in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{number}")
    }


def call_functions():
    """Call the functions of all compiled modules with what they do not expect."""
    count = 0
    for name, function in functions():
        print("at", name, flush=True)
        for arguments in argument_lists(function):
            attempt(function, *arguments)
        count += 1
    print("all", count)


def main(kind):
    signal.signal(signal.SIGALRM, interrupt)
    for backend in ("legacy", "nft"):
        iptc.restore("*filter\n:x - [0:0]\n-A INPUT -j x\nCOMMIT\n", backend=backend)
    if kind == "functions":
        call_functions()
        return
    for _ in range(3):
        os.open("/dev/null", os.O_RDWR)
    found = classes(kind)
    for name, cls in found.items():
        try:
            cls.__new__(cls)
        except TypeError:
            continue  # it cannot be made so, or it needs arguments that nobody has
        gc.collect()
        before = descriptors()
        use(lambda: cls.__new__(cls), f"{name} new")
        use(lambda: half_initialised(cls), f"{name} half")
        if hasattr(cls, "close"):
            use(lambda: closed(cls), f"{name} closed")
        after = descriptors()
        gone = [f"{number} ({there})" for number, there in before.items() if after.get(number) != there]
        if gone:
            print(f"{name} closed descriptors that are not its own: {gone}")
    print("all", len(found))


if __name__ == "__main__":
    main(sys.argv[1])
