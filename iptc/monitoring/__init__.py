"""Counters for programs that monitor a host: selected, named and formatted; and an endpoint for Prometheus."""
