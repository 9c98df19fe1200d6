"""Methods on the student's own logits, and on classes that are divided."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mdistiller_dfpt.distillers.uskd import uskd_losses

from ...golden import labels, normal
from .cases import Found, case, found, learned, unit


def uskd(weights: tuple[float, float, float], target: Tensor) -> Found:
    student, pooled = learned(normal(1), unit(80, 8, 32))
    terms = uskd_losses(student, pooled @ unit(81, 100, 32).T, target, "log_probability")
    value = sum(weight * term for weight, term in zip(weights, terms, strict=True) if weight)
    return found(value, [student, pooled] if weights[2] else [student])


def mixed() -> Tensor:
    other = torch.from_numpy(np.random.default_rng(82).integers(0, 100, 8))
    kept = torch.from_numpy(np.random.default_rng(83).uniform(0.1, 0.9, (8, 1)))
    return kept * F.one_hot(labels(), 100) + (1 - kept) * F.one_hot(other, 100)


case("USKD", "uskd_a0.1_b0.1_m0.1")(lambda: uskd((0.1, 0.1, 0.1), labels()))
case("USKD", "uskd_a1_b0.1_m0.005")(lambda: uskd((1.0, 0.1, 0.005), labels()))
case("USKD", "uskd_non_target")(lambda: uskd((0.0, 1.0, 0.0), labels()))
case("USKD", "uskd_mixed")(lambda: uskd((1.0, 0.1, 0.005), mixed()))
