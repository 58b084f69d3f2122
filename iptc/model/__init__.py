"""A table in memory, the commands of iptables, and the restoring of texts. All back ends use these modules."""
