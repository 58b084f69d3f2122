"""Reads counters from the kernel's memory with eBPF: by small programs that the kernel checks and then runs."""
