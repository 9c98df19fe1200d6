"""How many files this process may have open: as many as it is allowed, and a line before any work where that is few."""

import resource

from .errors import ConfigError

MOST = 1 << 16  # more are not needed, and some programs look at each number
FOR_A_COMMAND = 48  # measured: 34 are enough for a training with two workers
FOR_A_WORKER = 8  # of the training images and of the test images


def allow_open_files(workers: int = 0) -> None:
    """Raise the limit as far as this process may; ConfigError if it is too low for so many worker processes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MOST:
        soft = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    needed = FOR_A_COMMAND + FOR_A_WORKER * workers
    if soft != resource.RLIM_INFINITY and soft < needed:
        lower = ", or lower DATASET.NUM_WORKERS" if workers else ""
        raise ConfigError(f"this process may open {soft} files and needs {needed}: raise `ulimit -n`{lower}")
