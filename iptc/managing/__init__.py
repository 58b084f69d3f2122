"""A ruleset as a value: what two differ in, the way from one to the other, and that way gone, with a way back."""
