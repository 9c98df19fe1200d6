"""results.json: the results of a run and its protocol."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from ..data import Data
from ..distributed import world_size

FORMAT = 1


def protocol(
    cfg: CN, data: Data, teacher: dict[str, Any] | None, device: torch.device, optimizer: str
) -> dict[str, Any]:  # fmt: skip
    """All settings that must match before two runs' accuracies can be compared, and the environment of this run."""
    s = cfg.SOLVER
    return {
        "data": cfg.DATASET.TYPE,
        "train_images": data.num_train,
        "test_images": data.test.num_samples,
        "classes": data.num_classes,
        "augmentation": data.train.augmentation,
        "epochs": s.EPOCHS,
        "batch": s.BATCH_SIZE,
        "optimizer": optimizer,
        "lr": s.LR,
        "schedule": f"x{s.LR_DECAY_RATE} after {s.LR_DECAY_STAGES}" if s.SCHEDULE == "step" else s.SCHEDULE,
        "warmup_epochs": s.WARMUP_EPOCHS,
        "precision": s.AMP + (f", student {s.AMP_STUDENT}" if s.AMP_STUDENT else ""),
        "teacher": teacher,
        **({"teacher_kind": kind} if (kind := cfg.DISTILLER.TEACHER_KIND) != "frozen" else {}),
        **({"paths": dict(cfg.DISTILLER.PATHS)} if cfg.DISTILLER.PATHS else {}),
        **({"teacher_logits": "cached in float16"} if cfg.DISTILLER.LOGITS_CACHE else {}),
        "seed": s.SEED,
        **({"data_seed": cfg.DATASET.SEED} if cfg.DATASET.SEED else {}),
        "world_size": world_size(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "commit": commit(),
    }


def commit(root: Path | None = None) -> str:
    """The package's git commit, followed by `+` if files differ from it; empty if the package is not a checkout.

    A package installed inside another repository has no commit.
    """
    root = Path(__file__).resolve().parents[2] if root is None else root

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return ""
        git("ls-files", "--error-unmatch", "mdistiller_dfpt/__init__.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "mdistiller_dfpt") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def best_epoch(epochs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The record with the student's highest top-1, the earliest if tied; None if none was evaluated."""
    tested = [e for e in epochs if "test" in e]
    return max(tested, key=lambda e: e["test"]["student"]["top1"]) if tested else None


def summarise(epochs: list[dict[str, Any]]) -> dict[str, Any]:
    """Last, best and mean of the last five evaluations of the student, each for its own metric."""
    tested = [e for e in epochs if "test" in e]
    summary: dict[str, Any] = {}
    for metric in ("top1", "top5"):
        values = [e["test"]["student"][metric] for e in tested]
        best = max(range(len(values)), key=lambda i: values[i])  # the earliest if tied
        last_five = values[-5:]
        summary[metric] = {
            "last": values[-1],
            "best": values[best],
            "best_epoch": tested[best]["epoch"],
            "mean_last_5": sum(last_five) / len(last_five),
            "averaged": len(last_five),
        }
    return summary
