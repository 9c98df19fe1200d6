"""Random kills and signals over all methods and kinds of teacher: `python -m tests.random_kills --minutes 2`."""
