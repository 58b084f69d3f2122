"""What `bpf.frees` gives to the rest of the package."""

ARRAY: int

class Frees:
    """A log of the addresses of freed per-CPU memory."""
