"""Which rules take a packet: the kernel's reports of it, on both back ends, put together."""
