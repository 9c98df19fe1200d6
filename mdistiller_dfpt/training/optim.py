"""The optimiser, and the learning rate as a function of progress."""

import math

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from ..distillers import Distiller
from .dot import TwoMomentaSGD


def learning_rate(cfg: CN, progress: float) -> float:
    """SOLVER's learning rate after `progress` epochs (a step's own fraction included), before any group's factor.

    A decay stage s takes effect with the first step after s whole epochs.
    """
    s = cfg.SOLVER
    if s.SCHEDULE == "cosine":
        rate = 0.5 * s.LR * (1 + math.cos(math.pi * min(progress / s.EPOCHS, 1.0)))
    else:
        rate = s.LR * s.LR_DECAY_RATE ** sum(progress >= stage for stage in s.LR_DECAY_STAGES)
    if progress < s.WARMUP_EPOCHS:
        rate *= progress / s.WARMUP_EPOCHS
    return rate


def build_optimizer(cfg: CN, distiller: Distiller) -> torch.optim.Optimizer:
    """SGD over the distiller's parameter groups; each keeps its `lr_factor` beside its learning rate."""
    groups = [g for g in distiller.parameter_groups() if g["params"]]
    s = cfg.SOLVER
    if s.TRAINER == "dot":
        return TwoMomentaSGD(groups, lr=s.LR, momentum=s.MOMENTUM, delta=s.DOT.DELTA, weight_decay=s.WEIGHT_DECAY)
    return torch.optim.SGD(
        groups, lr=s.LR, momentum=s.MOMENTUM, weight_decay=s.WEIGHT_DECAY, nesterov=s.NESTEROV and s.MOMENTUM > 0,
        fused=True,
    )  # fmt: skip


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group the schedule's rate times its own factor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * group["lr_factor"])
        else:
            group["lr"] = rate * group["lr_factor"]


def keep_rates_on_device(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let each group's learning rate be a tensor that a captured step reads where it lies."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
