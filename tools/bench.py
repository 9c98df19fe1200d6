"""The command `mdistiller-dfpt bench`, from a checkout."""

from command import run

run("bench")
