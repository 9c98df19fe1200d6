"""One trial of a search: a usual run for each seed, whose epochs are judged by validation images and may be pruned."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

from yacs.config import CfgNode as CN

from ..errors import DivergedError, UserError
from ..launch.jobs import Start, Watch
from ..launch.table_jobs import cell_configs, cell_job
from ..regular_files import read_bytes, read_json
from ..report.cells import runs_of
from ..report.files import STATUS
from ..report.result import Result
from ..report.spec import Cell
from ..runs.checkpoint import CHECKPOINTS, MANIFEST, checkpoints
from ..runs.locks import wait_until_free
from .space import Dimension, as_word
from .storage import values_of

if TYPE_CHECKING:
    from optuna import Study, Trial

Say = Callable[[str], None]
JUDGED = "validation"
FACTS = "facts"


class TrialStopped(UserError):
    """A run of a trial ended in a way that says nothing of its values; the trial is continued by the same command."""

    def __init__(self, what: str, code: int):
        super().__init__(f"{what}; repeat the same command to go on with this trial")
        self.exit_code = code if code > 0 else 128 - code


@dataclass(frozen=True)
class SearchedConfig:
    """A config of a search, with what is given for all its trials, and the keys to search."""

    path: Path
    name: str  # digits/kd/res20_res8
    cfg: CN
    given: Mapping[str, Any]  # keys of the command line, and the validation split
    space: Sequence[Dimension]
    own: Mapping[str, Any]  # the config's values of these keys, as coded; without those outside the space
    experiment: str  # EXPERIMENT.NAME of its trials
    validation: float  # DATASET.VALIDATION of the config itself
    images: int  # of the validation set
    in_files: bool  # whether the images of the dataset are decoded from files

    @property
    def label(self) -> str:
        """The name of its folder, and of its row in the table of tuned configs."""
        return self.name.replace("/", "_")

    def path_from(self, folder: Path) -> str:
        """The path of the config as a file in this folder names it."""
        return os.path.relpath(os.path.realpath(self.path), os.path.realpath(folder))

    @property
    def prefix(self) -> Path:
        """LOG.PREFIX: the folder of its teacher and of its runs."""
        return Path(self.cfg.LOG.PREFIX)

    @property
    def words(self) -> tuple[str, ...]:
        """What is given, as on a command line."""
        return tuple(word for key, value in self.given.items() for word in (key, as_word(value)))

    def cell(self, values: Mapping[str, Any] | None = None, number: int = 0) -> Cell:
        """The runs with these values of the keys, as the cell of a table; without values, those of the config."""
        tag = f"trial-{number:04d}"
        words = [word for key, value in (values or {}).items() for word in (key, as_word(value))]
        overrides = (*words, "EXPERIMENT.NAME", self.experiment, "EXPERIMENT.TAG", tag)
        return Cell(self.name, tag, self.path, overrides, f"{self.experiment}/{tag}", None)


class Outcome(NamedTuple):
    """How a trial ended: top-1 by seed on the validation images, in the last epoch; else when, or why."""

    state: str  # complete, pruned or failed
    by_seed: dict[int, float]
    reason: str = ""

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return mean(self.by_seed.values())


class Epochs:
    """Reports the epochs of a trial to its pruner, in their order and each once; a second seed's follow the first's.

    Whether a trial is pruned depends on these values alone, not on how far its run has gone meanwhile.
    """

    def __init__(self, trial: "Trial", reported: Sequence[int]):
        self.trial, self.reported = trial, set(reported)
        self.last = max(self.reported, default=0)
        self.is_pruned = bool(self.reported) and trial.should_prune()  # killed before this was recorded

    def are_hopeless(self, epochs: Sequence[Mapping[str, Any]], before: int) -> bool:
        """Whether to prune after these epochs of a run; `before`: the epochs of the seeds before it."""
        for epoch in epochs:
            step = before + epoch["epoch"]
            if self.is_pruned or JUDGED not in epoch or step in self.reported:
                continue
            self.trial.report(epoch[JUDGED]["student"]["top1"], step)
            self.reported.add(step)
            self.last = step
            self.is_pruned = self.trial.should_prune()
        return self.is_pruned


def run_trial(
    one: SearchedConfig, study: "Study", trial: "Trial", seeds: Sequence[int], logs: Path, start: Start
) -> Outcome:
    """Train what is missing of a trial and return how it ended; runs of it that there are, finished or not, are used.

    TrialStopped where a run ended otherwise than by its values: a config, data, a bug, a signal. `logs`: the folder of
    its output.
    """
    values = values_of(trial, one.space)
    # Equal values are trained once: the folder is that of the first trial with them
    number = next(t.number for t in study.trials if t.params == trial.params)
    cell = one.cell(values, number)
    folder, length = one.prefix / cell.folder, one.cfg.SOLVER.EPOCHS
    epochs = Epochs(trial, list(study.trials[trial.number].intermediate_values))
    by_seed: dict[int, float] = {}
    for place, seed in enumerate(seeds):
        before = place * length
        if epochs.is_pruned:
            return Outcome("pruned", by_seed, _when(epochs.last, length, seeds))
        found = _finished(one, cell, seed)
        if found is None:
            for run in folder.glob(f"seed{seed}*"):
                wait_until_free(run)  # a process that outlived an earlier search may train here
            job = cell_job(cell, seed, one.prefix, one.words)
            what = f"{one.name} trial {trial.number}, seed {seed}"
            job = replace(job, label=what, log=logs / f"{one.label}_{cell.column}_seed{seed}.txt")
            code = start(job, _watch(folder, seed, epochs, before))
            if code and not epochs.is_pruned:
                if code == DivergedError.exit_code:
                    return Outcome("failed", by_seed, f"seed {seed}: {error_in(job.log)}")
                raise TrialStopped(f"{what}: {_why(code, job.log)} (log: {job.log})", code)
            found = _finished(one, cell, seed)
        if found is not None:
            _refuse_other_facts(study, found, f"{one.name} trial {trial.number}")
            epochs.are_hopeless(found.data["epochs"], before)
            by_seed[seed] = found.data["final"][JUDGED]["top1"]["last"]
        elif not epochs.is_pruned:
            raise TrialStopped(f"{what}: finished without results of this config (log: {job.log})", 1)
    if epochs.is_pruned:
        return Outcome("pruned", by_seed, _when(epochs.last, length, seeds))
    return Outcome("complete", by_seed)


def _when(step: int, length: int, seeds: Sequence[int]) -> str:
    place, epoch = divmod(step - 1, length)
    return f"after epoch {epoch + 1}" + (f" of seed {seeds[place]}" if len(seeds) > 1 else "")


def _why(code: int, log: Path) -> str:
    if code < 0:
        return f"ended by signal {-code}" + (", as when memory runs out" if code == -9 else "")
    return error_in(log) or f"ended with {code}"


def _finished(one: SearchedConfig, cell: Cell, seed: int) -> Result | None:
    """The finished run of a seed that computed what the trial asks for."""
    return runs_of(cell, one.prefix, (seed,), cell_configs(cell, one.words)).by_seed.get(seed)


def _watch(folder: Path, seed: int, epochs: Epochs, before: int) -> Watch:
    return lambda process: epochs.are_hopeless(_epochs_of(folder, seed, process), before)


def _epochs_of(folder: Path, seed: int, process: int) -> list[dict[str, Any]]:
    """The records of the epochs that a running process has finished, from its newest checkpoint."""
    for status in folder.glob(f"seed{seed}*/{STATUS}"):
        try:
            if read_json(status)["pid"] == process:
                return read_json(checkpoints(status.parent / CHECKPOINTS)[0] / MANIFEST)["epochs"]
        except (OSError, ValueError, KeyError, IndexError, TypeError):  # being replaced
            continue
    return []


def error_in(log: Path) -> str:
    """The last error of a job, without the word; empty if it printed none."""
    lines = read_bytes(log).decode(errors="replace").splitlines() if log.is_file() else []
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")


def _refuse_other_facts(study: "Study", run: Result, what: str) -> None:
    """TrialStopped unless a run has the dataset, the teacher and the plugins of the trials before it."""
    facts = {"content": run.content, "teacher": run.teachers[:1], "code": run.code}
    before = study.user_attrs.get(FACTS)
    if before is None:
        study.set_user_attr(FACTS, facts)
        return
    names = {"content": "the dataset has", "teacher": "the teacher has", "code": "its plugins have"}
    other = [f"{words} changed" for key, words in names.items() if not _agree(key, before[key], facts[key])]
    if other:
        raise TrialStopped(f"{what} cannot be compared with those before it: {', '.join(other)} since then; restore"
                           " that, or give another --out", 3)  # fmt: skip


def _agree(key: str, before: Any, now: Any) -> bool:
    """Of teachers, those of other names may be what is searched."""
    if key == "teacher" and [t["name"] for t in before] != [t["name"] for t in now]:
        return True
    return before == now


def timed(trial: "Trial", run: Callable[[], Outcome]) -> Outcome:
    """Run a trial and add the seconds that it took to those before, however it ends."""
    started = time.monotonic()
    try:
        return run()
    finally:
        before = trial.user_attrs.get("seconds", 0.0)
        trial.set_user_attr("seconds", round(before + time.monotonic() - started, 1))
