"""The command `iptc`: one module for each of its commands, and what the commands share."""

from .dispatch import main

__all__ = ["main"]
