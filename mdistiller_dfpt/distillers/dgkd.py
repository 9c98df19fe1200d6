"""DGKD: taught by the teacher and all assistants at once (Son et al., 2021, arXiv:2009.08825)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config_keys import NOT_NEGATIVE
from ..data import Batch
from ..data.randomness import random_bits
from .assistants import ASSISTANT_LIMITS
from .base import DISTILLERS, Output, as_output
from .kd import kd_loss
from .logit import LOGIT_LIMITS, LogitDistiller, logit_node


def dgkd_loss(student: Tensor, teachers: Sequence[Tensor], temperature: float) -> Tensor:
    """Sum of `kd_loss` with each teacher's logits (B, C) (equation 5)."""
    return sum((kd_loss(student, t, temperature) for t in teachers), student.new_zeros(()))


@DISTILLERS.register("DGKD")
class DGKD(LogitDistiller):
    """Cross-entropy and `dgkd_loss`; in each step DROP of the teachers, drawn at random, are left out."""

    config = logit_node(4.0, ce=0.1, kd=0.9, ASSISTANTS=[], DROP=1)
    limits = {**LOGIT_LIMITS, **ASSISTANT_LIMITS, "DROP": NOT_NEGATIVE}
    needs = ("assistants",)
    why_eager = "the host draws which teachers are left out of a step"

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, temperature: float, assistants: Sequence[nn.Module],
        drop: int, ce_weight: float, kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher, temperature=temperature, ce_weight=ce_weight, kd_weight=kd_weight)
        self.assistants = nn.ModuleList(assistants).requires_grad_(False).eval()
        # At least one teacher stays, as with no assistant there is but one
        self.drop = min(drop, len(assistants))

    def frozen(self) -> list[nn.Module]:
        return [*super().frozen(), *self.assistants]

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        with torch.no_grad(), self.precision(batch.image):
            outputs = [as_output(network(batch.image)) for network in self.assistants]
        logits = [teacher.logits, *(o.logits for o in outputs)]
        kept = draw(len(logits), len(logits) - self.drop, batch.epoch, batch.step)
        return dgkd_loss(student.logits, [logits[i] for i in kept], self.temperature)


def draw(count: int, kept: int, epoch: int, step: int) -> list[int]:
    """`kept` of the numbers 0 .. count - 1, a function of epoch and step, so that a resumed run draws the same."""
    keys = random_bits(torch.arange(count), step, epoch, stream=3)
    return keys.argsort()[:kept].tolist()
