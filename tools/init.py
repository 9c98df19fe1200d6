"""The command `mdistiller-dfpt init`, from a checkout."""

from command import run

run("init")
