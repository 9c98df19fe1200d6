"""A run of two processes on one device, by torchrun and gloo, against the same run of one."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mdistiller_dfpt.regular_files import read_json
from mdistiller_dfpt.report import load_results

from .record import last_error

TRAIN = str(Path(__file__).parents[1] / "train.py")
TEACHER, STUDENT = "digits/vanilla/res20", "digits/kd/res20_res8"
EPOCHS = 1
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
# Of two processes, BatchNorm is to see both shards; in float32, so that the losses differ by rounding alone
SAME = ("SOLVER.SYNC_BN", "True", "SOLVER.AMP", "none", "SOLVER.CHANNELS_LAST", "False")
CLOSE = 0.02  # the relative difference of the losses that rounding may make in an epoch


def pieces(device: str, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """{name: its run}: a teacher, one process, two processes, and the comparison of the latter."""
    folder = folder / "processes"
    words = ("EXPERIMENT.DEVICE", device, "EXPERIMENT.THREADS", "1", "EXPERIMENT.TIMEOUT", "60", "SOLVER.EPOCHS",
             str(EPOCHS), "LOG.TENSORBOARD", "False")  # fmt: skip
    taught = ("--cfg", STUDENT, *words, *SAME, "DISTILLER.TEACHER_CKPT", str(folder / "teacher" / TEACHER / "seed1"))
    return {
        "a teacher": partial(_run, folder / "teacher", (), ("--cfg", TEACHER, *words)),
        "one process": partial(_run, folder / "one", (), taught),
        "two processes": partial(_run, folder / "two", TORCHRUN, taught),
        "the same losses": partial(compared, folder / "one", folder / "two"),
    }


def _run(folder: Path, launcher: tuple[str, ...], words: tuple[str, ...]) -> dict[str, Any]:
    command = [sys.executable, *launcher, TRAIN, *words, "--resume", "auto", "LOG.PREFIX", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(last_error(done.stderr) or f"it ended with {done.returncode}")
    (result,) = load_results(folder)
    epochs = result.data["epochs"]
    return {
        "processes": result.data["protocol"]["world_size"],
        "losses": [epoch["train"]["loss"] for epoch in epochs],
        "images_per_second": epochs[-1]["images_per_second"],
        "top1": result.data["final"]["top1"]["last"],
    }


def compared(one: Path, two: Path) -> dict[str, Any]:
    """The largest relative difference of the losses of two runs; RuntimeError if rounding does not make it."""
    losses = [
        [epoch["train"]["loss"] for epoch in read_json(path)["epochs"]]
        for folder in (one, two)
        for path in folder.rglob("results.json")
    ]
    if len(losses) != 2:
        raise RuntimeError(f"{len(losses)} of the two runs have ended")
    difference = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
    if not difference <= CLOSE:
        raise RuntimeError(f"the losses of two processes differ from those of one by {difference:.2%}")
    return {"largest_difference": difference}
