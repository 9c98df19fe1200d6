"""The loop of a search: its configs take turns, each with one trial at a time, until each has had its budget."""

import contextlib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ConfigError, UserError
from ..launch.jobs import Job, Start, run_jobs, watched_jobs
from ..launch.launchers import Local
from ..launch.table_jobs import teacher_jobs
from ..report.table import spread
from .plan import Plan
from .space import in_words
from .storage import interrupted, names_of_studies, next_trial, open_study, pruner_of, values_of
from .trial import Outcome, Say, SearchedConfig, error_in, run_trial, timed

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import JournalStorage

LOGS = "logs"
Studies = Mapping[str, "Study"]
"""The study of each config, by its name."""


def open_studies(plan: Plan, storage: "JournalStorage") -> dict[str, "Study"]:
    """The studies of a search, made if there are none; ConfigError if the journal is of another search."""
    names = {one.name for one in plan.configs}
    if others := [name for name in names_of_studies(storage) if name not in names]:
        raise ConfigError(f"{plan.folder}: the search in this folder has {', '.join(others)} as well: name all configs"
                          " after --cfg, or give another --out")  # fmt: skip
    return {
        one.name: open_study(
            storage, one.name, pruner_of(plan.pruner, one.cfg.SOLVER.EPOCHS), plan.asked(one), one.own
        )
        for one in plan.configs
    }  # fmt: skip


def spent(study: "Study") -> tuple[int, float]:
    """The trials that have ended, and the seconds of all trials."""
    trials = study.trials
    return sum(t.state.is_finished() for t in trials), sum(t.user_attrs.get("seconds", 0.0) for t in trials)


def next_config(plan: Plan, studies: Studies, busy: Collection[str] = ()) -> SearchedConfig | None:
    """The config that has had least of its budget; None if all have had theirs, and no trial is interrupted.

    `busy`: the names of configs with a trial now, which wait.
    """
    had = {one.name: spent(studies[one.name]) for one in plan.configs}
    left = [
        one for one in plan.configs
        if one.name not in busy
        and (not plan.budget.is_spent(*had[one.name]) or interrupted(studies[one.name]) is not None)
    ]  # fmt: skip
    in_trials = plan.budget.trials is not None
    return min(left, key=lambda one: had[one.name][0 if in_trials else 1], default=None)  # of equals the first


def tune(
    plan: Plan, storage: "JournalStorage", studies: Studies, say: Say, after: Callable[[], None],
    launcher: Local, start: Start | None = None,
) -> None:  # fmt: skip
    """Run trials until each config has had its budget, as many at a time as the launcher has room for.

    `after` is called after each.

    As the values of a trial follow from the earlier ones of its config, a config has one trial at a time, and the
    search finds the same however many there are. Raises `TrialStopped` or `Interrupted` where a run ended otherwise
    than by its values, once the other trials have ended: the trial is continued by the next search in this folder.
    """
    _train_teachers(plan, studies, launcher, say)
    running: dict[Future[Outcome], tuple[SearchedConfig, Trial]] = {}
    faults: list[UserError] = []
    jobs = watched_jobs(launcher) if start is None else contextlib.nullcontext(start)
    with jobs as begin, ThreadPoolExecutor(launcher.parallel) as pool:
        while True:
            # Begin
            while len(running) < launcher.parallel and not faults:
                if (one := next_config(plan, studies, {busy.name for busy, _ in running.values()})) is None:
                    break
                study = studies[one.name]
                trial = next_trial(study, storage, one.space)
                say(f"{_title(one, trial)}: {in_words(values_of(trial, one.space))}")
                run = partial(run_trial, one, study, trial, plan.seeds, plan.folder / LOGS, begin)
                running[pool.submit(timed, trial, run)] = one, trial
            if not running:
                break
            # Record those that have ended
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                one, trial = running.pop(future)
                try:
                    outcome = future.result()
                except UserError as e:
                    faults.append(e)
                    continue
                _tell(studies[one.name], trial, outcome)
                say(f"{_title(one, trial)}: {_how(outcome)}")
                after()
        if faults:
            raise faults[0]


def _title(one: SearchedConfig, trial: "Trial") -> str:
    return f"{one.name} trial {trial.number}"


def _train_teachers(plan: Plan, studies: Studies, launcher: Local, say: Say) -> None:
    """Train the teachers of configs with trials left, as for a table, so that no trial's time has it."""
    jobs: dict[tuple[str, ...], Job] = {}
    for one in plan.configs:
        if not plan.budget.is_spent(*spent(studies[one.name])):
            for job in teacher_jobs([one.cell()], one.prefix, one.words):
                jobs[job.words] = replace(job, log=plan.folder / LOGS / job.log.name)
    for job in run_jobs(list(jobs.values()), launcher, say, wait_for_others=True).failed:
        raise CheckpointError(f"{job.label}: {error_in(job.log)} (log: {job.log})")


def _tell(study: "Study", trial: "Trial", outcome: Outcome) -> None:
    from optuna.trial import TrialState

    for key, value in (("by_seed", {str(k): v for k, v in outcome.by_seed.items()}), ("reason", outcome.reason)):
        if value:
            trial.set_user_attr(key, value)
    if outcome.state == "complete":
        study.tell(trial, outcome.value)
    else:
        study.tell(trial, state=TrialState.PRUNED if outcome.state == "pruned" else TrialState.FAIL)


def _how(outcome: Outcome) -> str:
    if outcome.state == "complete":
        return f"{spread(list(outcome.by_seed.values()))} % of the validation images"
    return f"{outcome.state} {outcome.reason}" if outcome.state == "pruned" else f"failed, {outcome.reason}"
