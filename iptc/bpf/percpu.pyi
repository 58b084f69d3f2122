"""What `bpf.percpu` gives to the rest of the package."""
