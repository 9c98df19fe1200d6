"""The command `mdistiller-dfpt table`, from a checkout."""

from command import run

run("table")
