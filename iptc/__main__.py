"""`python -m iptc` is the command `iptc`."""

import sys

if __name__ == "__main__":
    try:
        from .cli import main

        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
