"""Search for hyperparameters at equal budgets: mdistiller-dfpt search --cfg FILE [FILE ...] --space FILE --trials N.

Each config gets the same number of trials, so that every method is tuned as hard. Trials are judged by top-1 in the
last epoch on the validation images (DATASET.VALIDATION), never by the test set. The same command goes on with a search
that was interrupted, or with more trials. FILE is a path, or a name below configs/, as for `train`; KEY VALUE overrides
are passed on to every run. The space is a yaml file of keys, each {float: [LOW, HIGH]}, {int: [LOW, HIGH]}, either with
log: true, or {choice: [VALUE, ...]}. A key that has no effect in one of several configs is not searched there.
"""

import argparse
from pathlib import Path

from ..errors import ConfigError, DivergedError
from ..launch.cli import Parser, guarded
from ..launch.jobs import Interrupted, say
from ..launch.launchers import Local, add_launcher, local_launcher
from ..runs.directory import make_folder
from ..runs.locks import RunLock
from ..search.plan import Budget, Plan, plan_search
from ..search.storage import PRUNERS, check_installed, open_journal
from ..search.summary import draw, table_of_search, write_record
from ..search.tune import next_config, open_studies, spent, tune
from ..search.tuned import write_tuned
from .train import KEY


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser("search", __doc__)
    parser.add_argument("--cfg", nargs="+", required=True, metavar="FILE", help="the configs to tune")
    parser.add_argument("--space", type=Path, required=True, metavar="FILE", help="yaml file of the values to try")
    parser.add_argument("--trials", type=int, metavar="N", help="trials of each config")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="no trial of a config begins after so many of trials"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="a trial is the mean over them, default 1")
    parser.add_argument(
        "--pruner", choices=PRUNERS, default="median", help="median: a trial ends early that is below the median of"
        " those before it, from half of the epochs on; halving: successive halving; none. Default median",
    )  # fmt: skip
    add_launcher(parser, ("local", "torchrun"), "trial")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: LOG.PREFIX/search/<name of the space>")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides for every run")
    pairs, rest = _pairs_apart(argv)
    args = parser.parse_intermixed_args(rest)
    args.opts = [*args.opts, *pairs]
    return args


def _pairs_apart(argv: list[str]) -> tuple[list[str], list[str]]:
    """KEY VALUE pairs, and the other words: `--seeds 1 2 SOLVER.EPOCHS 3` has two seeds."""
    pairs, rest, words = [], [], iter(argv)
    for word in words:
        if KEY.fullmatch(word):
            pairs += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            rest.append(word)
    return pairs, rest


def _budget(trials: int | None, minutes: float | None) -> Budget:
    if trials is None and minutes is None:
        raise ConfigError("no budget: give --trials N, or --minutes M, for each config")
    for option, value in (("--trials", trials), ("--minutes", minutes)):
        if value is not None and not value > 0:
            raise ConfigError(f"{option} is {value}; it must be > 0")
    return Budget(trials, minutes)


def _main(argv: list[str]) -> None:
    args = _arguments(argv)
    budget = _budget(args.trials, args.minutes)
    launcher = local_launcher(args)
    check_installed()
    plan = plan_search(args.cfg, args.space, budget, args.seeds, args.pruner, args.out, args.opts, say)
    if launcher.parallel > (configs := len(plan.configs)):
        say(f"room for {launcher.parallel} trials at a time; a config has one at a time, so it is {configs}")
    make_folder(plan.folder, empty=False)
    lock = RunLock(plan.folder)
    try:
        _search(plan, launcher)
    except KeyboardInterrupt:  # between two runs
        raise Interrupted(2) from None
    finally:
        lock.release()


def _search(plan: Plan, launcher: Local) -> None:
    storage = open_journal(plan.folder)
    studies = open_studies(plan, storage)
    if any(spent(study)[0] for study in studies.values()) and next_config(plan, studies) is not None:
        print(f"going on with the search in {plan.folder}\n\n{table_of_search(plan, studies)}\n", flush=True)
    tune(plan, storage, studies, say, lambda: write_record(plan, studies), launcher)
    write_record(plan, studies)
    print(table_of_search(plan, studies))
    command = write_tuned(plan, studies)
    pictures = draw(plan, studies)
    print(f"\nsearch {plan.folder}; pictures: {', '.join(map(str, pictures)) or 'too few trials'}")
    if not command:
        raise DivergedError("no trial is complete: narrow the space, or give --pruner none")
    print(f"train the best of each on all training images, and evaluate them on the test set, once:\n{command}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
