"""The command `mdistiller-dfpt doctor`, from a checkout."""

from command import run

run("doctor")
