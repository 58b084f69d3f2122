"""The nf_tables back end: tables as iptables-nft keeps them."""
