"""Warnings of runs that learn or predict little: near chance, a single class, unsettled statistics, a long warm-up."""

import sys

from yacs.config import CfgNode as CN

from ..data.loader import Loader
from ..distillers.choice import choice
from ..distributed import rank
from ..models.statistics import UNSETTLED, slowest_momentum
from ..runs.results import evaluation_of
from .state import Training

REMEASURE = "SOLVER.REMEASURE_BN"
WARMUPS = ("WARMUP", "WARMUP_EPOCHS")
"""The keys of methods, and of SOLVER, for the epochs over which a weight, or the learning rate, rises."""


def _warn(line: str) -> None:
    if rank() == 0:
        print(f"warning: {line}", file=sys.stderr, flush=True)


def warn_unsettled(run: Training) -> None:
    """Before the first step: whether running statistics will still be, in part, those that the student starts with."""
    key, name = run.cfg.SOLVER.REMEASURE_BN, run.cfg.DISTILLER.STUDENT
    steps = run.last_epoch * len(run.data.train) * run.accumulate
    momentum = slowest_momentum(run.distiller.deployed)
    if momentum is None:
        if key != "never":
            print(f"{REMEASURE} {key} has no effect here: {name} has no running statistics", flush=True)
    elif key == "never" and (left := (1 - momentum) ** steps) > UNSETTLED:
        _warn(f"BatchNorm of {name} has momentum {momentum:g}: after the {steps} steps of this run, {100 * left:.0f} %"
              f" of its statistics are those it starts with; `{REMEASURE} last` measures them again")  # fmt: skip


def warn_of_warmup(cfg: CN) -> None:
    """Before the first step: whether the loss or the learning rate would still rise when the run ends."""
    epochs = cfg.SOLVER.EPOCHS
    for section in sorted({"SOLVER", *choice(cfg).sections} & cfg.keys()):
        for key in WARMUPS:
            warmup = cfg[section].get(key, 0)
            if isinstance(warmup, int | float) and warmup > epochs:
                _warn(f"{section}.{key} is {warmup:g} epochs, and the run has {epochs}: what rises over them ends at"
                      f" {100 * epochs / warmup:.0f} % of its value; lower it")  # fmt: skip


def warn_of_chance(measured: dict[str, float], num_classes: int) -> None:
    """If a teacher predicts a single class, or hardly more than chance."""
    chance = 100 / num_classes
    if measured["predicted_classes"] == 1:
        _warn("the teacher predicts the same class for all test images")
    elif measured["top1"] < min(2 * chance, chance + (100 - chance) / 10):
        _warn(f"the teacher is near chance ({chance:.1f} %)")


def warn_of_one_class(run: Training) -> None:
    """If a student predicts one class for all images, or for most of them and for twice as many as any class has."""
    measured, data = evaluation_of(run.epochs[-1])["student"], run.data
    share = measured.get("most_predicted", 0.0)
    unsettled = run.cfg.SOLVER.REMEASURE_BN == "never" and slowest_momentum(run.distiller.deployed) is not None
    advice = f"; if it learned more than this shows, try `{REMEASURE} last`" if unsettled else ""
    if measured["predicted_classes"] == 1:
        _warn(f"the student predicts the same class for all {data.judged_on} images{advice}")
    elif share > 50 and share >= 2 * _largest_class(data.judges):
        _warn(f"the student predicts one class for {share:.0f} % of the {data.judged_on} images{advice}")


def _largest_class(loader: Loader) -> float:
    """The share of the images that the most frequent class has, in per cent."""
    return 100 * (loader.labels.bincount().max() / len(loader.labels)).item()
