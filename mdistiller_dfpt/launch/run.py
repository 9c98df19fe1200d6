"""From a config to a run: device, data, networks, distiller, trainer, in the order in which faults are cheapest."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode as CN

from ..config import load_cfg
from ..config_keys import PRETRAINED, student_lr, without_effect
from ..data import Data, build_data, pick_device
from ..distillers import Distiller, build_distiller
from ..distillers.build import AMP_DTYPES, assistant_names, methods_of, needs_teacher
from ..distributed import agreed
from ..errors import CheckpointError
from ..models import StagedModel
from ..models.pretrained import pretrained_weights, torchvision_name
from .checkpoint import load_into
from .evaluate import evaluate
from .memory import memory_explained
from .networks import build_network, build_on_meta
from .precision import has_bfloat16, settled
from .run_dir import check_writable, find_finished_weights, is_resumable, run_name
from .saving import random_states
from .together import fit_together, refuse_apart, remember_passes, share
from .trainer import Trainer

Weights = tuple[Path | None, dict[str, Path]]
"""The teacher's, and those of the assistants by their names."""


def run(cfg: CN, resume: bool = False) -> dict:
    """Train what `cfg` describes and return its results; a missing teacher comes first where the config says so."""
    device = _ready(cfg)
    weights, between = _weights(cfg)
    with memory_explained(cfg):
        return build_trainer(cfg, build_data(cfg, device), weights, between, again=resume).fit(resume)


def run_together(cfgs: Sequence[CN], resume: bool = False) -> list[dict | None]:
    """Train what these describe in one process, in turn, on the same batches and on one pass of equal teachers."""
    refuse_apart(cfgs)
    devices = [_ready(cfg) for cfg in cfgs]
    weights = [_weights(cfg) for cfg in cfgs]
    with memory_explained(cfgs[0]):
        data, teachers, trainers, random = share(build_data(cfgs[0], devices[0])), {}, [], []
        for cfg, (path, between) in zip(cfgs, weights, strict=True):
            d = cfg.DISTILLER
            key = (path, d.TEACHER, str(d.TEACHER_STAGES), d.TEACHER_FOLD_BN)
            if path is not None and key not in teachers:
                teachers[key] = load_network(cfg, d.TEACHER, path, data)
            trainers.append(build_trainer(cfg, data, path, between, again=resume, teacher=teachers.get(key)))
            random.append(random_states())
        for teacher in teachers.values():
            remember_passes(teacher)
        return fit_together(trainers, random, resume)


def _ready(cfg: CN) -> torch.device:
    """The device of a run, once what can be refused without data is refused."""
    check_writable(cfg)
    device = pick_device(cfg)
    if cfg.EXPERIMENT.THREADS:
        torch.set_num_threads(cfg.EXPERIMENT.THREADS)
    if device.type == "cpu" and "bf16" in (cfg.SOLVER.AMP, cfg.SOLVER.AMP_STUDENT) and not has_bfloat16():
        print("warning: this CPU computes bfloat16 in software, many times slower than float32: use SOLVER.AMP none",
              file=sys.stderr)  # fmt: skip
    for line in without_effect(cfg):
        print(line)
    teachers = [cfg.DISTILLER.TEACHER] if needs_teacher(cfg) else []
    for name in (cfg.DISTILLER.STUDENT, *teachers, *assistant_names(cfg)):
        build_on_meta(cfg, name)
    return device


def _weights(cfg: CN) -> Weights:
    """Of all networks that teach; those that are missing are trained first where the config says so."""
    teacher, assistants = teacher_weights(cfg) if needs_teacher(cfg) else None, assistant_names(cfg)
    return teacher, {name: assistant_weights(cfg, assistants, i) for i, name in enumerate(assistants)}


