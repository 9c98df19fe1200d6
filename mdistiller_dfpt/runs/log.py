"""The output of a run: a progress bar or plain lines, TensorBoard, a table at the end."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm
from yacs.config import CfgNode as CN

from ..config import flatten
from ..data import Batch
from ..distributed import rank
from .results import evaluation_of
from .wandb_log import WandbLog


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s`, `12 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


class Readable(Protocol):
    """Averages that can be read while they are accumulated."""

    def read(self) -> dict[str, float]:
        """The current values, by name."""


class ProgressBar:
    """The progress bar of an epoch on a terminal; elsewhere nothing, since each epoch prints a line."""

    SECONDS_BETWEEN_READS = 0.5

    def __init__(self, label: str, steps: int, meters: Readable):
        self.label, self.steps, self.meters = label, steps, meters

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the bar advances as they are consumed; meters are read at most twice a second."""
        if rank() > 0 or not sys.stderr.isatty():
            yield from batches
            return
        next_read = time.monotonic() + self.SECONDS_BETWEEN_READS
        with tqdm(total=self.steps, desc=self.label, unit="step", leave=False, dynamic_ncols=True) as bar:
            for batch in batches:
                yield batch
                bar.update(1)
                if time.monotonic() >= next_read:
                    next_read = time.monotonic() + self.SECONDS_BETWEEN_READS
                    values = self.meters.read()
                    shown: dict[str, object] = {k: f"{values[k]:.3g}" for k in ("loss", "top1", "top5") if k in values}
                    rate = (bar.format_dict["rate"] or 0) * len(batch.target)
                    bar.set_postfix({**shown, "img/s": f"{rate:.0f}"})


EVENTS = "events.out.tfevents."  # and a second, and more


def _end_before(folder: Path, now: int) -> None:
    """Rename the files of events whose seconds are this one or still to come, as after a clock was set back.

    TensorBoard reads files in the order of their names, which order them by their second alone.
    """
    renamed, second = [], now
    for path in sorted(folder.glob(f"{EVENTS}[0-9]*.*"), reverse=True):
        written, _, more = path.name.removeprefix(EVENTS).partition(".")
        if not written.isdecimal() or int(written) < second:
            break
        second -= 1
        renamed.append((path, path.with_name(f"{EVENTS}{second:010d}.{more}")))
    for path, earlier in reversed(renamed):  # the first one first: the order holds wherever this ends
        path.rename(earlier)


class EventLog:
    """TensorBoard events of a run; steps after `purge_step` are dropped, so a resumed run has no duplicates."""

    def __init__(self, folder: Path, enabled: bool, purge_step: int):
        self.writer, self.hook = None, threading.excepthook
        if enabled:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = self._heard
            with self._never_fatal():
                _end_before(folder, int(time.time()))
                self.writer = SummaryWriter(str(folder), purge_step=purge_step)

    def scalars(self, record: dict[str, Any], step: int) -> None:
        """Write the numbers of a record and flush."""
        if self.writer is None:
            return
        with self._never_fatal():
            for key, value in _numbers(record):
                self.writer.add_scalar(key, value, step)
            self.writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self.writer is not None:
            with self._never_fatal():
                self.writer.close()
        threading.excepthook = self.hook

    def _heard(self, error: Any) -> None:
        """TensorBoard's thread keeps its error, which the next write raises again: it is said once, in one line."""
        if not type(error.thread).__module__.startswith("tensorboard."):
            self.hook(error)

    @contextlib.contextmanager
    def _never_fatal(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            print(f"warning: TensorBoard's events cannot be written ({e.strerror}); the run continues without them",
                  file=sys.stderr)  # fmt: skip
            self.writer = None


class RunLogs:
    """TensorBoard and Weights & Biases logging of a run, if enabled."""

    def __init__(self, cfg: CN, folder: Path, name: str, purge_step: int):
        first_process = rank() == 0
        self.events = EventLog(folder / "events", cfg.LOG.TENSORBOARD and first_process, purge_step)
        self.wandb = WandbLog(cfg.LOG.WANDB and first_process, cfg.EXPERIMENT.PROJECT, name, folder, flatten(cfg))

    def scalars(self, record: dict[str, Any], epoch: int) -> None:
        """Write the numbers of an epoch's record."""
        self.events.scalars(record, epoch)
        self.wandb.scalars(record, epoch)

    def close(self) -> None:
        """Close both."""
        self.events.close()
        self.wandb.close()


def _numbers(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a nested record, with names joined by slashes."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "epoch":
            yield prefix + key.replace("||", "_"), value


def epoch_line(record: dict[str, Any], epochs: int, best: float | None, left: float) -> str:
    """The line printed for an epoch."""
    parts = [f"epoch {record['epoch']}/{epochs}", f"lr {record['lr']:.4g}", f"loss {record['train']['loss']:.3f}"]
    parts.append(f"train {record['train']['top1']:.2f}")
    if evaluation := evaluation_of(record):
        judged_on = "validation" if "validation" in record else "test"
        paths = {name: values["top1"] for name, values in evaluation.items() if name != "kl"}
        if len(paths) == 1:  # of a student, or of a teacher that is trained itself
            paths = dict.fromkeys([judged_on], *paths.values())
        parts += [f"{name} {top1:.2f}" for name, top1 in paths.items()]
        parts.append(f"(best {best:.2f}{' on the validation set' if judged_on == 'validation' else ''})")
    return "  ".join([*parts, f"{record['images_per_second']:.0f} img/s", f"{duration(left)} left"])


def summary_table(results: dict[str, Any]) -> str:
    """The table printed at the end of a run."""
    rows = [("test accuracy", "last", "best", "mean of last 5")]
    # With a validation set, the test set is evaluated at the end alone
    few = "-" if "validation" in results["final"] else "(needs 5)"
    for metric, name in (("top1", "top-1 %"), ("top5", "top-5 %")):
        v = results["final"][metric]
        mean = few if v["mean_last_5"] is None else f"{v['mean_last_5']:.2f}"
        rows.append((name, f"{v['last']:.2f}", f"{v['best']:.2f} (epoch {v['best_epoch']})", mean))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    teacher = results["protocol"]["teacher"]
    if validation := results["final"].get("validation"):
        images = results["protocol"]["validation_images"]
        lines.append(f"best: of the validation set ({images} images), with {validation['top1']['best']:.2f} % there")
    lines.insert(1, "-" * max(map(len, lines)))
    if teacher:
        lines.append(f"teacher {teacher['name']}: top-1 {teacher['top1']:.2f} %")
    return "\n".join(lines)
