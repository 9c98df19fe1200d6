"""Train a network, or distil one from a teacher: mdistiller-dfpt train --cfg FILE [KEY VALUE ...] [--resume [RUN]].

FILE is a path, or a name below configs/: cifar100/kd/res56_res20. --list prints all of them. On several GPUs:
torchrun --nproc_per_node N -m mdistiller_dfpt train --cfg FILE ...
"""

import argparse
import re
from pathlib import Path

from ..config.compose import CONFIGS, composed_runs
from ..errors import ConfigError
from ..interop.plugins import load_cfg
from ..launch.cli import Parser, guarded
from ..launch.run import Resume, config_of, run
from ..training.parallel import process_group, restarts

# A word after --resume that is a key is no run: `--resume SOLVER.EPOCHS 3`
KEY = re.compile(r"PLUGINS|[A-Z][A-Z0-9_]*(\.[A-Za-z0-9_]+)+")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser("train", __doc__)
    parser.add_argument("--cfg", help="yaml file of a run; default with --resume RUN: that of the run")
    parser.add_argument(
        "--resume", metavar="RUN", help="without a value: continue the unfinished run of this config. RUN: continue the"
        " run in this directory, also for more SOLVER.EPOCHS. auto: continue it if there is one, else start it",
    )  # fmt: skip
    parser.add_argument(
        "--list", metavar="PATTERN", help="print the names of all configs, or of those that contain or match PATTERN"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, for example SOLVER.EPOCHS 20")
    return parser.parse_intermixed_args(_with_values(argv))


def _with_values(argv: list[str]) -> list[str]:
    """Join `--resume VALUE` and `--list VALUE` by `=`; the value is empty if an option or a key follows."""
    words: list[str] = []
    awaits_value = False
    for word in argv:
        if awaits_value and not word.startswith("-") and not KEY.fullmatch(word):
            words[-1] += word
            awaits_value = False
            continue
        awaits_value = word in ("--resume", "--list")
        words.append(f"{word}=" if awaits_value else word)
    return words


def _resume(text: str | None) -> Resume:
    if text is None:
        return False
    if text == "":
        return True
    return "auto" if text == "auto" else Path(text)


def _main(argv: list[str]) -> None:
    args = _arguments(argv)
    if args.list is not None:
        found = composed_runs(CONFIGS, args.list or "*")
        if not found:
            raise ConfigError(f"--list {args.list}: no config matches")
        print("\n".join(found))
        return
    resume = _resume(args.resume)
    if restarts() and not isinstance(resume, Path):
        resume = "auto"  # what the processes before have saved
    if args.cfg is not None:
        cfg = load_cfg(args.cfg, args.opts)
    elif isinstance(resume, Path):
        cfg = config_of(resume, args.opts)
    else:
        raise ConfigError("nothing to train: give --cfg FILE, or --resume RUN; --list prints the configs")
    with process_group(cfg):
        run(cfg, resume)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
