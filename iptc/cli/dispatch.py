"""Runs one command: finds its module, has its arguments parsed, and makes exit statuses of errors."""

import argparse
import os
import sys
from importlib import import_module

from ..errors import IPTCError, LockTimeout, ParameterError

# A command is a module of this folder with this name. Its `add(commands)` describes the arguments, and names the function
# that runs it, which returns the exit status.
COMMANDS = (
    "save",
    "restore",
    "check",
    "list",
    "counters",
)

# as iptables': 1 an error, 2 bad usage or a bad line, 4 the lock was not obtained
_ERROR, _BAD_LINE, _NO_LOCK = 1, 2, 4


def main(arguments=None):
    """Run the command with *arguments* (`sys.argv`) and return its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser(words).parse_args(words)
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


def _parser(words):
    """The parser of the command that *words* begin with; of all commands where they begin with none."""
    parser = argparse.ArgumentParser(prog="iptc", description="The Linux firewall, read and written through the kernel.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        import_module(f".{name}", __package__).add(commands)
    return parser


def _failed(error, code):
    print(f"iptc: {error}", file=sys.stderr)
    return code
