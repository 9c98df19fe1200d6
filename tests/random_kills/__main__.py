"""python -m tests.random_kills --minutes N [--seed S], or --seed S --cases 1 to repeat the case of a seed."""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

import torch

from .cases import draw
from .lane import Lane
from .processes import adopt


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.random_kills", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long cases are begun; default: 2")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="the most cases; default: no limit")
    parser.add_argument("--seed", type=int, help="of the first case; the next has the next seed; default: drawn")
    parser.add_argument("--keep", type=Path, help="a new folder for all files; default: a temporary one")
    args = parser.parse_args()
    first = secrets.randbelow(10**6) if args.seed is None else args.seed
    print(f"random kills: --seed {first}, {args.minutes:g} minutes", flush=True)
    adopt()
    torch.set_num_threads(1)
    deadline = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as temporary:
        lane = Lane(args.keep or Path(temporary))
        for seed in range(first, first + args.cases):
            if time.monotonic() > deadline:
                break
            case, wrong = lane.run(draw(seed))
            if wrong:
                print(f"seed {seed}: {case}", *wrong, sep="\n  ")
                print(f"repeat it: python -m tests.random_kills --seed {seed} --cases 1", flush=True)
        print(lane.report)
    return 1 if lane.report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
