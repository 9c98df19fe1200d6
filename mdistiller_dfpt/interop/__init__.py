"""Compatibility with mdistiller in both directions, and user code named in a config."""
