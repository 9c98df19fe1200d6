r"""Tf-KD_reg: a virtual teacher that is right with a set probability (Yuan et al., 2020, arXiv:1909.11723).

Paper: Revisiting Knowledge Distillation via Label Smoothing Regularization.

Formula: $$z_c = p_c / \tau, \quad p_y = a, \quad p_c = \frac{1 - a}{C - 1}$$ for classes $c$ other than $y$; $a$ is
CORRECT.

Code: yuanli2333/Teacher-free-Knowledge-Distillation d000ab3, my_loss_function.py:34-54.

Differs: the paper softens the student too; the released code does not, so the method's temperature is 1 by it, and is
TEMPERATURE, with SMOOTHED.TEMPERATURE 1, by the paper. Their divergence is a mean over batch and classes, so KD_WEIGHT
is their alpha * multiplier / classes.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, Limit
from ..data import Batch
from .base import TEACHERS
from .without_network import WithoutNetwork


def virtual_probabilities(target: Tensor, num_classes: int, correct: float) -> Tensor:
    """`correct` for the label and the same for all other classes (equation 9); (B,) -> (B, C), float32."""
    others = (1 - correct) / (num_classes - 1)
    probabilities = torch.full((len(target), num_classes), others, device=target.device)
    return probabilities.scatter(1, target[:, None], correct)


@TEACHERS.register("smoothed")
class Smoothed(WithoutNetwork):
    """The same logits for every sample of a class: the virtual teacher's probabilities, divided by a temperature."""

    config = CN(
        {
            "CORRECT": 0.99,  # probability of the label
            "TEMPERATURE": 20.0,  # divides the probabilities, before any temperature of the method
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {
        "CORRECT": Limit("in (0, 1]", lambda v: 0 < v <= 1), "TEMPERATURE": A_TEMPERATURE,
    }  # fmt: skip

    def __init__(self, *, correct: float, temperature: float, num_classes: int):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"CORRECT is {correct}; there is a single class")
        self.correct, self.temperature, self.num_classes = correct, temperature, num_classes

    def target_logits(self, batch: Batch) -> Tensor:
        return virtual_probabilities(batch.target, self.num_classes, self.correct) / self.temperature
