"""Traces packets: collects the kernel's reports of both back ends, and names the rules that each packet has matched."""
