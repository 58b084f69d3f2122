"""iptables' language: text and words of rule specifications into the bytes of a rule, and back, with libxtables."""
