"""Calls all methods of all classes on objects that are not ready: made by `__new__` alone, half initialised, closed or
copied. Also calls all functions of the compiled modules with arguments that they do not expect.

`tests/test_half_made.py` runs this in a process of its own. Each call must raise or return. A signal, a SystemError, or
a descriptor of another object that was closed is an error.
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
# such a call would stop or end this process: iptc top stops itself for Ctrl-Z
os.kill = lambda number, name: None
PACKAGE = pathlib.Path(iptc.__file__).parent
SUFFIXES = {".pyx": "compiled", ".py": "plain"}
LONG_ENOUGH = 0.1
"""Seconds after which a call that waits is interrupted. If it is interrupted earlier, its exception is fine too."""

VALUES = [b"x", "filter", 0, 1, -1, None, [], (b"", b""), 1 << 70, [None], [1]]
"""The values for arguments of unknown types."""
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
"""Methods that belong to no class of ours, or that the interpreter calls itself."""


def classes(kind):
    """Yield each class of all compiled or of all plain modules once."""
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
    """Yield the functions of all compiled modules."""
    for path in sorted(PACKAGE.rglob("*.pyx")):
        name = ".".join(["iptc", *path.relative_to(PACKAGE).with_suffix("").parts])
        for attribute, value in sorted(vars(importlib.import_module(name)).items()):
            if callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == name:
                yield f"{name}.{attribute}", value


def argument_lists(function):
    """Return lists of arguments for *function*: as many as it needs, one list for each kind of value."""
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
    """A call waits for something that will not happen: a change of rules, or the next sample."""


def interrupt(number, frame):
    raise Waits


def attempt(action, *arguments):
    """Do *action*. It may raise anything except SystemError. If it waits, it is interrupted as by a signal handler."""
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
    """Use all attributes and methods of the objects that make() returns: with a new object for each, and with one for
    all."""
    one = make()
    for attribute in sorted(set(dir(type(one))) - NEVER):
        for thing in (make(), one):
            # printed before the call, so that a crash shows where it was
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
    """Return an object of *cls* after an `__init__` that may have raised."""
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
    """Return what this process has open, by number."""
    return {
        number: os.readlink(f"/proc/self/fd/{number}")
        for number in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{number}")
    }


def call_functions():
    """Call the functions of all compiled modules with arguments that they do not expect."""
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
            continue  # it cannot be made in this way, or its arguments cannot be invented
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
