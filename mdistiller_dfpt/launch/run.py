"""Runs a config: finds the teacher, or trains it first if the config requests it, and then trains the student."""

from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from ..config.policy import PRETRAINED, student_lr
from ..data import build_data
from ..distillers.choice import choice
from ..distributed import on_first_process
from ..errors import CheckpointError, ConfigError
from ..interop.plugins import load_cfg
from ..models.pretrained import pretrained_weights, torchvision_name
from ..runs.directory import find_finished_weights, is_resumable, run_name
from .build import Weights, check_config, train


def run(cfg: CN, resume: bool = False, taught_by: Weights | None = None) -> dict[str, Any]:
    """Train what `cfg` describes and return its results; a missing teacher comes first where the config asks for it.

    `taught_by`: the weights that teach, where they are known already.
    """
    device = check_config(cfg)
    return train(cfg, device, weights_of(cfg) if taught_by is None else taught_by, resume)


def weights_of(cfg: CN) -> Weights:
    """The weights of all teacher networks; missing ones are trained first if the config requests it."""
    chosen = choice(cfg)
    if not chosen.is_taught:
        return Weights()
    of_teachers = chosen.others_key == "OTHER_TEACHERS"
    if chosen.others and of_teachers:
        _refuse_other_counts(cfg)
    found = Weights(teacher_weights(cfg))
    for number, name in enumerate(chosen.others):
        path = other_teacher_weights(cfg, number) if of_teachers else assistant_weights(cfg, name, found)
        found = Weights(found.teacher, (*found.others, (name, path)))
    return found


def teacher_weights(cfg: CN) -> Path:
    """The path of the teacher's weights: TEACHER_CKPT, or those of the newest run of TEACHER_CFG.

    `pretrained` and `pretrained:TAG` select torchvision's weights, which are also the default if torchvision has the
    network. If there are no weights, the teacher is trained first if TEACHER_AUTO_TRAIN is set; otherwise
    CheckpointError with the command that provides them.
    """
    d = cfg.DISTILLER
    return _weights(cfg, d.TEACHER, d.TEACHER_CKPT, d.TEACHER_CFG, ("TEACHER_CKPT", "TEACHER_CFG"))


def other_teacher_weights(cfg: CN, number: int) -> Path:
    """The same for the other teacher with this number."""
    d, keys = cfg.DISTILLER, ("OTHER_TEACHER_CKPTS", "OTHER_TEACHER_CFGS")
    ckpt, config = (d[key][number] if d[key] else "" for key in keys)
    return _weights(cfg, d.OTHER_TEACHERS[number], ckpt, config, keys)


def _refuse_other_counts(cfg: CN) -> None:
    d = cfg.DISTILLER
    for key in ("OTHER_TEACHER_CKPTS", "OTHER_TEACHER_CFGS"):
        if d[key] and len(d[key]) != len(d.OTHER_TEACHERS):
            raise ConfigError(
                f"DISTILLER.{key} has {len(d[key])} entries and DISTILLER.OTHER_TEACHERS {len(d.OTHER_TEACHERS)}; "
                "each network needs exactly one"
            )


def _weights(cfg: CN, network: str, ckpt: str, config: str, keys: tuple[str, str]) -> Path:
    """The weights of a teacher network: the file `ckpt`, or that of a run of `config`; `keys` are their keys."""
    word, _, tag = ckpt.partition(":")
    nowhere = not ckpt and not config
    if word == PRETRAINED or (nowhere and torchvision_name(network, cfg.MODEL.FAMILY)):
        return on_first_process(lambda: pretrained_weights(network, cfg.MODEL.FAMILY, tag, cfg.DATASET.DOWNLOAD))
    if ckpt:
        path = Path(ckpt)
        if not path.exists():
            raise CheckpointError(f"DISTILLER.{keys[0]} is {ckpt}; there is no such file")
        return path
    if not config:
        raise CheckpointError(
            f"no weights for the teacher {network}: add `DISTILLER.{keys[0]} PATH` to your command, "
            f"or set DISTILLER.{keys[1]} to the config that trains it"
        )
    overrides = [
        "LOG.PREFIX", cfg.LOG.PREFIX, "DATASET.ROOT", cfg.DATASET.ROOT, "DATASET.DOWNLOAD", str(cfg.DATASET.DOWNLOAD),
        "EXPERIMENT.DEVICE", cfg.EXPERIMENT.DEVICE, "EXPERIMENT.THREADS", str(cfg.EXPERIMENT.THREADS),
    ]  # fmt: skip
    teacher_cfg = load_cfg(config, overrides)
    found = _finished(teacher_cfg)
    if found is not None:
        return found
    if not cfg.DISTILLER.TEACHER_AUTO_TRAIN:
        prefix = "" if cfg.LOG.PREFIX == "./output" else f" LOG.PREFIX {cfg.LOG.PREFIX}"
        raise CheckpointError(
            f"the teacher {network} is not trained yet: run `python tools/train.py --cfg {config}{prefix}`, "
            "or add `DISTILLER.TEACHER_AUTO_TRAIN True` to your command"
        )
    _refuse_other_classes(cfg, teacher_cfg, config, keys[1])
    return _trained(teacher_cfg, f"no teacher {network} yet: training it first from {config}")


def _refuse_other_classes(cfg: CN, teacher_cfg: CN, config: str, key: str) -> None:
    """ConfigError where a teacher would be trained on classes that this run does not have; found before hours of it."""
    if teacher_cfg.DATASET == cfg.DATASET:
        return
    cpu = torch.device("cpu")
    theirs, ours = (build_data(c, cpu).num_classes for c in (teacher_cfg, cfg))
    if theirs != ours:
        raise ConfigError(
            f"DISTILLER.{key} is {config}, which trains on {teacher_cfg.DATASET.TYPE} with {theirs} classes; this run's"
            f" {cfg.DATASET.TYPE} has {ours}: name a config that trains a teacher on it"
        )


def assistant_weights(cfg: CN, name: str, above: Weights) -> Path:
    """The weights of the assistant after those `above` it; it is trained first if needed.

    Its run is that of the student, with this network as the student, distilled from those above.
    """
    number = len(above.others) + 1
    step = cfg.clone()
    step.defrost()
    step.DISTILLER.STUDENT = name
    step.DISTILLER.STUDENT_STAGES = []
    step.DISTILLER.PATHS = CN()  # those of the student may include assistants that do not exist yet
    step.DISTILLER.ASSISTANTS = [assistant for assistant, _ in above.others]
    if student_lr(cfg.DISTILLER.STUDENT) == cfg.SOLVER.LR:
        step.SOLVER.LR = student_lr(name)
    step.EXPERIMENT.NAME = f"{run_name(cfg).rsplit('/', 1)[0]}/assistants/{number}_{name}"
    step.EXPERIMENT.TAG = "default"
    step.freeze()
    announcement = f"training the assistant {name} first, for {cfg.SOLVER.EPOCHS} epochs"
    return _finished(step) or _trained(step, announcement, above)


def _finished(cfg: CN) -> Path | None:
    """The weights of a finished run of this config, or None; the same in all processes."""
    return on_first_process(lambda: find_finished_weights(cfg))


def _trained(cfg: CN, announcement: str, taught_by: Weights | None = None) -> Path:
    """The weights of a run of this config, which is started now, or resumed if it was interrupted."""
    print(f"{announcement}; it is kept for later runs", flush=True)
    run(cfg, resume=on_first_process(lambda: is_resumable(cfg)), taught_by=taught_by)
    path = _finished(cfg)
    assert path is not None, "a finished run has weights"
    return path
