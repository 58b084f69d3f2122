"""The command `iptc`: one module for each of its commands, and a few that the commands share."""

from .dispatch import main

__all__ = ["main"]
