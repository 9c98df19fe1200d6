"""The command `mdistiller-dfpt trust`, from a checkout."""

from command import run

if __name__ == "__main__":  # and not in a process that it starts
    run("trust")
