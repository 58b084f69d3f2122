"""The release of python-iptables whose documented API this package has."""

__pkgname__ = "python-iptables"
__version__ = "1.2.0"
