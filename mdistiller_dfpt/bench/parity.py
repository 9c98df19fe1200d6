"""Whether two implementations compute the same: a ratio of their times would otherwise be meaningless."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..losses.term import total
from .mdistiller import Mdistiller

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-3
"""Relative, in float32. Rounding alone moves a loss on distances between samples by 2e-5 from its value in float64, and
the gradients of untrained networks by up to 9e-3; two implementations, which round alike, differ by up to 2e-4."""
NEGLIGIBLE = 1e-3
"""Of the norm of the whole gradient: smaller ones are compared with this, since they may be rounding errors alone."""


def refuse_unlike(its: Mdistiller) -> None:
    """ConfigError if its loss or its gradients of the student are not ours."""
    trainer = its.variant.trainer
    trainer.training.optimizer.zero_grad()
    its.trainer.optimizer.zero_grad()
    _, terms = trainer.distiller(its.variant.batch)
    mine, other = total(terms), its.loss()
    off = abs(mine.item() - other.item()) / max(abs(other.item()), 1e-12)
    if not off <= LOSS_TOLERANCE:
        raise ConfigError(
            f"--against: no ratio, because the losses differ: {mine.item():.7g} here, {other.item():.7g} there"
        )
    mine.backward()
    other.backward()
    worst = max(relative(gradients(trainer.distiller.student), gradients(its.student)))
    if not worst <= GRADIENT_TOLERANCE:
        raise ConfigError(f"--against: no ratio, because the student's gradients differ by {worst:.1e} (relative)")


def gradients(network: nn.Module) -> dict[str, Any]:
    """The gradients of a network by parameter."""
    return {name: p.grad for name, p in network.named_parameters()}


def relative(ours: dict[str, Any], its: dict[str, Any]) -> Iterable[float]:
    """The relative difference of each gradient; infinite if only one side has it, or if it is not finite."""
    least = NEGLIGIBLE * torch.cat([b.flatten() for b in its.values() if b is not None]).norm()
    for name, a in ours.items():
        b = its[name]
        if a is None or b is None:
            yield 0.0 if a is b else float("inf")
        else:
            off = ((a - b).norm() / b.norm().clamp(min=least)).item()
            yield off if math.isfinite(off) else float("inf")
