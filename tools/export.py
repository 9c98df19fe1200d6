"""The command `mdistiller-dfpt export`, from a checkout."""

from command import run

run("export")
