"""Builds a trainer from a config: device, data, networks, distiller; checks that cost least come first."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from ..config.policy import without_effect
from ..data import Data, build_data
from ..distillers import build_distiller
from ..distillers.choice import choice
from ..distributed import pick_device, rank, world_size
from ..models import StagedModel
from ..runs.directory import check_writable
from ..runs.saving import seed_process
from ..runs.weights import load_into
from ..training.optim import OPTIMIZERS, SCHEDULES
from ..training.out_of_memory import memory_explained
from ..training.precision import has_bfloat16, measured_precision
from ..training.trainer import Trainer
from .check_shards import check_shards
from .networks import Role, build_network, check_networks, name_of


@dataclass(frozen=True)
class Weights:
    """The trained weights of a run's teacher network, and those of its further networks by name, in order."""

    teacher: Path | None = None
    others: Sequence[tuple[str, Path]] = field(default_factory=tuple)


def check_config(cfg: CN) -> torch.device:
    """The device of a run, after all checks that need no data."""
    check_writable(cfg)
    device = pick_device(cfg.EXPERIMENT.DEVICE)
    if cfg.EXPERIMENT.THREADS:
        torch.set_num_threads(cfg.EXPERIMENT.THREADS)
    if device.type == "cpu" and "bf16" in (cfg.SOLVER.AMP, cfg.SOLVER.AMP_STUDENT) and not has_bfloat16():
        print("warning: this CPU computes bfloat16 in software, many times slower than float32: use SOLVER.AMP none",
              file=sys.stderr)  # fmt: skip
    for line in without_effect(cfg):
        print(line)
    SCHEDULES[cfg.SOLVER.SCHEDULE]  # ConfigError if it is unknown
    OPTIMIZERS[cfg.SOLVER.TYPE]
    chosen = choice(cfg)
    for key in ("ASSISTANTS", "OTHER_TEACHERS") if chosen.is_taught else ():
        if cfg.DISTILLER[key] and key != chosen.others_key:
            print(f"DISTILLER.{key} {cfg.DISTILLER[key]} has no effect here: the teacher is of kind {chosen.kind}")
    check_networks(cfg)
    return device


def train(cfg: CN, device: torch.device, weights: Weights, resume: bool = False) -> dict[str, Any]:
    """Train with a validated config and these teacher weights, and return the results."""
    with memory_explained(cfg):
        return build_trainer(cfg, build_data(cfg, device), weights, again=resume).fit(resume)


def build_trainer(cfg: CN, data: Data, weights: Weights, *, again: bool = False) -> Trainer:
    """The trainer of a run. `again`: there is an earlier run of this config."""
    # Initial weights depend only on the seed, not on the method or on what was built before
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.SOLVER.SEED)
        student = build_network(cfg, "student", "", data.num_classes, data.image_shape)
    teacher = None if weights.teacher is None else load_network(cfg, "teacher", weights.teacher, data)
    if world_size() > 1:
        check_shards(cfg)
    cfg = measured_precision(cfg, student, teacher, data, again=again)
    torch.manual_seed(cfg.SOLVER.SEED)
    distiller = build_distiller(
        cfg, student, teacher, data.num_train, image_shape=data.image_shape,
        others=[load_network(cfg, "other", path, data, name) for name, path in weights.others],
    )  # fmt: skip
    if rank() > 0:  # dropout and the like are to differ from the first process's
        seed_process(cfg.SOLVER.SEED)
    return Trainer(cfg, distiller, data)


def load_network(cfg: CN, role: Role, weights: Path, data: Data, name: str = "") -> StagedModel:
    """The network for a role with these weights; CheckpointError if they are of another network."""
    network = build_network(cfg, role, name, data.num_classes, data.image_shape)
    load_into(network, weights, f"{name or name_of(cfg, role)} with {data.num_classes} classes")
    return network
