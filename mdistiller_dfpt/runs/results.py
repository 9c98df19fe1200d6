"""results.json: the results of a run and its protocol."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from ..checksum import read_checked_json
from ..config.effect import deciding_values
from ..data import Data
from ..distillers.choice import situation
from .weights import weights_folder

REMEASURED = {
    "last": "statistics measured again over the training images, as for testing, before the last evaluation",
    "each": "statistics measured again over the training images, as for testing, before each evaluation",
}

FORMAT = 2  # 2: with the identity of the run; in format 1 it is unknown


def protocol(
    cfg: CN, data: Data, teacher: Mapping[str, Any] | None, optimizer: str, environment: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """The settings of a run in words, what was measured, and the environment in which it ended.

    `settings` has every key that decides the result and differs from its default.
    """
    s = cfg.SOLVER
    return {
        "data": cfg.DATASET.TYPE,
        **({"folder": data.folder} if data.folder else {}),
        "train_images": data.train.num_per_epoch,
        "test_images": data.test.num_per_epoch,
        **({} if data.validation is None else {"validation_images": data.validation.num_samples}),
        "classes": data.num_classes,
        "augmentation": data.train.augmentation,
        **({} if data.extra is None else {"unlabelled_images": data.extra.images}),
        "epochs": s.EPOCHS,
        "batch": s.BATCH_SIZE,
        "optimizer": optimizer,
        "lr": s.LR,
        "schedule": f"x{s.LR_DECAY_RATE} after {s.LR_DECAY_STAGES}" if s.SCHEDULE == "step" else s.SCHEDULE,
        "warmup_epochs": s.WARMUP_EPOCHS,
        **({} if s.REMEASURE_BN == "never" else {"batch_norm": REMEASURED[s.REMEASURE_BN]}),
        "precision": s.AMP + (f", student {s.AMP_STUDENT}" if s.AMP_STUDENT else ""),
        "teacher": teacher,
        "settings": deciding_values(situation(cfg, in_files=data.in_files)),
        "seed": s.SEED,
        **environment,
    }


def commit(root: Path | None = None, package: str = "mdistiller_dfpt") -> str:
    """The package's git commit, followed by `+` if files differ from it; empty if the package is not a checkout.

    `root`, `package`: of another one. A package installed inside another repository has no commit.
    """
    root = Path(__file__).resolve().parents[2] if root is None else root

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return ""
        git("ls-files", "--error-unmatch", f"{package}/__init__.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", package) else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def recorded_normalisation(weights: Path) -> str | None:
    """The normalisation of the student of the run that `weights` is, or is the file of; None if nothing is recorded."""
    try:
        found = read_checked_json(weights_folder(weights) / "results.json")["protocol"]["normalisation"]
        return str(found.get("student", found["images"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def evaluation_of(epoch: dict[str, Any]) -> dict[str, Any]:
    """The evaluation in the record of an epoch: on the validation set if there is one; empty if there was none."""
    return epoch.get("validation") or epoch.get("test") or {}


def best_epoch(epochs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The record with the student's highest top-1, the earliest if tied; None if none was evaluated."""
    tested = [e for e in epochs if evaluation_of(e)]
    return max(tested, key=lambda e: evaluation_of(e)["student"]["top1"]) if tested else None


def summarise(epochs: list[dict[str, Any]]) -> dict[str, Any]:
    """Last, best and mean of the last five evaluations of the student, None if there are fewer, each for its metric."""
    tested = [e for e in epochs if evaluation_of(e)]
    summary: dict[str, Any] = {}
    for metric in ("top1", "top5"):
        values = [evaluation_of(e)["student"][metric] for e in tested]
        best = max(range(len(values)), key=lambda i: values[i])  # the earliest if tied
        summary[metric] = {
            "last": values[-1],
            "best": values[best],
            "best_epoch": tested[best]["epoch"],
            "mean_last_5": sum(values[-5:]) / 5 if len(values) >= 5 else None,
        }
    return summary
