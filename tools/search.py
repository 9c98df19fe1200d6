"""The command `mdistiller-dfpt search`, from a checkout."""

from command import run

run("search")
