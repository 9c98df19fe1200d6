"""What a search has found so far: a table, search.json with all trials, pictures."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import saving, write_json
from ..escape import markdown_row
from ..report.figures import write_figure
from ..report.table import spread
from ..runs.results import commit
from .plan import SHARE, Plan
from .space import in_words
from .storage import AT_RANDOM, interrupted, values_of
from .trial import SearchedConfig
from .tune import Studies, spent

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

FORMAT = 1
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "interrupted", "WAITING": "waiting"}


def best_of(study: "Study") -> "FrozenTrial | None":
    """The complete trial with the highest validation accuracy, the earliest if tied; None if there is none."""
    complete = [t for t in study.trials if t.state.name == "COMPLETE"]
    return max(complete, key=lambda t: t.value, default=None)  # type: ignore[arg-type,return-value]


def spread_of(trial: "FrozenTrial") -> str:
    """`95.80 ± 0.30` over its seeds."""
    return spread(list(trial.user_attrs["by_seed"].values()))


def table_of_search(plan: Plan, studies: Studies) -> str:
    """The best trial of each config in Markdown, and how its accuracy is to be read."""
    head = ["config", "best trial", "validation top-1", "own values", "trials", "pruned", "failed", "minutes", "keys"]
    rows = [head, ["---"] * len(head)]
    for one in plan.configs:
        study = studies[one.name]
        count = {state: sum(t.state.name == name for t in study.trials) for name, state in STATES.items()}
        best, (trials, seconds) = best_of(study), spent(study)
        keys = "" if best is None else in_words(values_of(best, one.space))
        rows.append([
            one.name, "" if best is None else str(best.number), "" if best is None else spread_of(best),
            _of_own_values(one, study), str(trials), str(count["pruned"]), str(count["failed"]), f"{seconds / 60:.1f}",
            keys,
        ])  # fmt: skip
    return "\n".join([*map(markdown_row, rows), "", *_notes(plan, studies)])


def _of_own_values(one: SearchedConfig, study: "Study") -> str:
    """The accuracy of the first trial, if it has the config's own values of all keys."""
    first = next(iter(study.trials), None)
    if first is None or first.state.name != "COMPLETE" or len(one.own) < len(one.space):
        return ""
    return spread_of(first)


def _notes(plan: Plan, studies: Studies) -> Iterator[str]:
    """How trials were judged, each way once with its configs; the trials that failed or are interrupted."""
    judged: dict[str, list[str]] = {}
    for one in plan.configs:
        how = (
            f"{one.images} validation images ({SHARE} {one.cfg.DATASET.VALIDATION:g}), last of {one.cfg.SOLVER.EPOCHS}"
        )
        judged.setdefault(f"{how} epochs", []).append(one.name)
    for how, names in judged.items():
        yield how if len(judged) == 1 else f"{', '.join(names)}: {how}"
    yield f"seeds {', '.join(map(str, plan.seeds))}; budget of each config {plan.budget}; pruner {plan.pruner}"
    for one in plan.configs:
        for trial in studies[one.name].trials:
            if trial.state.name == "FAIL":
                yield f"- {one.name} trial {trial.number} failed, {trial.user_attrs.get('reason', '')}"
        if (number := interrupted(studies[one.name])) is not None:
            yield f"- {one.name} trial {number} is interrupted"
    yield "The best trial was chosen by these accuracies, which are therefore optimistic: report those of the test set."


def write_record(plan: Plan, studies: Studies) -> None:
    """Write search.json: what was asked for, and every trial with its values, accuracies by epoch and by seed."""
    import optuna

    configs = {}
    for one in plan.configs:
        study, best = studies[one.name], best_of(studies[one.name])
        configs[one.name] = {
            "config": one.path_from(plan.folder),
            "given": dict(one.given),
            "space": {d.key: d.words for d in one.space},
            "epochs": one.cfg.SOLVER.EPOCHS,
            "validation_images": one.images,
            "best": None if best is None else best.number,
            "minutes": round(spent(study)[1] / 60, 2),
            "trials": [_record(one, trial) for trial in study.trials if trial.state.name != "WAITING"],
        }
    write_json(plan.folder / "search.json", {
        "format": FORMAT, "objective": "top-1 of the last epoch on the validation images, mean over the seeds",
        "budget": str(plan.budget), "seeds": list(plan.seeds), "pruner": plan.pruner,
        "optuna": optuna.__version__, "commit": commit(), "configs": configs,
    })  # fmt: skip


def _record(one: SearchedConfig, trial: "FrozenTrial") -> dict[str, Any]:
    complete = trial.state.name == "COMPLETE"
    return {
        "number": trial.number,
        "state": STATES[trial.state.name],
        "reason": trial.user_attrs.get("reason", ""),
        "values": {d.key: d.decoded(trial.params[d.key]) for d in one.space if d.key in trial.params},
        "top1": trial.value if complete else None,
        "by_seed": trial.user_attrs.get("by_seed", {}),
        "by_epoch": {str(step): value for step, value in trial.intermediate_values.items()},
        "seconds": trial.user_attrs.get("seconds", 0.0),
    }


def draw(plan: Plan, studies: Studies) -> list[Path]:
    """Write the pictures that there are enough trials for: history.png, and importance.png of each config.

    The importances are fANOVA's; those of very few trials would say nothing.
    """
    import matplotlib

    matplotlib.use("Agg")
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as pictures

    written = []
    known = [studies[one.name] for one in plan.configs if best_of(studies[one.name]) is not None]
    name = "validation top-1"
    with _quiet():
        if known:
            axes = pictures.plot_optimization_history(known, target_name=name)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
            written.append(_save(axes, plan.folder / "history.png"))
        for one in plan.configs:
            study = studies[one.name]
            complete = [t for t in study.trials if t.state.name == "COMPLETE"]
            if len(one.space) > 1 and len(complete) >= AT_RANDOM and len({t.value for t in complete}) > 1:
                evaluator = FanovaImportanceEvaluator(seed=0)
                axes = pictures.plot_param_importances(study, evaluator=evaluator, target_name=name)
                written.append(_save(axes, plan.folder / one.label / "importance.png"))
    return written


def _save(axes: Any, file: Path) -> Path:
    import matplotlib.pyplot as plt

    figure = axes.figure
    with saving(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_figure(figure, file, bbox_inches="tight", dpi=120)
    plt.close(figure)
    return file


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that Optuna's pictures are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
