"""The command `mdistiller-dfpt plot`, from a checkout."""

from command import run

run("plot")
