"""What a run leaves on disk: directory, checkpoints, results, logs."""
