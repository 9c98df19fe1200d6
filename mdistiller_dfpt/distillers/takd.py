"""TAKD: assistants, each taught by the one before, the last the student's (Mirzadeh et al., 2020, arXiv:1902.03393)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data import Batch
from .assistants import ASSISTANT_LIMITS
from .base import DISTILLERS, Output, as_output
from .kd import kd_loss
from .logit import LOGIT_LIMITS, LogitDistiller, logit_node


@DISTILLERS.register("TAKD")
class TAKD(LogitDistiller):
    """Cross-entropy, and `kd_loss` with the last assistant; with no assistant, with the teacher itself."""

    config = logit_node(4.0, ce=0.1, kd=0.9, ASSISTANTS=[])
    limits = {**LOGIT_LIMITS, **ASSISTANT_LIMITS}
    needs = ("assistants",)

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, temperature: float, assistants: Sequence[nn.Module],
        ce_weight: float, kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher, temperature=temperature, ce_weight=ce_weight, kd_weight=kd_weight)
        self.assistant = assistants[-1].requires_grad_(False).eval() if assistants else None
        self.uses_teacher_output = self.assistant is None

    def frozen(self) -> list[nn.Module]:
        return [*super().frozen(), *([self.assistant] if self.assistant is not None else [])]

    def logit_loss(self, student: Output, teacher: Output | None, batch: Batch) -> Tensor:
        if self.assistant is not None:
            with torch.no_grad(), self.precision(batch.image):
                teacher = as_output(self.assistant(batch.image))
        return kd_loss(student.logits, teacher.logits, self.temperature)
