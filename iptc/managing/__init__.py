"""A ruleset as a value: how two rulesets differ, how to get from one to the other, and how to take that back."""
