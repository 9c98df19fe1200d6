"""The trained networks that teach: from a file, from torchvision, or from the run of their config."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from yacs.config import CfgNode as CN

from ..config.compose import is_config
from ..config.effect import value_of
from ..config.keys import KEYS
from ..config.policy import PRETRAINED, student_lr
from ..data import Data, build_data
from ..data.superclasses import of_classes
from ..distillers.choice import choice
from ..distributed import on_first_process
from ..errors import CheckpointError, ConfigError
from ..interop.plugins import load_cfg
from ..invocation import command_line
from ..models.pretrained import pretrained_weights, torchvision_name
from ..runs.checkpoint import WEIGHTS
from ..runs.directory import (
    existing_runs,
    find_finished,
    is_begun,
    is_finished,
    newest_of,
    other_runs,
    run_name,
    same_runs,
)  # fmt: skip
from ..runs.identity import Identity, read_identity
from ..runs.locks import one_at_a_time, wait_until_free
from .build import Trained, check_config, identity_of_run, load_trained
from .networks import Role, normalisation_of, refuse_other_normalisation, refuse_other_order, size_of
from .recorded import recorded_normalisation, recorded_student, run_of

OF_PLACE = ("DATASET.ROOT", "DATASET.DOWNLOAD", "EXPERIMENT.DEVICE", "EXPERIMENT.THREADS")
"""Keys of a run that hold for the run of its teacher as well; all others are those of the teacher's config."""

OF_THE_DATA = ("TYPE", "ROOT", "SIZE", "ON_ERROR", "MEAN", "STD", "SUPERCLASSES", "EXTRA", "RECIPE", "TEST")
"""Keys of DATASET that decide what a dataset holds, how it is normalised, and which of its keys have an effect."""


class Train(Protocol):
    """Trains a config on data that is loaded, taught by these networks: `launch.run.train`."""

    def __call__(self, cfg: CN, data: Data, trained: Sequence[Trained], resume: Any) -> Any: ...


def trained_networks(cfg: CN, data: Data, train: Train, chain: tuple[Path, ...] = ()) -> list[Trained]:
    """The teacher, then the other teachers or assistants of a run; empty if no trained network teaches.

    `chain`: the configs of the teachers that this one teaches. CheckpointError, with the command that provides it, if
    one is not trained and the config does not ask to train it.
    """
    chosen, d = choice(cfg), cfg.DISTILLER
    if not chosen.teacher or (chosen.starts_untrained and not d.TEACHER_CKPT):
        return []
    of_teachers = chosen.others_key == "OTHER_TEACHERS"
    if of_teachers:
        _refuse_other_counts(cfg)
    elif chosen.others:
        _refuse_added_modules(cfg, "DISTILLER.ASSISTANTS are networks that are trained")
    path = _weights(cfg, data, train, chain, d.TEACHER, d.TEACHER_CKPT, d.TEACHER_CFG, ("TEACHER_CKPT", "TEACHER_CFG"))
    found = [load_trained(cfg, "teacher", path, data)]
    keys = ("OTHER_TEACHER_CKPTS", "OTHER_TEACHER_CFGS")
    for number, name in enumerate(chosen.others):
        if of_teachers:
            ckpt, config = (d[key][number] if d[key] else None for key in keys)
            path = _weights(cfg, data, train, chain, name, ckpt, config, keys)
        else:
            path = _assistant(cfg, data, train, name, found)
        found.append(load_trained(cfg, "other", path, data, name))
    return found


def _refuse_other_counts(cfg: CN) -> None:
    d = cfg.DISTILLER
    for key in ("OTHER_TEACHER_CKPTS", "OTHER_TEACHER_CFGS"):
        if d[key] and len(d[key]) != len(d.OTHER_TEACHERS):
            raise ConfigError(
                f"DISTILLER.{key} has {len(d[key])} entries and DISTILLER.OTHER_TEACHERS {len(d.OTHER_TEACHERS)}; "
                "each network needs exactly one"
            )


def _refuse_added_modules(cfg: CN, what: str) -> None:
    """ConfigError, before it is trained, if the network of a config predicts with modules of its method."""
    if added := sorted(choice(cfg).adds_modules):
        raise ConfigError(f"{what} by {', '.join(added)}, with whose modules it predicts: what teaches must be a"
                          " network of its own; use another method for it")  # fmt: skip


