"""NONE: plain training of the student with cross-entropy, no teacher."""

from torch import Tensor
from torch.nn import functional as F

from ..data import Batch
from .base import DISTILLERS, Distiller, Output


@DISTILLERS.register("NONE")
class Vanilla(Distiller):
    """The baseline, and how teachers are made."""

    needs_teacher = False

    def losses(self, student: Output, teacher: Output | None, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(student.logits, batch.target)}
