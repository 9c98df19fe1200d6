"""The final accuracies of a run: with a validation set, those on the test set of the weights that it chose."""

import sys
from typing import Any

from torch import Tensor

from ..distributed import on_first_process, rank
from ..errors import CheckpointError
from ..runs.record import check_hash, read_record
from ..runs.results import best_epoch, summarise
from ..runs.saving import BEST, Saver
from ..runs.weights import load_weights
from .evaluate import evaluate_method
from .state import Training


def final_results(run: Training, saver: Saver) -> dict[str, Any]:
    """Last, best and mean of the last five evaluations on the test set.

    With a validation set: last and best are accuracies on the test set, evaluated here, once; `best` is of the epoch
    that is best on the validation set, whose summary is `validation`. If the weights of that epoch are not in the run
    any more, `best` is of the last epoch, and says so.
    """
    summary = summarise(run.epochs)
    if run.data.validation is None:
        return summary
    best = best_epoch(run.epochs)
    assert best is not None
    with run.deployable():
        last = evaluate_method(run.distiller, run.data.test)["student"]
    weights, chosen = run.weights(), last
    if best is not run.epochs[-1]:
        epoch = best["epoch"]
        stored, fault = on_first_process(lambda: _weights_of(saver, epoch))
        if stored is None:
            if rank() == 0:
                print(f"warning: {fault}: the accuracy of epoch {epoch}, the best on the validation set, is not known;"
                      " `best` is that of the last epoch", file=sys.stderr)  # fmt: skip
            best = run.epochs[-1]
        else:
            weights, chosen = stored, _evaluated(run, stored)
    # Its file says its accuracy, which was not known when it was written
    saver.save_student(BEST, weights, run.data, {**best, "test": {"student": chosen}})
    final: dict[str, Any] = {
        metric: {"last": last[metric], "best": chosen[metric], "best_epoch": best["epoch"], "mean_last_5": None}
        for metric in ("top1", "top5")
    }
    return final | {"validation": summary}


def _weights_of(saver: Saver, epoch: int) -> tuple[dict[str, Tensor] | None, str]:
    """The best weights if they are those after this epoch; None if not, and why: a run can be copied in part."""
    path = saver.run / BEST
    if not path.is_file():
        return None, f"{path}: is missing"
    try:
        record = read_record(path)
        if record is None or record.epoch != epoch:
            return None, f"{path}: is of epoch {record.epoch if record else 'unknown'}"
        check_hash(path, record)
        return load_weights(path), ""
    except CheckpointError as e:
        return None, str(e)


def _evaluated(run: Training, weights: dict[str, Tensor]) -> dict[str, float]:
    """The accuracies of these weights; the run's own are put back."""
    deployed = run.distiller.deployed
    own = {key: value.clone() for key, value in deployed.state_dict().items()}
    deployed.load_state_dict(weights)
    try:
        return evaluate_method(run.distiller, run.data.test)["student"]
    finally:
        deployed.load_state_dict(own)
