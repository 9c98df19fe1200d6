"""What a command does: plan a run, find or train what teaches it, train tables of runs."""