def build_trainer(
    cfg: CN, data: Data, weights: Path | None, assistants: Mapping[str, Path] | None = None, *, again: bool = False,
    teacher: StagedModel | None = None,
) -> Trainer:  # fmt: skip
    """The trainer of a run; `weights` are the teacher's, `assistants` the names and weights of those after it.

    `again`: a run of this config was there before. `teacher`: it, where it is loaded already.
    """
    # Initial weights depend on the seed alone, not on the method or on what was built before
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.SOLVER.SEED)
        student = build_network(cfg, cfg.DISTILLER.STUDENT, data.num_classes, data.image_shape)
    if teacher is None and weights is not None:
        teacher = load_network(cfg, cfg.DISTILLER.TEACHER, weights, data)
    cfg = settled(cfg, student, teacher, data, again=again)
    torch.manual_seed(cfg.SOLVER.SEED)
    distiller = build_distiller(
        cfg, student, teacher, data.num_train, image_shape=data.image_shape,
        assistants=[load_network(cfg, name, path, data) for name, path in (assistants or {}).items()],
    )  # fmt: skip
    return Trainer(cfg, distiller, data)


def load_network(cfg: CN, name: str, weights: Path, data: Data) -> StagedModel:
    """The network `name` with these weights; CheckpointError where they are of another network."""
    network = build_network(cfg, name, data.num_classes, data.image_shape)
    load_into(network, weights, f"{name} with {data.num_classes} classes")
    return network


def evaluate_checkpoint(cfg: CN, name: str, weights: Path) -> dict[str, float]:
    """{"top1": %, "top5": %} of a checkpoint on the test set of `cfg`, in its precision."""
    device = pick_device(cfg)
    if not weights.exists():
        raise CheckpointError(f"{weights}: no such checkpoint")
    build_on_meta(cfg, name)
    data = build_data(cfg, device)
    layout = torch.channels_last if cfg.SOLVER.CHANNELS_LAST else torch.contiguous_format
    network = (
        load_network(cfg, name, weights, data) if name != cfg.DISTILLER.STUDENT else load_deployed(cfg, weights, data)
    )
    cfg = settled(cfg, network, None, data, again=True)
    network = Distiller(network.to(device, memory_format=layout))
    network.set_precision(None, AMP_DTYPES[cfg.SOLVER.AMP_STUDENT or cfg.SOLVER.AMP])
    return evaluate(network, data.test)["student"]


def load_deployed(cfg: CN, weights: Path, data: Data) -> nn.Module:
    """What a run of `cfg` deploys, with these weights: its student, or that with what the method adds to it."""
    student = build_network(cfg, cfg.DISTILLER.STUDENT, data.num_classes, data.image_shape)
    network = student
    if not all(method.deploys_student_alone for method in methods_of(cfg).values()):
        teacher = build_network(cfg, cfg.DISTILLER.TEACHER, data.num_classes, data.image_shape)
        network = build_distiller(cfg, student, teacher, data.num_train, image_shape=data.image_shape).deployed
    load_into(network, weights, f"{cfg.DISTILLER.STUDENT} with {data.num_classes} classes")
    return network


def assistant_weights(cfg: CN, names: Sequence[str], number: int) -> Path:
    """The weights of assistant `number`; it is trained first where that was not done yet.

    Its run is the student's with this network for the student and the assistants before it for teachers.
    """
    name = names[number]
    step = cfg.clone()
    step.defrost()
    step.DISTILLER.STUDENT = name
    if student_lr(cfg.DISTILLER.STUDENT) == cfg.SOLVER.LR:
        step.SOLVER.LR = student_lr(name)
    for method in methods_of(cfg):
        step[method].ASSISTANTS = list(names[:number])
    step.EXPERIMENT.NAME = f"{run_name(cfg).rsplit('/', 1)[0]}/assistants/{number + 1}_{name}"
    step.EXPERIMENT.TAG = "default"
    step.freeze()
    return _finished(step) or _trained(step, f"training the assistant {name} first, for {cfg.SOLVER.EPOCHS} epochs")


def _finished(cfg: CN) -> Path | None:
    """The weights that a finished run of this config left, or None; the same answer in all processes."""
    return agreed(lambda: find_finished_weights(cfg))


def _trained(cfg: CN, announcement: str) -> Path:
    """The weights of a run of this config, which is made now, or continued where it was cut off."""
    print(f"{announcement}; it is kept for later runs", flush=True)
    run(cfg, resume=agreed(lambda: is_resumable(cfg)))
    return _finished(cfg)


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
        return agreed(lambda: pretrained_weights(d.TEACHER, cfg.MODEL.FAMILY, tag, cfg.DATASET.DOWNLOAD))
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
