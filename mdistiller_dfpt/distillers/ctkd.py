r"""CTKD: a temperature learned adversarially, with a curriculum (Li et al., 2023, arXiv:2211.16231).

Paper: Curriculum Temperature for Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^T), \quad \tau = \tau_0 + R \, \sigma(\theta)$$ where the gradient of
$\theta$ is multiplied by $-\frac{1}{2} (1 - \cos(\pi \min(e, E) / E))$ in epoch $e$, so that $\theta$ ascends the loss;
$E$ is LOOPS.

Code: zhengli97/CTKD 7d52522, models/temp_global.py:13-36, helper/loops.py:133-141, train_student.py:186-202.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE
from ..losses import Terms, distillation, label
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .kd import kd_loss


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Identity whose gradient is multiplied by `scale`; a negative scale turns descent into ascent."""
    return _ScaleGradient.apply(x, scale)


def adversity(epoch: int, loops: int) -> float:
    """The curriculum: from 0 before training along a cosine to -1 at epoch `loops`, then constant."""
    return -0.5 * (1 - math.cos(math.pi * min(epoch, loops) / loops))


@DISTILLERS.register("CTKD")
class CTKD(Distiller):
    """Cross-entropy, and `kd_loss` with one temperature for all samples, between START and START + RANGE."""

    config = CN(
        {
            "START": 1.0,
            "RANGE": 20.0,
            "LOOPS": 10,  # epochs until the temperature is learned fully adversarially
            "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9}),
        }
    )
    limits = {
        "START": POSITIVE, "RANGE": POSITIVE, "LOOPS": AT_LEAST_ONE,
        "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, start: float, range: float, loops: int, ce_weight: float,
        kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.kd_weight = ce_weight, kd_weight
        self.start, self.range, self.loops = start, range, loops
        self.global_temperature = nn.Parameter(torch.ones(()))

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        # The temperature ascends the loss that the student descends
        parameter = scale_gradient(self.global_temperature, adversity(batch.epoch, self.loops))
        temperature = self.start + self.range * parameter.sigmoid()
        self.log("temperature", temperature)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "kd": distillation(kd_loss(student.logits, teacher.logits, temperature), self.kd_weight),
        }