def _weights(
    cfg: CN, data: Data, train: Train, chain: tuple[Path, ...], network: str, ckpt: str | None, config: str | None,
    keys: tuple[str, str],
) -> Path:  # fmt: skip
    """The weights of a teacher network: the file `ckpt`, or those of the run of `config`; `keys` are their keys.

    `pretrained` and `pretrained:TAG` select torchvision's weights, which are also the default if torchvision has the
    network.
    """
    word, _, tag = (ckpt or "").partition(":")
    if word == PRETRAINED or (not ckpt and not config and torchvision_name(network, cfg.MODEL.FAMILY)):
        return on_first_process(lambda: pretrained_weights(network, cfg.MODEL.FAMILY, tag, cfg.DATASET.DOWNLOAD))
    if ckpt:
        if not Path(ckpt).exists():
            raise CheckpointError(f"DISTILLER.{keys[0]} is {ckpt}; there is no such file")
        what = f"DISTILLER.{keys[0]} is {ckpt}, which was trained"
        if (its := read_identity(run_of(Path(ckpt)))) is not None:
            its_type = its["config"].get("DATASET.TYPE", KEYS["DATASET.TYPE"].default)
            _refuse_other_classes(cfg, data, its_type, its["config"].get("DATASET.SUPERCLASSES"), what)
        if (record := recorded_student(Path(ckpt))) is not None:
            refuse_other_order(record.classes, data.classes, what)
        if there := recorded_normalisation(Path(ckpt)):
            refuse_other_normalisation(cfg, _role(keys), network, data.normalisation, there, what)
        return Path(ckpt)
    if not config:
        raise CheckpointError(
            f"no weights for the teacher {network}: add `DISTILLER.{keys[0]} PATH` to your command, "
            f"or set DISTILLER.{keys[1]} to the config that trains it"
        )
    return _of_config(cfg, data, train, chain, network, config, keys)


def _refuse_other_classes(cfg: CN, data: Data, its_type: str, its_groups: list[int] | None, what: str) -> None:
    """ConfigError if a network learned the classes of this dataset in another order, or joined otherwise."""
    mine, count = cfg.DATASET.SUPERCLASSES, data.num_joined or data.num_classes
    if its_type == cfg.DATASET.TYPE and of_classes(its_groups, count) != of_classes(mine, count):
        raise ConfigError(f"{what} with DATASET.SUPERCLASSES {its_groups}; here it is {mine}, so that its classes are"
                          " others: use the same list")  # fmt: skip


def _role(keys: tuple[str, str]) -> Role:
    return "teacher" if keys[0] == "TEACHER_CKPT" else "other"


def _of_config(
    cfg: CN, data: Data, train: Train, chain: tuple[Path, ...], network: str, config: str, keys: tuple[str, str]
) -> Path:
    """The weights of the finished run of a teacher's config; it is trained now if TEACHER_AUTO_TRAIN is set."""
    place = Path(os.path.realpath(config))
    if place in chain:
        raise ConfigError(f"DISTILLER.{keys[1]} is {config}, which needs itself as a teacher")
    chain = (*chain, place)
    teacher_cfg = _teacher_cfg(cfg, config, keys[1])
    _refuse_added_modules(teacher_cfg, f"DISTILLER.{keys[1]} is {config}, which trains its network")
    its_data = data
    if any(teacher_cfg.DATASET[key] != cfg.DATASET[key] for key in OF_THE_DATA):
        its_data = build_data(teacher_cfg, torch.device("cpu"))
    # A teacher of other classes is found before it is trained for hours
    if its_data.num_classes != data.num_classes:
        raise ConfigError(
            f"DISTILLER.{keys[1]} is {config}, which trains on {teacher_cfg.DATASET.TYPE} with {its_data.num_classes}"
            f" classes; this run's {cfg.DATASET.TYPE} has {data.num_classes}: name a config that trains a teacher on it"
        )
    what = f"DISTILLER.{keys[1]} is {config}, which trains"
    _refuse_other_classes(cfg, data, teacher_cfg.DATASET.TYPE, teacher_cfg.DATASET.SUPERCLASSES, what)
    refuse_other_order(its_data.classes, data.classes, what)
    there = normalisation_of(teacher_cfg, "student", teacher_cfg.DISTILLER.STUDENT, its_data.normalisation)
    refuse_other_normalisation(cfg, _role(keys), network, data.normalisation, str(there), what)
    its_size = size_of(teacher_cfg, "student") or its_data.image_shape[1]
    if (size := size_of(cfg, _role(keys)) or data.image_shape[1]) != its_size:
        print(f"note: {network} is trained by {config} on images of {its_size} pixels; here it gets {size}", flush=True)
    above = trained_networks(teacher_cfg, its_data, train, chain)
    identity = identity_of_run(teacher_cfg, its_data, above)
    found = _finished(teacher_cfg, identity)
    if found is not None:
        return found
    if not cfg.DISTILLER.TEACHER_AUTO_TRAIN:
        prefix = "" if cfg.LOG.PREFIX == "./output" else f" LOG.PREFIX {shlex.quote(cfg.LOG.PREFIX)}"
        its_config = shlex.quote(str(config))
        lines = [
            f"the teacher {network} is not trained yet: run `{command_line('train')} --cfg {its_config}{prefix}`, "
            "or add `DISTILLER.TEACHER_AUTO_TRAIN True` to your command"
        ]
        others = {shlex.quote(str(run)): line for run, line in other_runs(teacher_cfg, identity).items()}
        lines += newest_of([f"{line}; to be taught by it nevertheless, add `DISTILLER.{keys[0]} {run}`"
                            for run, line in others.items()])  # fmt: skip
        raise CheckpointError("\n".join(lines))

    def train_it() -> None:
        print(f"no teacher {network} yet: training it first from {config}; it is kept for later runs", flush=True)
        check_config(teacher_cfg)
        # Its own batches and order
        train(teacher_cfg, build_data(teacher_cfg, data.train.device), above, "auto")

    return _trained_once(teacher_cfg, identity, train_it)


