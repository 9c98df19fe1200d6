"""The command `mdistiller-dfpt eval`, from a checkout."""

from command import run

run("eval")
