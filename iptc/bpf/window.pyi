"""What `bpf.window` gives to the rest of the package."""

ARRAY: int
PERCPU_ARRAY: int

class Window:
    """Looks into the kernel's memory."""

    cpus: int
    def __init__(self, *args: object, **kwargs: object) -> None: ...
