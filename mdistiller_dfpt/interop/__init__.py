"""mdistiller both ways, and user code that a config names."""
