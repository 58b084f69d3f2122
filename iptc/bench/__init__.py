"""A ruleset in a private network namespace, where the kernel judges packets that are made up."""
