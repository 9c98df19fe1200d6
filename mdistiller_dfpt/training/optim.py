"""Registries of optimisers and schedules, and their construction from a config."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from yacs.config import CfgNode as CN

from ..config.keywords import keywords
from ..config.trainers import TRAINERS
from ..distillers import Method
from ..distillers.choice import choice
from ..errors import ConfigError, PluginError
from ..registry import Registry
from .dot import TwoMomentaSGD
from .several_momenta import SeveralMomentaSGD
from .three_momenta import ThreeMomentaSGD

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """The values of SOLVER that a schedule or an optimiser can use."""

    epochs: int
    lr: float
    lr_decay_stages: list[int]
    lr_decay_rate: float
    momentum: float
    nesterov: bool
    weight_decay: float
    dot_delta: float
    deepkd_delta_tog: float
    deepkd_delta_tcg: float
    deepkd_delta_ncg: float
    deepkd_as_released: bool
    lr_min: float = 0.0

    @classmethod
    def of(cls, cfg: CN) -> "Plan":
        """The plan of a config."""
        values = keywords(cfg.SOLVER)
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


SCHEDULES: Registry[Callable[[float, Plan], float]] = Registry("schedule", "SOLVER.SCHEDULE")
"""Maps SOLVER.SCHEDULE to `(progress in epochs, plan) -> learning rate`, before warm-up and per-group factors."""

OPTIMIZERS: Registry[Callable[[Groups, Plan], torch.optim.Optimizer]] = Registry("optimiser", "SOLVER.TYPE")
"""Maps SOLVER.TYPE to `(parameter groups, plan) -> optimiser`; the loop sets the `lr` of each group at every step."""


@SCHEDULES.register("step")
def step(progress: float, plan: Plan) -> float:
    """LR_DECAY_RATE after each of LR_DECAY_STAGES; a stage s takes effect with the first step after s full epochs."""
    return plan.lr * plan.lr_decay_rate ** sum(progress >= stage for stage in plan.lr_decay_stages)


@SCHEDULES.register("cosine")
def cosine(progress: float, plan: Plan) -> float:
    """Half a cosine to LR_MIN over all epochs (Loshchilov & Hutter, 2017, arXiv:1608.03983), without restarts."""
    height = 0.5 * (1 + math.cos(math.pi * min(progress / plan.epochs, 1.0)))
    return plan.lr_min + (plan.lr - plan.lr_min) * height


@OPTIMIZERS.register("SGD")
def sgd(groups: Groups, plan: Plan) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum, fused."""
    return torch.optim.SGD(
        groups, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay,
        nesterov=plan.nesterov and plan.momentum > 0, fused=True,
    )  # fmt: skip


@OPTIMIZERS.register("AdamW")
def adamw(groups: Groups, plan: Plan) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019, arXiv:1711.05101), betas (0.9, 0.999), fused.

    Biases and the weights of normalisation layers, all parameters of one dimension, do not decay, as in the recipes for
    transformers (Touvron et al., 2021, DeiT), which exempt position embeddings and class tokens as well; these decay.
    """
    decayed = [{**g, "params": [p for p in g["params"] if p.ndim > 1]} for g in groups]
    others = [{**g, "params": [p for p in g["params"] if p.ndim <= 1], "weight_decay": 0.0} for g in groups]
    parts = [g for g in (*decayed, *others) if g["params"]]
    return torch.optim.AdamW(parts, lr=plan.lr, weight_decay=plan.weight_decay, fused=True)


def two_momenta(groups: Groups, plan: Plan) -> TwoMomentaSGD:
    """That of SOLVER.TRAINER dot."""
    return TwoMomentaSGD(groups, plan.lr, plan.momentum, plan.dot_delta, plan.weight_decay)


def three_momenta(groups: Groups, plan: Plan) -> ThreeMomentaSGD:
    """That of SOLVER.TRAINER deepkd."""
    deltas = (plan.deepkd_delta_tog, plan.deepkd_delta_tcg, plan.deepkd_delta_ncg)
    return ThreeMomentaSGD(groups, plan.lr, plan.momentum, deltas, plan.weight_decay, plan.deepkd_as_released)


OF_TRAINERS: dict[str, Callable[[Groups, Plan], SeveralMomentaSGD]] = {"dot": two_momenta, "deepkd": three_momenta}
"""The optimisers of the trainers that have one of their own."""


def _called(function: Callable[..., Any], first: Any, plan: Plan, words: str) -> Any:
    """What a user's function returns; PluginError if it does not take these arguments."""
    try:
        return function(first, plan)
    except TypeError as e:
        if e.__traceback__ is not None and e.__traceback__.tb_next is None:  # raised by the call itself
            raise PluginError(function, f"it is called as {words} ({e})") from None
        raise


