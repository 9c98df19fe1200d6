"""A run of a config: its teacher is found, or trained first where the config says so; then the student is trained."""

from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from ..config.policy import PRETRAINED, student_lr
from ..distillers.build import needs_teacher, others_of
from ..distributed import on_first_process
from ..errors import CheckpointError, ConfigError
from ..interop.plugins import load_cfg
from ..models.pretrained import pretrained_weights, torchvision_name
from ..runs.directory import find_finished_weights, is_resumable, run_name
from .build import Weights, check_config, train


def run(cfg: CN, resume: bool = False) -> dict[str, Any]:
    """Train what `cfg` describes and return its results; a missing teacher comes first where the config says so."""
    device = check_config(cfg)
    return train(cfg, device, weights_of(cfg), resume)


def weights_of(cfg: CN) -> Weights:
    """The weights of all networks that teach, each trained first where that was not done and the config says so."""
    if not needs_teacher(cfg):
        return Weights()
    names = others_of(cfg)
    if cfg.DISTILLER.OTHER_TEACHERS:
        paths = [_other_teacher(cfg, i) for i in range(len(names))]
    else:
        paths = [assistant_weights(cfg, names, i) for i in range(len(names))]
    return Weights(teacher_weights(cfg), list(zip(names, paths, strict=True)))


def teacher_weights(cfg: CN) -> Path:
    """Where the teacher's weights lie: TEACHER_CKPT, or what the newest run of TEACHER_CFG left.

    `pretrained`, or `pretrained:TAG`, are torchvision's; so is nothing at all, where torchvision has the network.
    Trains the teacher first where there are none and TEACHER_AUTO_TRAIN is set; otherwise CheckpointError with the
    command that provides them.
    """
    d = cfg.DISTILLER
    word, _, tag = d.TEACHER_CKPT.partition(":")
    nowhere = not d.TEACHER_CKPT and not d.TEACHER_CFG
    if word == PRETRAINED or (nowhere and torchvision_name(d.TEACHER, cfg.MODEL.FAMILY)):
        return on_first_process(lambda: pretrained_weights(d.TEACHER, cfg.MODEL.FAMILY, tag, cfg.DATASET.DOWNLOAD))
    if d.TEACHER_CKPT:
        path = Path(d.TEACHER_CKPT)
        if not path.exists():
            raise CheckpointError(f"DISTILLER.TEACHER_CKPT is {d.TEACHER_CKPT}; there is no such file")
        return path
    if not d.TEACHER_CFG:
        raise CheckpointError(
            f"no weights for the teacher {d.TEACHER}: add `DISTILLER.TEACHER_CKPT PATH` to your command, "
            "or name the config that trains it as DISTILLER.TEACHER_CFG"
        )
    overrides = [
        "LOG.PREFIX", cfg.LOG.PREFIX, "DATASET.ROOT", cfg.DATASET.ROOT, "DATASET.DOWNLOAD", str(cfg.DATASET.DOWNLOAD),
        "EXPERIMENT.DEVICE", cfg.EXPERIMENT.DEVICE, "EXPERIMENT.THREADS", str(cfg.EXPERIMENT.THREADS),
    ]  # fmt: skip
    teacher_cfg = load_cfg(d.TEACHER_CFG, overrides)
    found = _finished(teacher_cfg)
    if found is not None:
        return found
    if not d.TEACHER_AUTO_TRAIN:
        prefix = "" if cfg.LOG.PREFIX == "./output" else f" LOG.PREFIX {cfg.LOG.PREFIX}"
        raise CheckpointError(
            f"the teacher {d.TEACHER} is not trained yet: run `python tools/train.py --cfg {d.TEACHER_CFG}{prefix}`, "
            "or add `DISTILLER.TEACHER_AUTO_TRAIN True` to your command"
        )
    return _trained(teacher_cfg, f"no teacher {d.TEACHER} yet: training it first from {d.TEACHER_CFG}")


def _other_teacher(cfg: CN, number: int) -> Path:
    """The weights of the other teacher of that number, found as the first one's are."""
    d = cfg.DISTILLER
    for key in ("OTHER_TEACHER_CKPTS", "OTHER_TEACHER_CFGS"):
        if d[key] and len(d[key]) != len(d.OTHER_TEACHERS):
            raise ConfigError(
                f"DISTILLER.{key} has {len(d[key])} entries and DISTILLER.OTHER_TEACHERS {len(d.OTHER_TEACHERS)}; "
                "each network needs one"
            )
    one = cfg.clone()
    one.defrost()
    one.DISTILLER.TEACHER = d.OTHER_TEACHERS[number]
    one.DISTILLER.TEACHER_CKPT = d.OTHER_TEACHER_CKPTS[number] if d.OTHER_TEACHER_CKPTS else ""
    one.DISTILLER.TEACHER_CFG = d.OTHER_TEACHER_CFGS[number] if d.OTHER_TEACHER_CFGS else ""
    return teacher_weights(one)


def assistant_weights(cfg: CN, names: list[str], number: int) -> Path:
    """The weights of assistant `number`; it is trained first where that was not done yet.

    Its run is the student's with this network for the student and the assistants before it for teachers.
    """
    name = names[number]
    step = cfg.clone()
    step.defrost()
    step.DISTILLER.STUDENT = name
    step.DISTILLER.STUDENT_STAGES = []
    step.DISTILLER.ASSISTANTS = list(names[:number])
    if student_lr(cfg.DISTILLER.STUDENT) == cfg.SOLVER.LR:
        step.SOLVER.LR = student_lr(name)
    step.EXPERIMENT.NAME = f"{run_name(cfg).rsplit('/', 1)[0]}/assistants/{number + 1}_{name}"
    step.EXPERIMENT.TAG = "default"
    step.freeze()
    return _finished(step) or _trained(step, f"training the assistant {name} first, for {cfg.SOLVER.EPOCHS} epochs")


def _finished(cfg: CN) -> Path | None:
    """The weights that a finished run of this config left, or None; the same answer in all processes."""
    return on_first_process(lambda: find_finished_weights(cfg))


def _trained(cfg: CN, announcement: str) -> Path:
    """The weights of a run of this config, which is made now, or continued where it was cut off."""
    print(f"{announcement}; it is kept for later runs", flush=True)
    run(cfg, resume=on_first_process(lambda: is_resumable(cfg)))
    path = _finished(cfg)
    assert path is not None, "a run that ended has left its weights"
    return path
