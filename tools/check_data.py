"""The command `mdistiller-dfpt check-data`, from a checkout."""

from command import run

run("check-data")
