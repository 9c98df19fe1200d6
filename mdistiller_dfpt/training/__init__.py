"""The training loop and its parts: one update, optimisers, precision, evaluation, signals."""
