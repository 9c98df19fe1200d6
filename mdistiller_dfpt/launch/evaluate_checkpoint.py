"""Evaluates the accuracy of any checkpoint, on the data and in the precision of a config."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config import load_yaml_text
from ..data import Data, build_data
from ..data.normalisation import Normalisation
from ..distillers import build_distiller
from ..distillers.build import AMP_DTYPES
from ..distillers.choice import choice
from ..distributed import pick_device
from ..errors import CheckpointError, ConfigError
from ..models.at_most import at_most
from ..models.output import as_output, autocast, memory_format
from ..regular_files import memory, read_text
from ..runs.directory import CONFIG, find_finished, newest_of, other_runs
from ..runs.identity import other_data, read_identity
from ..runs.record import check_hash, read_record
from ..runs.weights import WEIGHTS, load_into, weights_file
from ..training.evaluate import evaluate
from ..training.speed import fast_settings
from .build import Trained, identity_of_run, load_network, use_threads
from .networks import (
    DataShape,
    Role,
    build_network,
    build_networks,
    check_networks,
    name_of,
    normalisation_of,
    refuse_other_order,
)  # fmt: skip
from .recorded import recorded_normalisation, recorded_student, run_of
from .trained import trained_networks

TIMES, ROOM, PARAMETERS = 10, 64 << 20, 20_000
"""The most that a network may have beside its file of weights: times its bytes and bytes more, and tensors."""
FOR_EVALUATION = (
    "LOG.PREFIX", "EXPERIMENT.DEVICE", "EXPERIMENT.THREADS", "EXPERIMENT.TIMEOUT", "SOLVER.SPEED", "SOLVER.AMP",
    "SOLVER.CHANNELS_LAST", "DISTILLER.STUDENT",
)  # fmt: skip
"""The keys of SOLVER, LOG, EXPERIMENT and DISTILLER that can change what is measured of given weights begin so."""
FOR_TRAINING = (
    "DATASET.AUTO_AUGMENT", "DATASET.ERASING", "DATASET.AUGMENT", "DATASET.SEED", "DATASET.VALIDATION", "DATASET.EXTRA",
    "DISTILLER.MATCH_WEIGHT", "DISTILLER.STUDENT_CKPT", "DISTILLER.LOGITS_CACHE", "DISTILLER.TEACHER_AUTO_TRAIN",
)  # fmt: skip
"""Those of the other sections that cannot."""


def idle_keys(
    words: Sequence[str], cfg: CN, works: tuple[str, ...] = FOR_EVALUATION, *, is_taught: bool = False
) -> list[str]:
    """One line for each key of [KEY, VALUE, ...] that has no effect where given weights are evaluated.

    `works`: those that have one begin so; `is_taught`: so have those of the teacher and method.
    """
    idle = {"SOLVER", "LOG", "EXPERIMENT"}
    if not is_taught:
        idle |= {"DISTILLER", "ASSISTANTS", "OTHER_TEACHERS", *choice(cfg).sections}
    return [
        f"{key} {value} has no effect here: the weights are given, and nothing is trained"
        for key, value in zip(words[::2], words[1::2], strict=False)
        if key.startswith(FOR_TRAINING) or (key.split(".")[0] in idle and not key.startswith(works))
    ]


def refuse_other_images(weights: Path, here: Normalisation) -> None:
    """ConfigError if the run of these weights gave its student images that were normalised otherwise."""
    there = recorded_normalisation(weights)
    if there is not None and there != str(here):
        raise ConfigError(f"{weights} was trained with images of {there}; here it gets {here}: set DATASET.MEAN and"
                          " DATASET.STD, or the network's, as in the config.yaml of its run")  # fmt: skip


def other_than_in_its_run(weights: Path, data: Data) -> str:
    """How a dataset differs from that of the run of these weights; empty if it does not, or if that is not known."""
    known = read_identity(run_of(weights))
    if known is None or known["data"] is None or data.content is None:
        return ""
    return "; ".join(other_data({**known, "data": data.content}, known, "here", "in its run"))


class Evaluated(NamedTuple):
    """A checkpoint, its accuracies on the test set in per cent, and how the dataset differs from that of its run."""

    weights: Path
    top1: float
    top5: float
    other_data: str


def evaluate_checkpoint(cfg: CN, role: Role, weights: Path | None = None, name: str = "") -> Evaluated:
    """The accuracy of a checkpoint on the test set of `cfg`, in its precision.

    `role`: the checkpoint is of the config's student, as deployed; of its teacher; or of the network `name`. If
    `weights` is None, they are those of the finished run of the config, or of its teacher.
    """
    device = pick_device(cfg.EXPERIMENT.DEVICE)
    use_threads(cfg)
    if weights is not None and not weights.exists():
        raise CheckpointError(f"{weights}: no such checkpoint")
    try:
        if role == "other":
            build_network(cfg, role, name)
        else:
            check_networks(cfg)
    except ConfigError as e:
        raise ConfigError(f"{e}{_plugins_missing(cfg, weights)}") from None
    data = build_data(cfg, device)
    if weights is None:
        weights = _found(cfg, role, data)
    if (record := read_record(weights)) is not None:
        check_hash(weights, record)
    if (record := recorded_student(weights)) is not None:
        refuse_other_order(record.classes, data.classes, f"{weights} was trained")
    own = name_of(cfg, role) if role != "other" else name
    refuse_other_images(weights, normalisation_of(cfg, role, own, data.normalisation))
    network = load_deployed(cfg, weights, data) if role == "student" else load_network(cfg, role, weights, data, name)
    cfg = fast_settings(cfg, network, None, data, before=run_of(weights), trains=False)
    network = network.to(device).to(memory_format=memory_format(cfg.SOLVER.CHANNELS_LAST)).eval()
    dtype = AMP_DTYPES[cfg.SOLVER.AMP_STUDENT or cfg.SOLVER.AMP]

    def logits_of(image: Tensor) -> dict[str, Tensor]:
        with autocast(dtype, image):
            return {role: as_output(network(image)).logits}

    measured = evaluate(logits_of, data.test)[role]
    return Evaluated(weights, measured["top1"], measured["top5"], other_than_in_its_run(weights, data))


def _found(cfg: CN, role: Role, data: Data) -> Path:
    """The weights of the config's teacher, or of its own finished run; CheckpointError if there are none."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DISTILLER.TEACHER_AUTO_TRAIN = False
    cfg.freeze()
    trained = trained_networks(cfg, data, _refuse_to_train)
    if role == "teacher":
        if not trained:
            raise ConfigError(f"DISTILLER.TYPE is {choice(cfg).label}, which has no teacher: leave out --teacher")
        return trained[0].weights
    identity = identity_of_run(cfg, data, trained)
    if (run := find_finished(cfg, identity)) is None:
        others = [f"{line}; to evaluate it, add `-c {run}`" for run, line in other_runs(cfg, identity).items()]
        none = f"no finished run of this config in {cfg.LOG.PREFIX}: train it, or give a checkpoint with -c"
        raise CheckpointError("\n".join([none, *newest_of(others)]))
    return run / WEIGHTS


