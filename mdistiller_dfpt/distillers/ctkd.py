"""CTKD: a temperature learned against the student, ever more so (Li et al., 2023, arXiv:2211.16231)."""

import math

import torch
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config_keys import AT_LEAST_ONE, POSITIVE
from ..data import Batch
from .base import DISTILLERS, Output
from .kd import kd_loss
from .logit import LOGIT_LIMITS, LogitDistiller


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x, whose gradient is multiplied by `scale`; a negative one turns descent into ascent."""
    return _ScaleGradient.apply(x, scale)


def adversity(epoch: int, loops: int) -> float:
    """The curriculum: 0 before training, falling along a cosine to -1 at epoch `loops`, and -1 from then on."""
    return -0.5 * (1 - math.cos(math.pi * min(epoch, loops) / loops))


@DISTILLERS.register("CTKD")
class CTKD(LogitDistiller):
    """Cross-entropy and `kd_loss` at one temperature for all samples, in START to START + RANGE."""

    config = CN(
        {
            "START": 1.0,
            "RANGE": 20.0,
            "LOOPS": 10,  # epochs until the temperature's learning is fully adversarial
            "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9}),
        }
    )
    limits = {
        "START": POSITIVE, "RANGE": POSITIVE, "LOOPS": AT_LEAST_ONE,
        **{k: v for k, v in LOGIT_LIMITS.items() if k != "TEMPERATURE"},
    }  # fmt: skip
    uses_epoch = True

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, start: float, range: float, loops: int, ce_weight: float,
        kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher, temperature=0.0, ce_weight=ce_weight, kd_weight=kd_weight)
        self.start, self.range, self.loops = start, range, loops
        self.global_temperature = nn.Parameter(torch.ones(()))

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        parameter = scale_gradient(self.global_temperature, adversity(batch.epoch, self.loops))
        temperature = self.start + self.range * parameter.sigmoid()
        self.log("temperature", temperature)
        return kd_loss(student.logits, teacher.logits, temperature)
