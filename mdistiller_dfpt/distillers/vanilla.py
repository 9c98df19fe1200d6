"""NONE: train the student with cross-entropy only, without a teacher.

Paper: none.

Formula: $$L = CE$$
"""

from torch import Tensor
from torch.nn import functional as F

from ..losses import Terms, label
from ..losses.sharded import weighted_by_shard
from .base import DISTILLERS, Batch, Method


@DISTILLERS.register("NONE")
class Vanilla(Method):
    """The baseline, also used to train teachers."""

    takes_soft_labels = True
    has_parts = True  # of distillation, there is no term

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        logits = self.forward_student(batch.image).logits
        terms = {"ce": label(F.cross_entropy(logits, batch.labels))}
        return logits, weighted_by_shard(terms, batch)
