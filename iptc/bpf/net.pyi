"""What `bpf.net` gives to the rest of the package."""

from .window import Window

class Net:
    """A network namespace in the kernel's memory."""

    address: int
    def __init__(self, window: Window, descriptor: int) -> None: ...
