"""Counters for those who watch a host: which ones, under which names, in which formats; an endpoint for Prometheus."""