def in_training(cfg: CN) -> Path | None:
    """The unfinished run of a network that is to teach, whose training was interrupted; None if there is none."""
    chosen, d = choice(cfg), cfg.DISTILLER
    if not chosen.teacher:
        return None
    before_it: list[CN] = []
    if d.TEACHER_AUTO_TRAIN:
        configs = [("TEACHER_CFG", d.TEACHER_CFG), *(("OTHER_TEACHER_CFGS", name) for name in d.OTHER_TEACHER_CFGS)]
        before_it += [_teacher_cfg(cfg, config, key) for key, config in configs if config]
    if chosen.others_key != "OTHER_TEACHERS":
        before_it += [run_of_assistant(cfg, name, chosen.others[:i]) for i, name in enumerate(chosen.others)]
    for one in before_it:
        begun = (run for run in existing_runs(one) if not is_finished(run) and is_begun(run))
        if (found := next(begun, None) or in_training(one)) is not None:
            return found
    return None


def _teacher_cfg(cfg: CN, config: str, key: str) -> CN:
    if not (is_config(Path(config)) or Path(config).is_symlink()) and Path(config).suffix:
        raise ConfigError(f"DISTILLER.{key} is {config}; there is no such config: correct the path, which starts at the"
                          " folder of the config that sets it")  # fmt: skip
    return load_cfg(config, {key: value_of(cfg, key) for key in ("LOG.PREFIX", *OF_PLACE)})


def run_of_assistant(cfg: CN, name: str, above: Sequence[str]) -> CN:
    """The config that trains an assistant: the student's, with this network as the student, taught by those above."""
    step = cfg.clone()
    step.defrost()
    step.DISTILLER.STUDENT = name
    step.DISTILLER.STUDENT_STAGES = []
    step.DISTILLER.STUDENT_CKPT = None
    step.DISTILLER.STUDENT_MEAN = step.DISTILLER.STUDENT_STD = None
    step.DISTILLER.PATHS = CN()  # those of the student may include assistants that do not exist yet
    step.DISTILLER.ASSISTANTS = list(above)
    if student_lr(cfg.DISTILLER.STUDENT) == cfg.SOLVER.LR:
        step.SOLVER.LR = student_lr(name)
    step.EXPERIMENT.NAME = f"{run_name(cfg).rsplit('/', 1)[0]}/assistants/{len(above) + 1}_{name}"
    step.EXPERIMENT.TAG = "default"
    step.freeze()
    return step


def _assistant(cfg: CN, data: Data, train: Train, name: str, above: Sequence[Trained]) -> Path:
    """The weights of the assistant after those `above` it; it is trained first if needed."""
    step = run_of_assistant(cfg, name, [network.name for network in above[1:]])

    def train_it() -> None:
        print(f"training the assistant {name} first, for {cfg.SOLVER.EPOCHS} epochs; it is kept for later runs",
              flush=True)  # fmt: skip
        train(step, data, above, "auto")

    identity = identity_of_run(step, data, above)
    return _finished(step, identity) or _trained_once(step, identity, train_it)


def _trained_once(cfg: CN, identity: Identity, train_it: Callable[[], None]) -> Path:
    """The weights of the run that computes this, of which there is none yet; trained by one process at a time."""
    with one_at_a_time(Path(cfg.LOG.PREFIX) / run_name(cfg)):
        wait_for_same(cfg, identity)
        found = _finished(cfg, identity)  # another process may have trained it meanwhile
        if found is None:
            train_it()
            found = _finished(cfg, identity)
    assert found is not None, "a finished run has weights"
    return found


def wait_for_same(cfg: CN, identity: Identity) -> None:
    """Return when no other process trains a run that computes this."""
    for run in on_first_process(lambda: same_runs(cfg, identity)):
        wait_until_free(run)


def _finished(cfg: CN, identity: Identity) -> Path | None:
    """The weights of a finished run that computed the same, or None; the same in all processes."""
    run = on_first_process(lambda: find_finished(cfg, identity))
    return None if run is None else run / WEIGHTS
