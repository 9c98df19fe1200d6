"""The command `mdistiller-dfpt predict`, from a checkout."""

from command import run

run("predict")
