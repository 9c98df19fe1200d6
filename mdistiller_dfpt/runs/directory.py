"""The directory of a run: found again by what the run computes, locked during training."""

import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from ..atomic import write_text
from ..checksum import read_checked_json
from ..config.limits import as_directory
from ..config.load import load_yaml_text
from ..distillers.choice import choice
from ..errors import CheckpointError, ConfigError
from ..regular_files import is_folder, read_text
from .checkpoint import BRING_BACK, CHECKPOINTS, WEIGHTS, checkpoints, newest_manifest
from .hashing import state_hash
from .identity import Identity, differences, fingerprint, read_identity
from .weights import load_weights

CONFIG, RESULTS, STATUS = "config.yaml", "results.json", "status.json"
MOST_SAID = 3  # runs of one name


def run_name(cfg: CN) -> str:
    """Name of a run's directory relative to LOG.PREFIX, without the number that distinguishes repetitions."""
    e, d, chosen = cfg.EXPERIMENT, cfg.DISTILLER, choice(cfg)
    teacher = chosen.kind if chosen.is_taught and not chosen.teacher else d.TEACHER
    name = as_directory(e.NAME) or f"{cfg.DATASET.TYPE}/{chosen.label.lower()}/{teacher}_{d.STUDENT}".replace(
        "../", "_/"
    )
    return "/".join([name, *([as_directory(e.TAG)] if e.TAG not in ("", "default") else []), f"seed{cfg.SOLVER.SEED}"])


def existing_runs(cfg: CN) -> list[Path]:
    """All directories with this run's name, the first run first: seed1, seed1-2, seed1-3.

    ConfigError if something else has such a name, as a link to a run on a disk that is not mounted.
    """
    base = Path(cfg.LOG.PREFIX) / run_name(cfg)
    try:
        entries = list(base.parent.iterdir()) if is_folder(base.parent) else []
        found = [path for path in entries if _number(base.name, path) and is_folder(path)]
    except NotADirectoryError as e:
        raise ConfigError(f"LOG.PREFIX: {e.filename}: {e.strerror}: {BRING_BACK}") from None
    return sorted(found, key=lambda path: _number(base.name, path))


def _number(name: str, run: Path) -> int:
    """The number of a repetition of a run, 1 for the first; 0 if the directory has another name."""
    match = re.fullmatch(re.escape(name) + r"(?:-(\d+))?", run.name)
    return int(match[1] or 1) if match else 0


def is_begun(run: Path) -> bool:
    """Whether a run has a checkpoint."""
    return bool(checkpoints(run / CHECKPOINTS))


def is_finished(run: Path) -> bool:
    """Whether a run has reached its last epoch: its results are of what it computes, and its weights are there."""
    identity = read_identity(run)
    try:
        of_results = read_checked_json(run / RESULTS).get("fingerprint")
    except (OSError, ValueError, AttributeError):
        return False
    return identity is not None and of_results == fingerprint(identity) and (run / WEIGHTS).is_file()


def find_finished(cfg: CN, identity: Identity) -> Path | None:
    """The newest finished run that computed the same, or None; CheckpointError if its weights were changed since."""
    found = next((run for run in same_runs(cfg, identity) if is_finished(run)), None)
    if found is not None:
        recorded = read_checked_json(found / RESULTS).get("student_sha256")
        if recorded != state_hash(load_weights(found)):
            raise CheckpointError(f"{found / WEIGHTS}: not the weights whose results are in {RESULTS}: the file was"
                                  " changed after the training; restore it, or move this directory away")  # fmt: skip
    return found


def find_resumable(cfg: CN, identity: Identity) -> Path:
    """The newest unfinished run that computes the same and has a checkpoint; CheckpointError if there is none."""
    same = same_runs(cfg, identity)
    found = next((run for run in same if not is_finished(run) and is_begun(run)), None)
    if found is None:
        place = Path(cfg.LOG.PREFIX) / run_name(cfg)
        finished = [f"{run} is finished; to train it for longer: `--resume {shlex.quote(str(run))} SOLVER.EPOCHS N`"
                    for run in same if is_finished(run)]  # fmt: skip
        others = [f"nothing to resume: {line}; to continue that one: `--resume {shlex.quote(str(run))}`"
                  for run, line in other_runs(cfg, identity).items()]  # fmt: skip
        raise CheckpointError(
            "\n".join(finished[:1] or newest_of(others) or [f"nothing to resume in {place}: run without --resume"])
        )
    return found


