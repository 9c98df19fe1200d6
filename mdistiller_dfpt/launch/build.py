"""Builds a trainer from a config: device, networks, distiller; checks that cost least come first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from ..data import DATASETS, Data
from ..distillers import build_distiller
from ..distillers.choice import choice
from ..distributed import pick_device, rank, world_size
from ..interop.plugins import sources
from ..models import StagedModel
from ..models.bfloat16 import has_bfloat16
from ..runs.directory import check_writable
from ..runs.hashing import state_hash
from ..runs.identity import Identity, identity_of
from ..runs.saving import seed_process
from ..runs.weights import load_into
from ..training.optim import OPTIMIZERS, build_schedule
from ..training.speed import fast_settings
from ..training.trainer import Trainer
from .check_shards import check_shards
from .initial import start_from, start_of
from .networks import DataShape, Role, build_network, check_networks, name_of, own_normalisations

OF_THE_OTHER = 1_000_000_007
"""Added to the seed of the initial weights of a network beside the student; equal networks must not stay equal."""


@dataclass(frozen=True)
class Trained:
    """A trained network that teaches."""

    name: str
    weights: Path
    network: StagedModel
    sha256: str  # of its weights


_threads: tuple[int, int] | None = None  # of the program, and of the config that changed them


def use_threads(cfg: CN) -> None:
    """Use EXPERIMENT.THREADS, or, after a run that did, the number of before: it changes the last bits of results."""
    global _threads
    before, now = _threads or (0, 0), torch.get_num_threads()
    own = before[0] if now == before[1] else now  # the program may have set it since
    wanted = cfg.EXPERIMENT.THREADS or own
    _threads = (own, wanted) if wanted != own else None
    if wanted != now:
        torch.set_num_threads(wanted)


def check_config(cfg: CN) -> torch.device:
    """The device of a run, after all checks that need no data."""
    check_writable(cfg)
    device = pick_device(cfg.EXPERIMENT.DEVICE)
    use_threads(cfg)
    if device.type == "cpu" and "bf16" in (cfg.SOLVER.AMP, cfg.SOLVER.AMP_STUDENT) and not has_bfloat16():
        print("SOLVER.AMP bf16: this CPU has no bfloat16 instructions: numbers as in bfloat16, speed as in float32",
              flush=True)  # fmt: skip
    DATASETS[cfg.DATASET.TYPE]  # ConfigError if it is unknown
    build_schedule(cfg)
    OPTIMIZERS[cfg.SOLVER.TYPE]
    choice(cfg)
    check_networks(cfg)
    return device


def identity_of_run(cfg: CN, data: Data, trained: Sequence[Trained], run: Path | None = None) -> Identity:
    """What a run computes that these networks teach; `run`: the one that it continues, if it is known."""
    identity = identity_of(cfg, data, [(t.name, t.sha256) for t in trained], sources(cfg))
    if own := own_normalisations(cfg, data.normalisation):
        identity["normalisation"] = own
    if start := start_of(cfg, run):
        identity["start"] = start
    return identity


def build_trainer(
    cfg: CN, data: Data, trained: Sequence[Trained], identity: Identity, *, before: Path | None = None
) -> Trainer:
    """The trainer of a run: `trained` are its teacher, then its further networks; `before`: the run that it continues.

    Initial weights depend only on the seed, not on the method or on what was built before.
    """
    student = _untrained(cfg, "student", data, cfg.SOLVER.SEED)
    if before is None:
        start_from(cfg, student, data)
    teacher = trained[0].network if trained else None
    if teacher is None and choice(cfg).starts_untrained:
        teacher = _untrained(cfg, "teacher", data, cfg.SOLVER.SEED + OF_THE_OTHER)
    if world_size() > 1:
        check_shards(cfg)
    cfg = fast_settings(cfg, student, teacher, data, before=before)
    torch.manual_seed(cfg.SOLVER.SEED)
    distiller = build_distiller(
        cfg, student, teacher, data.num_train, image_shape=data.image_shape, others=[t.network for t in trained[1:]]
    )
    if rank() > 0:  # dropout and the like are to differ from the first process's
        seed_process(cfg.SOLVER.SEED)
    return Trainer(cfg, distiller, data, identity)


def _untrained(cfg: CN, role: Role, data: Data, seed: int) -> StagedModel:
    """The network for a role, with the initial weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(cfg, role, "", data.num_classes, data.image_shape, data.normalisation)


def load_trained(cfg: CN, role: Role, weights: Path, data: Data, name: str = "") -> Trained:
    """The network for a role with these weights; CheckpointError if they are of another network."""
    network = load_network(cfg, role, weights, data, name)
    return Trained(name or name_of(cfg, role), weights, network, state_hash(network.state_dict()))


def load_network(cfg: CN, role: Role, weights: Path, data: DataShape, name: str = "") -> StagedModel:
    """The network alone."""
    network = build_network(cfg, role, name, data.num_classes, data.image_shape, data.normalisation)
    load_into(network, weights, f"{name or name_of(cfg, role)} with {data.num_classes} classes")
    return network
