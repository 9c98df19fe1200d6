r"""PS-KD: labels softened by the student's own predictions of the previous epoch (Kim et al., 2021, arXiv:2006.12000).

Paper: Self-Knowledge Distillation with Progressive Refinement of Targets.

Formula: $$t = (1 - a_e) y + a_e \, softmax(z^S_{e - 1} / \tau), \quad a_e = a \frac{e}{E}$$ where $z^S_{e - 1}$ are the
student's logits for the sample one epoch before, $a$ is ALPHA, and $E$ the number of epochs.

Code: lgcnsai/PS-KD-Pytorch 9aa0828, main.py:323-324, 418-467, loss/pskd_loss.py:12-21.

Differs: KD with this teacher is the divergence from the target, the authors' loss the cross-entropy with it; gradients
are equal. Logits are stored, not probabilities, so that they can be softened.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, Limit
from ..data import Batch
from ..distributed import all_gather
from ..losses import Terms
from ..losses.logit_losses import is_target
from ..models.output import Output
from .base import TEACHERS
from .without_network import WithoutNetwork

NOTHING = -30.0  # logarithm of a probability that counts as 0
WORTH_SAYING = 1e9  # bytes


def softened_labels(previous: Tensor, target: Tensor, alpha: float, temperature: float = 1.0) -> Tensor:
    """Logarithm of (1 - alpha) y + alpha softmax(previous / temperature), equation 3; (B, C), (B,) -> (B, C).

    `alpha` in (0, 1].
    """
    log_p = (previous / temperature).log_softmax(1) + math.log(alpha)
    of_label = is_target(previous, target).to(log_p.dtype) * (1 - alpha)
    return torch.logaddexp(log_p, of_label.log())


@TEACHERS.register("previous_epoch")
class PreviousEpoch(WithoutNetwork):
    """The labels, mixed with what the student predicted for the same sample one epoch before.

    The weight of the predictions rises linearly to ALPHA in the last epoch; a sample without one, as in the first
    epoch, has its label alone. The predictions, (samples, classes), are part of each checkpoint.
    """

    config = CN(
        {
            "ALPHA": 0.8,  # weight of the predictions in the last epoch
            "TEMPERATURE": 1.0,  # of the predictions, and of the target: it is exact if equal to the method's
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {
        "ALPHA": Limit("in (0, 1]", lambda v: 0 < v <= 1), "TEMPERATURE": A_TEMPERATURE,
    }  # fmt: skip
    predictions: Tensor  # (N, C) logits
    is_known: Tensor  # (N,) bool: whether a sample has a prediction

    def __init__(self, *, alpha: float, temperature: float, num_data: int, num_classes: int, epochs: int):
        super().__init__()
        self.alpha, self.temperature, self.epochs = alpha, temperature, epochs
        self.register_buffer("predictions", torch.zeros(num_data, num_classes))
        self.register_buffer("is_known", torch.zeros(num_data, dtype=torch.bool))
        self._new: list[tuple[Tensor, Tensor]] = []  # (index, logits) of the step's samples

    def target_logits(self, batch: Batch) -> Tensor:
        alpha = self.alpha * min(1.0, batch.epoch / self.epochs)
        soft = softened_labels(self.predictions[batch.index], batch.target, alpha, self.temperature)
        hard = torch.where(is_target(soft, batch.target), 0.0, NOTHING)
        return self.temperature * torch.where(self.is_known[batch.index, None], soft, hard)

    def losses(self, student: Output, outputs: Mapping[str, Output], batch: Batch) -> Terms:
        # Every process needs those of all: in the next epoch it has other samples
        self._new.append((all_gather(batch.index, batch.total), all_gather(student.logits.detach(), batch.total)))
        return {}

    def after_step(self, batch: Batch) -> None:
        for index, logits in self._new:
            self.predictions[index] = logits
            self.is_known[index] = True
        self._new = []

    def overhead(self, image_shape: tuple[int, int, int]) -> str | None:
        size = 4 * self.predictions.numel()
        line = f"the predictions of all samples use {size / 1e9:.1f} GB, in each checkpoint too"
        return line if size > WORTH_SAYING else None
