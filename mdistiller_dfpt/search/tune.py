"""The loop of a search: its configs take turns, one trial at a time, until each has had its budget."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import CheckpointError, ConfigError
from ..launch.jobs import Job, run_jobs, run_watched
from ..launch.table_jobs import teacher_jobs
from ..report.table import spread
from .plan import Plan
from .space import in_words
from .storage import interrupted, names_of_studies, next_trial, open_study, pruner_of, values_of
from .trial import Outcome, Say, SearchedConfig, Start, error_in, run_trial, timed

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


def next_config(plan: Plan, studies: Studies) -> SearchedConfig | None:
    """The config that has had least of its budget; None if all have had theirs, and no trial is interrupted."""
    had = {one.name: spent(studies[one.name]) for one in plan.configs}
    left = [
        one for one in plan.configs
        if not plan.budget.is_spent(*had[one.name]) or interrupted(studies[one.name]) is not None
    ]  # fmt: skip
    in_trials = plan.budget.trials is not None
    return min(left, key=lambda one: had[one.name] if in_trials else had[one.name][::-1], default=None)


def tune(
    plan: Plan, storage: "JournalStorage", studies: Studies, say: Say, after: Callable[[], None],
    start: Start = run_watched,
) -> None:  # fmt: skip
    """Run trials until each config has had its budget; `after` is called after each.

    Raises `TrialStopped` or `Interrupted` where a run ended otherwise than by its values: the trial is continued by the
    next search in this folder.
    """
    _train_teachers(plan, studies, say)
    while (one := next_config(plan, studies)) is not None:
        study = studies[one.name]
        trial = next_trial(study, storage, one.space)
        title = f"{one.name} trial {trial.number}"
        say(f"{title}: {in_words(values_of(trial, one.space))}")
        outcome = timed(
            trial, lambda: run_trial(one, study, trial, plan.seeds, plan.folder / LOGS, start)  # noqa: B023  called here
        )  # fmt: skip
        _tell(study, trial, outcome)
        say(f"{title}: {_how(outcome)}")
        after()


def _train_teachers(plan: Plan, studies: Studies, say: Say) -> None:
    """Train the teachers of configs with trials left, as for a table, so that no trial's time has it."""
    jobs: dict[tuple[str, ...], Job] = {}
    for one in plan.configs:
        if not plan.budget.is_spent(*spent(studies[one.name])):
            for job in teacher_jobs([one.cell()], one.prefix, one.words):
                jobs[job.words] = replace(job, log=plan.folder / LOGS / job.log.name)
    for job in run_jobs(list(jobs.values()), 1, say):
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
