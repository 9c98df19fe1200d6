"""The command `mdistiller-dfpt report`, from a checkout."""

from command import run

run("report")
