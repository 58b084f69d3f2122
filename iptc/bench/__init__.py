"""A ruleset in a private network namespace: the kernel applies it to packets that this process builds."""
