"""What `bpf.finder` gives to the rest of the package."""

class Finder:
    """Finds where the counters of one table are."""

    sequence: int
