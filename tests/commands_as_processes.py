"""Commands that start processes of their own, killed: none of these may stay."""

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .waits import has_ended, wait_until

KILLS = 5


def processes(folder: Path) -> list[str]:
    """The command lines of the running processes whose working directory this is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder and not has_ended(int(process.name)):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def kill_at_random(start: Callable[[], "subprocess.Popen[str]"], folder: Path, seed: int) -> None:
    """Start a command in this working directory and kill it, several times, and wait until its processes are gone."""
    drawn = random.Random(seed)
    for _ in range(KILLS):
        command = start()
        time.sleep(drawn.uniform(2, 20))
        command.kill()
        command.communicate()
        wait_until(lambda: not processes(folder), "a process is left")
