"""iptables' language: the text of a rule specification becomes the bytes of a rule, and bytes become text. libxtables
does the work.
"""
