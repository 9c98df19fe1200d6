"""What a config costs on this machine: images a second, work, waits, memory; side by side with others."""
