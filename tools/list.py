"""The command `mdistiller-dfpt list`, from a checkout."""

from command import run

run("list")
