"""The directory of a run: it belongs to a single run, is found again by `--resume`, and is locked during training."""

import fcntl
import os
import re
import tempfile
from pathlib import Path

from yacs.config import CfgNode as CN

from ..distillers.choice import choice
from ..errors import CheckpointError, ConfigError
from .checkpoint import WEIGHTS, checkpoints

CONFIG, RESULTS, STATUS = "config.yaml", "results.json", "status.json"
CHECKPOINTS = "checkpoints"


def run_name(cfg: CN) -> str:
    """Name of a run's directory relative to LOG.PREFIX, without the number that distinguishes repetitions."""
    e, d = cfg.EXPERIMENT, cfg.DISTILLER
    name = e.NAME or f"{cfg.DATASET.TYPE}/{choice(cfg).label.lower()}/{d.TEACHER}_{d.STUDENT}"
    return "/".join([name, *([e.TAG] if e.TAG not in ("", "default") else []), f"seed{cfg.SOLVER.SEED}"])


def existing_runs(cfg: CN) -> list[Path]:
    """All directories with this run's name, the first run first: seed1, seed1-2, seed1-3."""
    base = Path(cfg.LOG.PREFIX) / run_name(cfg)
    pattern = re.compile(re.escape(base.name) + r"(?:-(\d+))?")
    found = []
    if base.parent.is_dir():
        for path in base.parent.iterdir():
            match = pattern.fullmatch(path.name)
            if match and path.is_dir():
                found.append((int(match[1] or 1), path))
    return [path for _, path in sorted(found)]


def find_finished_weights(cfg: CN) -> Path | None:
    """The student weights of the newest finished run of this config, or None."""
    finished = [p / WEIGHTS for p in existing_runs(cfg) if (p / WEIGHTS).is_file() and (p / RESULTS).is_file()]
    return finished[-1] if finished else None


def is_resumable(cfg: CN) -> bool:
    """Whether the newest run of this config has a checkpoint."""
    runs = existing_runs(cfg)
    return bool(runs) and bool(checkpoints(runs[-1] / CHECKPOINTS))


def open_run(cfg: CN, resume: bool) -> Path:
    """Create the directory of a new run, or with `resume` return the newest existing one; no other run is touched."""
    runs = existing_runs(cfg)
    if resume:
        if not runs:
            raise CheckpointError(f"nothing to resume in {Path(cfg.LOG.PREFIX) / run_name(cfg)}: run without --resume")
        return runs[-1]
    base = Path(cfg.LOG.PREFIX) / run_name(cfg)
    # The existing numbers may have gaps: seed1, seed1-3
    last = re.search(r"-(\d+)$", runs[-1].name) if len(runs) > 1 else None
    number = int(last[1]) + 1 if last else len(runs) + 1
    while True:
        path = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not path.is_dir():
                raise ConfigError(f"LOG.PREFIX: {path} is a file; a run needs a directory there") from None
            number += 1
        except OSError as e:
            raise ConfigError(f"LOG.PREFIX is {cfg.LOG.PREFIX}; cannot write there ({e.strerror})") from None


def check_writable(cfg: CN) -> None:
    """ConfigError if no run directory can be created; checked before data or networks are loaded."""
    path = Path(cfg.LOG.PREFIX).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=path):
            pass
    except OSError as e:
        raise ConfigError(f"LOG.PREFIX is {cfg.LOG.PREFIX}; cannot write in {path} ({e.strerror})") from None


class RunLock:
    """An flock on the run directory; the kernel releases it when the process ends."""

    def __init__(self, run: Path):
        self.path = run / "run.lock"
        try:
            self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115  stays open while the lock is held
        except OSError as e:
            raise ConfigError(f"{run}: cannot write there ({e.strerror})") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            owner = self._file.read().strip()
            self._file.close()
            raise ConfigError(f"{run}: another process is training here ({owner or 'unknown pid'})") from None
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()}")
        self._file.flush()

    def release(self) -> None:
        """Release the lock, so that another process can train here."""
        self._file.close()
