"""A table in memory: its chains and rules, and what edits of it mean. Both back ends use it."""
