"""Finds what prevents firewall rules from working on this host. Each module looks for one kind of finding."""
