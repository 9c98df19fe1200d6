"""The files of a run: directory, checkpoints, results, logs."""
