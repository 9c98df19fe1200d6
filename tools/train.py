"""Train a network, or distil one from a teacher: python tools/train.py --cfg FILE [KEY VALUE ...] [--resume].

On several GPUs: torchrun --nproc_per_node N tools/train.py --cfg FILE ...
Several runs on one pass of their teacher: tools/train.py --cfg FILE [--cfg FILE ...] [--seeds 1,2,3] DATASET.SEED 1
"""

import argparse
import sys

from mdistiller_dfpt.cli import guarded
from mdistiller_dfpt.config import load_cfg
from mdistiller_dfpt.engine.build import run, run_together
from mdistiller_dfpt.engine.processes import joined


def _main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__)
    parser.add_argument("--cfg", required=True, action="append", help="yaml file of a run; repeat it for several")
    parser.add_argument("--seeds", type=seeds, default=[], metavar="1,2,3", help="a run for each of these SOLVER.SEED")
    parser.add_argument("--resume", action="store_true", help="continue the newest run of this config")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, as SOLVER.EPOCHS 20")
    args = parser.parse_intermixed_args(argv)
    more = [["SOLVER.SEED", str(seed)] for seed in args.seeds] or [[]]
    cfgs = [load_cfg(path, [*args.opts, *words]) for path in args.cfg for words in more]
    with joined(cfgs[0]):
        if len(cfgs) == 1:
            run(cfgs[0], resume=args.resume)
        else:
            run_together(cfgs, resume=args.resume)


def seeds(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main(argv: list[str] | None = None) -> int:
    return guarded(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
