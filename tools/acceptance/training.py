"""A run of the plan's config, with its teacher, continued by each call until it is finished."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mdistiller_dfpt.errors import reason
from mdistiller_dfpt.interop.plugins import load_cfg
from mdistiller_dfpt.launch.run import run
from mdistiller_dfpt.regular_files import read_json
from mdistiller_dfpt.runs.checkpoint import CHECKPOINTS, newest_manifest
from mdistiller_dfpt.runs.directory import RESULTS, STATUS
from mdistiller_dfpt.runs.results import best_epoch, evaluation_of
from mdistiller_dfpt.training.signals import Stopped

from .plan import Plan
from .record import Skipped, Unfinished


def pieces(plan: Plan, folder: Path, data: Path | None, opts: Sequence[str]) -> dict[str, Callable[[], dict[str, Any]]]:
    """{config: its run}; `data` is DATASET.ROOT."""
    return {plan.train_cfg: partial(_train, plan, folder / "runs", data, opts)}


def _train(plan: Plan, folder: Path, data: Path | None, opts: Sequence[str]) -> dict[str, Any]:
    if data is None and plan.needs_data:
        raise Skipped("no data were given: add `--data FOLDER`, which has CIFAR-100 (DATASET.ROOT)")
    words = ["EXPERIMENT.DEVICE", plan.device, "LOG.PREFIX", str(folder), "DISTILLER.TEACHER_AUTO_TRAIN", "True"]
    words += [] if data is None else ["DATASET.ROOT", str(data)]
    try:
        run(load_cfg(plan.train_cfg, [*words, *opts]), "auto")
    except Stopped as e:
        raise Unfinished(reason(e), {"runs": runs_in(folder)}) from None
    return {"runs": runs_in(folder)}


def runs_in(folder: Path) -> dict[str, dict[str, Any]]:
    """{run: its state, its epochs, and of these the rate of the last and the best accuracy of the student}."""
    found = {}
    for path in sorted(folder.rglob(STATUS)):
        results = path.parent / RESULTS
        record = read_json(results) if results.is_file() else newest_manifest(path.parent / CHECKPOINTS)
        epochs = record.get("epochs", [])
        one = {"state": read_json(path)["state"], "epochs": len(epochs)}
        if epochs:
            one["images_per_second"] = epochs[-1]["images_per_second"]
        if (best := best_epoch(epochs)) is not None:
            one["best_top1"] = evaluation_of(best)["student"]["top1"]
        found[path.parent.relative_to(folder).as_posix()] = one
    return found
