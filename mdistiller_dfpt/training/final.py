"""The final accuracies of a run: with a validation set, those on the test set of the weights that it chose."""

from typing import Any

from ..distributed import on_first_process
from ..runs.results import best_epoch, summarise
from ..runs.saving import BEST, Saver
from ..runs.weights import load_weights
from .evaluate import evaluate_method
from .state import Training


def final_results(run: Training, saver: Saver) -> dict[str, Any]:
    """Last, best and mean of the last five evaluations on the test set.

    With a validation set: last and best are accuracies on the test set, evaluated here, once; `best` is of the epoch
    that is best on the validation set, whose summary is `validation`.
    """
    summary = summarise(run.epochs)
    if run.data.validation is None:
        return summary
    best = best_epoch(run.epochs)
    assert best is not None
    with run.deployable():
        last = evaluate_method(run.distiller, run.data.test)["student"]
    chosen = _of_best_weights(run, saver, last if best is run.epochs[-1] else None)
    final: dict[str, Any] = {
        metric: {"last": last[metric], "best": chosen[metric], "best_epoch": best["epoch"], "mean_last_5": None}
        for metric in ("top1", "top5")
    }
    return final | {"validation": summary}


def _of_best_weights(run: Training, saver: Saver, known: dict[str, float] | None) -> dict[str, float]:
    """The accuracies of the weights that were best on the validation set, also written into their file.

    `known`: if they are measured already. The run's own weights are put back.
    """
    best, weights = best_epoch(run.epochs), on_first_process(lambda: load_weights(saver.run / BEST))
    assert best is not None
    if known is None:
        deployed = run.distiller.deployed
        own = {key: value.clone() for key, value in deployed.state_dict().items()}
        deployed.load_state_dict(weights)
        try:
            known = evaluate_method(run.distiller, run.data.test)["student"]
        finally:
            deployed.load_state_dict(own)
    saver.save_student(BEST, weights, run.data, {**best, "test": {"student": known}})
    return known
