"""The command `mdistiller-dfpt train`, from a checkout."""

from command import run

run("train")
