"""Waits for what other processes do: with no time that a busy machine could exceed, but for one that ends a hang."""

import os
import time
from pathlib import Path

LIMIT = 240  # seconds; under pytest's own


def wait_until(is_so, what=""):
    """Return once the condition holds."""
    deadline = time.monotonic() + LIMIT
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def has_ended(pid):
    """Whether a process has ended, also where nobody asks for its exit code, as for an orphan in a container."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True
