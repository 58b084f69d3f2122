"""Counters read from the kernel's own memory, by programs that the kernel checks and runs (eBPF)."""
