"""`python -m iptc` is the command `iptc`."""

import sys

if __name__ == "__main__":
    try:
        from .cli import run
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run())