def _refuse_to_train(cfg: CN, data: Data, trained: Sequence[Trained], resume: Any) -> None:
    raise CheckpointError(f"the network {cfg.DISTILLER.STUDENT} of this run is not trained: give a checkpoint with -c")


def _plugins_missing(cfg: CN, weights: Path | None) -> str:
    """The end of an error message: the plugins of the run that a checkpoint is in, if `cfg` lacks some of them."""
    if weights is None:
        return ""
    configs = [path for folder in (weights, *weights.parents[:2]) if (path := folder / CONFIG).is_file()]
    used = load_yaml_text(read_text(configs[0])).get("PLUGINS", []) if configs else []
    if set(used) <= set(cfg.PLUGINS):
        return ""
    return f"; the run of this checkpoint used plugins: add `PLUGINS '[{', '.join(used)}]'` to your command"


def load_deployed(cfg: CN, weights: Path, data: DataShape) -> nn.Module:
    """The network that a run of `cfg` deploys, with these weights: the student, plus what the method adds to it.

    CheckpointError if that is far larger than the weights, as where a stranger's file names a depth of a million.
    """
    file = weights_file(weights)
    size = TIMES * file.stat().st_size + ROOM if file.exists() else ROOM
    # A method that deploys modules of its own builds the teacher too, of which the file has little
    with at_most(max(size, memory() // 4) if choice(cfg).adds_modules else size, PARAMETERS, str(weights)):
        network = _deployed(cfg, data)
    load_into(network, weights, f"{name_of(cfg, 'student')} with {data.num_classes} classes")
    return network


def _deployed(cfg: CN, data: DataShape) -> nn.Module:
    """That network, newly initialised."""
    if choice(cfg).adds_modules:
        n = build_networks(cfg, data)
        return build_distiller(
            cfg, n.student, n.teacher, data.num_train, image_shape=data.image_shape, others=n.others
        ).deployed
    return build_network(cfg, "student", "", data.num_classes, data.image_shape, data.normalisation)
