"""Runs a config: data, trained networks that teach, then the student; an earlier run is found by what it computed."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from yacs.config import CfgNode as CN

from ..checksum import read_checked_json
from ..config.conditions import is_measured
from ..config.effect import without_effect
from ..config.paths import places_named
from ..data import Data, build_data
from ..distillers.choice import situation
from ..distributed import on_first_process, world_size
from ..errors import CheckpointError, ConfigError
from ..interop.plugins import load_cfg
from ..models import StagedModel
from ..runs.directory import (
    CONFIG,
    RESULTS,
    check_resumable,
    existing_runs,
    find_finished,
    find_resumable,
    is_begun,
    is_finished,
    new_run,
    newest_of,
    other_runs,
    restore_config,
    run_name,
    same_runs,
)
from ..runs.identity import Identity, read_identity
from ..runs.locks import one_at_a_time
from ..training.out_of_memory import memory_explained
from ..training.signals import Stopped
from ..training.speed import asked_for, speed_line
from .build import Trained, build_trainer, check_config, identity_of_run
from .initial import check_start, fetch_start
from .judge import judge_run
from .trained import in_training, trained_networks, wait_for_same

Resume = bool | Literal["auto"] | Path
"""False: a new run. True: the unfinished run that computes the same. auto: that one, else a new run, unless the same is
finished; if another process trains it, once that has ended. A path: the run in this directory, which may go on for more
epochs."""


def run(cfg: CN, resume: Resume = False) -> dict[str, Any]:
    """Train what `cfg` describes and return its results; networks that teach are found, or trained if it says so."""
    with memory_explained(cfg), places_named(cfg):
        device = check_config(cfg)
        data = build_data(cfg, device)
        for line in without_effect(situation(cfg, in_files=data.in_files)):
            print(line, flush=True)
        if resume is False:
            check_start(cfg)  # before a teacher is trained
            if cfg.DISTILLER.TEACHER_AUTO_TRAIN:
                fetch_start(cfg, data)
        if resume is True:
            teacher = on_first_process(lambda: _resumable(cfg, data))
            resume = teacher is None or "auto"
        trained = trained_networks(cfg, data, train_first)
        if resume != "auto":
            return train(cfg, data, trained, resume)
        # What two launchers need, one of them trains
        with one_at_a_time(Path(cfg.LOG.PREFIX) / run_name(cfg)):
            return train(cfg, data, trained, resume)


def _resumable(cfg: CN, data: Data) -> Path | None:
    """The run of a teacher to continue before this one begins, else None; CheckpointError if nothing was begun."""
    try:
        check_resumable(cfg, identity_of_run(cfg, data, ()))
        return None
    except CheckpointError:
        if (teacher := in_training(cfg)) is None:
            raise
        print(f"{teacher} was interrupted before this run began: it is continued first", flush=True)
        return teacher


def config_of(run: Path, overrides: Sequence[str]) -> CN:
    """The config of the run in a directory, as it was asked for: without what was chosen for its speed."""
    restore_config(run)
    if not (run / CONFIG).is_file():
        raise CheckpointError(f"--resume {run}: not the directory of a run")
    identity = read_identity(run)
    asked = {} if identity is None else identity["config"]
    return load_cfg(run / CONFIG, [*asked_for(asked), *overrides])


def build_teacher(cfg: CN, data: Data) -> StagedModel:
    """The trained network of DISTILLER.TEACHER, found or trained as in a run; CheckpointError if there is none."""
    trained = trained_networks(cfg, data, train_first)
    if not trained:
        raise ConfigError(f"DISTILLER.TEACHER_KIND is {cfg.DISTILLER.TEACHER_KIND}; no trained network teaches")
    return trained[0].network


def train(
    cfg: CN, data: Data, trained: Sequence[Trained], resume: Resume = False, *, is_first: bool = False
) -> dict[str, Any]:  # fmt: skip
    """Train with a validated config, its data and the networks that teach, and return the results.

    `is_first`: another run follows, which it is to teach. `Stopped` is then raised also where a signal came too late to
    stop this one.
    """
    identity = identity_of_run(cfg, data, trained, resume if isinstance(resume, Path) else None)
    if resume == "auto":
        wait_for_same(cfg, identity)
    before = on_first_process(lambda: _earlier_run(cfg, identity, resume))
    if before is not None and resume == "auto" and on_first_process(lambda: is_finished(before)):
        print(f"{before} is this run, and finished", flush=True)
        return read_checked_json(before / RESULTS)
    trainer = build_trainer(cfg, data, trained, identity, before=before)
    folder = before or on_first_process(lambda: _new_run(cfg, identity))
    line = speed_line(trainer.cfg, trainer.training.device, measured=is_measured(cfg))
    on_first_process(lambda: print(line, flush=True))
    teacher = trained[0].network if trained else None

    def judge() -> None:
        with trainer.training.deployable():
            judge_run(trainer.cfg, data, folder, trainer.distiller.deployed, teacher)

    # Of several processes, each has a part of the test set
    results = trainer.fit(folder, resume=before is not None, judge=judge if world_size() == 1 else None)
    if is_first and (stop := trainer.requests.poll_stop()):
        raise Stopped(
            stop, f"after {cfg.DISTILLER.STUDENT} was trained, which is to teach", "continue with --resume auto"
        )
    return results


train_first = functools.partial(train, is_first=True)


def _earlier_run(cfg: CN, identity: Identity, resume: Resume) -> Path | None:
    """The run to continue, if any; CheckpointError if there is none and one is asked for."""
    if isinstance(resume, Path):
        if not is_begun(resume):
            raise CheckpointError(f"--resume {resume}: it contains no checkpoint of a run")
        return resume
    if resume == "auto":
        begun = (run for run in same_runs(cfg, identity) if is_begun(run))
        return find_finished(cfg, identity) or next(begun, None)
    return find_resumable(cfg, identity) if resume else None


def _new_run(cfg: CN, identity: Identity) -> Path:
    """The directory of a new run; runs of the same name are said, and how they differ."""
    lines = other_runs(cfg, identity)
    newest = True
    for run in same_runs(cfg, identity):
        if is_finished(run):
            lines[run] = f"{run} is the same run, finished"
        elif is_begun(run):
            lines[run] = f"{run} is the same run, unfinished: --resume{'' if newest else f' {run}'} continues it"
            newest = False
    for line in newest_of([lines[run] for run in existing_runs(cfg) if run in lines]):
        print(f"note: {line}", flush=True)
    return new_run(cfg)
