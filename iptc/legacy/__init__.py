"""The legacy back end: tables of `ip_tables` and `ip6_tables`."""