def check_resumable(cfg: CN, identity: Identity) -> None:
    """CheckpointError as in `find_resumable`, if no run can match whatever teaches it: before a teacher is trained."""
    for run in existing_runs(cfg):
        other = read_identity(run)
        if other is not None and not differences({**identity, "teachers": other["teachers"]}, other) and is_begun(run):
            return
    find_resumable(cfg, identity)


def same_runs(cfg: CN, identity: Identity) -> list[Path]:
    """The runs of this name that compute the same, newest first."""
    if identity["data"] is None:  # unknown: it may be another dataset
        return []
    return [run for run in reversed(existing_runs(cfg)) if read_identity(run) == identity]


def other_runs(cfg: CN, identity: Identity) -> dict[Path, str]:
    """The runs of this name that compute something else, each with a line that says how it differs."""
    lines = {}
    for run in existing_runs(cfg):
        other = read_identity(run)
        if not (run / RESULTS).is_file() and not is_begun(run):
            continue  # it ended before its first checkpoint
        if other is None:
            lines[run] = f"{run} is of an earlier version, which did not record what it computed"
        elif differing := differences(identity, other):
            lines[run] = f"{run} is a different run: {'; '.join(differing)}"
    return lines


def newest_of(lines: list[str]) -> list[str]:
    """Of a line for each run, those of the newest, which are last, and how many more there are."""
    if (more := len(lines) - MOST_SAID) <= 0:
        return lines
    return [*lines[-MOST_SAID:], f"{more} older {'run has' if more == 1 else 'runs have'} this name"]


def new_run(cfg: CN) -> Path:
    """Create the directory of a new run; no other run is touched."""
    runs = existing_runs(cfg)
    base = Path(cfg.LOG.PREFIX) / run_name(cfg)
    # After the last, also if those before it were deleted: the newest run has the highest number
    number = _number(base.name, runs[-1]) + 1 if runs else 1
    while True:
        path = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
        except OSError as e:
            raise ConfigError(f"LOG.PREFIX is {cfg.LOG.PREFIX}; cannot write there ({e.strerror})") from None


def restore_config(run: Path) -> None:
    """Write the config of a run anew, from its newest checkpoint, if it is missing or damaged."""
    config = newest_manifest(run / CHECKPOINTS).get("config")
    try:
        values = load_yaml_text(read_text(run / CONFIG)) if (run / CONFIG).is_file() else {}
        # One that is cut off may be the beginning of a config
        if values and not (config and _lacks(values, load_yaml_text(config))):
            return
    except (ConfigError, UnicodeDecodeError):
        pass
    if config:
        write_text(run / CONFIG, config)
        print(f"note: {run / CONFIG} was missing or damaged: written anew from the newest checkpoint", flush=True)


def _lacks(values: Any, whole: Mapping[str, Any]) -> bool:
    """Whether a key of the second config, or of one of its sections, is not in the first one."""
    if not isinstance(values, Mapping):
        return True
    return any(
        key not in values or (isinstance(value, Mapping) and _lacks(values[key], value)) for key, value in whole.items()
    )


def make_folder(run: Path, *, empty: bool) -> None:
    """Create a run directory; ConfigError if it cannot be, or if another run, or a part of one, is in it."""
    if empty and any((run / name).exists() for name in (CONFIG, CHECKPOINTS, RESULTS)):
        raise ConfigError(f"{run} is the directory of a run: continue it by `fit(run, resume=True)`, or name another")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{run}: cannot write there ({e.strerror})") from None


def check_writable(cfg: CN) -> None:
    """ConfigError if no run directory can be created; checked before data or networks are loaded."""
    path = Path(cfg.LOG.PREFIX).absolute()
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    try:
        with tempfile.TemporaryFile(dir=path):  # it has no name: nothing is left if the process is killed
            pass
    except OSError as e:
        raise ConfigError(f"LOG.PREFIX is {cfg.LOG.PREFIX}; cannot write in {path} ({e.strerror})") from None
