"""Measures the cost of a config on this machine: images per second, operations, device reads, memory; comparisons."""