def build_schedule(cfg: CN) -> Callable[[float], float]:
    """The learning rate as a function of progress in epochs, which may be fractional; ConfigError if it is to rise."""
    schedule, plan, warmup = SCHEDULES[cfg.SOLVER.SCHEDULE], Plan.of(cfg), cfg.SOLVER.WARMUP_EPOCHS
    if cfg.SOLVER.SCHEDULE != "step" and plan.lr_min > plan.lr:
        raise ConfigError(f"SOLVER.LR_MIN is {plan.lr_min:g}; SOLVER.LR, from which the rate falls, is {plan.lr:g}: set"
                          " LR_MIN to at most that")  # fmt: skip

    def rate(progress: float) -> float:
        factor = progress / warmup if progress < warmup else 1.0
        value = _called(schedule, progress, plan, "(progress, plan)")
        if not isinstance(value, Real) or not (math.isfinite(value) and float(value) >= 0):
            raise PluginError(
                schedule, f"returned {value!r} after {progress:.4g} epochs; a schedule must return a learning rate >= 0"
            )
        return float(value) * factor

    return rate


def build_optimizer(cfg: CN, distiller: Method) -> torch.optim.Optimizer:
    """The optimiser of SOLVER.TYPE for the parameter groups, or SGD with several momenta if SOLVER.TRAINER has its own.

    Each group keeps its `lr_factor` in addition to its learning rate.
    """
    groups, plan = [g for g in distiller.parameter_groups() if g["params"]], Plan.of(cfg)
    kind = TRAINERS[cfg.SOLVER.TRAINER]
    if kind.needs_parts and not distiller.has_parts:
        raise ConfigError(
            f"SOLVER.TRAINER is {cfg.SOLVER.TRAINER}; {choice(cfg).label} matches the target and the other classes at"
            " once, and it has a momentum for each: use methods that have them apart (`has_parts`), or dot"
        )
    if kind.own_optimiser:
        return OF_TRAINERS[cfg.SOLVER.TRAINER](groups, plan)
    make = OPTIMIZERS[cfg.SOLVER.TYPE]
    optimizer = _called(make, groups, plan, "(groups, plan)")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise PluginError(make, f"returned {type(optimizer).__name__}; it must return a torch.optim.Optimizer")
    if not all("lr_factor" in group for group in optimizer.param_groups):
        raise PluginError(make, "its groups lack the `lr_factor` of those it was given; pass `groups` to the optimiser")
    if _needs_more_than_gradients(optimizer):
        raise PluginError(make, f"{type(optimizer).__name__} needs a closure or second derivatives, and the loop calls "
                                "`step()` after one backward pass: choose another optimiser")  # fmt: skip
    return optimizer


def _needs_more_than_gradients(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step` requires arguments (LBFGS), a graph of the gradients (timm), or is one of two (SAM)."""
    required = [p for p in inspect.signature(optimizer.step).parameters.values() if p.default is p.empty]
    takes_arguments = any(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in required)
    return takes_arguments or getattr(optimizer, "is_second_order", False) or hasattr(optimizer, "first_step")


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of each group to the schedule's value times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def set_mode(optimizer: torch.optim.Optimizer, training: bool) -> None:
    """Call `train()` or `eval()` of an optimiser that has them, whose evaluated weights are not those it trains.

    Such are the schedule-free ones (Defazio et al., 2024, arXiv:2405.15682).
    """
    switch = getattr(optimizer, "train" if training else "eval", None)
    if callable(switch):
        switch()


_NOT_SHOWN = ("params", "lr", "lr_factor", "initial_lr", "fused", "foreach")


def in_words(optimizer: torch.optim.Optimizer) -> str:
    """An optimiser and the arguments it was made with, where they are not its defaults, for the record of a run."""
    group = optimizer.param_groups[0]
    known = {name: p.default for name, p in inspect.signature(type(optimizer).__init__).parameters.items()}
    values = [
        f"{key.replace('_', ' ')} {value}" for key, value in group.items()
        if key not in _NOT_SHOWN and key in known and value != known[key]
    ]  # fmt: skip
    return ", ".join([type(optimizer).__name__, *values])
