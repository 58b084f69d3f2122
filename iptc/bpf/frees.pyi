"""What `bpf.frees` gives to the rest of the package."""

class Frees:
    """A log of the addresses of freed per-CPU memory."""
