"""What the commands do: plan a run, find or train its teacher, train tables of runs."""
