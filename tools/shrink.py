"""The command `mdistiller-dfpt shrink`, from a checkout."""

from command import run

if __name__ == "__main__":  # and not in a process that it starts
    run("shrink")
