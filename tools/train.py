"""Train a network, or distil one from a teacher: python tools/train.py --cfg FILE [KEY VALUE ...] [--resume].

On several GPUs: torchrun --nproc_per_node N tools/train.py --cfg FILE ...
"""

import argparse
import sys

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.launch.cli import guarded
from mdistiller_dfpt.launch.run import run
from mdistiller_dfpt.training.parallel import process_group


def _main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__)
    parser.add_argument("--cfg", required=True, help="yaml file of a run")
    parser.add_argument("--resume", action="store_true", help="continue the newest run of this config")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, for example SOLVER.EPOCHS 20")
    args = parser.parse_intermixed_args(argv)
    cfg = load_cfg(args.cfg, args.opts)
    with process_group(cfg):
        run(cfg, resume=args.resume)


def main(argv: list[str] | None = None) -> int:
    return guarded(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
