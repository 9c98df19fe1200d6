"""The loop and what it stands on: one update, optimisers, precision, evaluation, signals."""
