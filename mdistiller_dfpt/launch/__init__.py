"""What a command does: plan a run, find or train its teacher, train tables of runs."""
