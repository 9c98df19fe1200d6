r"""SDD: match logits of the image's regions (Wei et al., 2024, CVPR, arXiv:2403.13512).

Paper: Scale Decoupled Distillation.

Formula: $$L = w_{CE} CE + w_{KD} r \frac{1}{N} \sum_{n = 1}^{N} a_n KD_\tau(z^S_n, z^T_n)$$ where $z_n$ are the
classifier's logits of the mean of the map in cell $n$, and $a_n$ is 2 if the teacher is right in the cell and wrong on
the whole image, or the reverse, else 1; LOGIT_LOSS may replace $KD_\tau$.

Code: shicaiwei123/SDD-CVPR2024 e412036, mdistiller/distillers/KD.py:16-98, mdistiller/distillers/SDD_DKD.py:9-124,
mdistiller/models/cifar/utils.py:5-39.

Differs: DKD's alpha and beta are its defaults, 1 and 8, for all pairs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, Limit
from ..losses import LogitLoss, Terms, distillation, label, warm_up
from ..losses.logit_losses import loss_over_samples, per_sample
from ..models.dummy import ImageShape
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import refuse_other_width

FINEST = 4  # the grid that coarser ones are pooled from


def region_logits(feature: Tensor, classifier: nn.Linear, grids: Sequence[int]) -> Tensor:
    """The classifier on the means of a map (B, C, H, W) in the cells of the grids; -> (B, cells, classes)."""
    finest = F.adaptive_avg_pool2d(feature, FINEST)
    cells = torch.cat([F.adaptive_avg_pool2d(finest, grid).flatten(2) for grid in grids], 2)
    return classifier(cells.transpose(1, 2))


def sdd_loss(student: Tensor, teacher: Tensor, target: Tensor, loss: LogitLoss, temperature: float) -> Tensor:
    """The mean of a logit loss over all regions; (B, N, C), (B, N, C), the whole image first, (B,) -> ().

    A region where the teacher is right and on the image wrong, or the reverse, complements the image and counts twice.
    """
    right = teacher.argmax(2) == target[:, None]
    weights = 1 + (right != right[:, :1]).to(student.dtype)
    s, t = student.flatten(0, 1), teacher.flatten(0, 1)
    losses = per_sample(loss, s, t, target.repeat_interleave(student.shape[1]), temperature)
    return (weights.flatten() * losses).mean()


_GRIDS = Limit(
    f"1 and then other divisors of {FINEST}, increasing",
    lambda v: v[:1] == [1] and all(type(n) is int and n > 0 and FINEST % n == 0 for n in v) and v == sorted(set(v)),
)


@DISTILLERS.register("SDD")
class SDD(Distiller):
    """Cross-entropy and `sdd_loss` on the regions of the map that is pooled, through each network's classifier."""

    config = CN(
        {
            "LOGIT_LOSS": "KD",  # any that does not couple samples
            "TEMPERATURE": 4.0,
            "GRIDS": [1, 2, 4],
            "WARMUP": 0,  # epochs over which the weight of the loss rises
            "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "GRIDS": _GRIDS, "WARMUP": NOT_NEGATIVE, "LOSS.CE_WEIGHT": NOT_NEGATIVE,
        "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    uses_classifier = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, logit_loss: str, temperature: float, grids: list[int],
        warmup: int, ce_weight: float, kd_weight: float, image_shape: ImageShape,
    ):  # fmt: skip
        super().__init__(student, teacher)
        refuse_other_width((student, self.teacher_network), image_shape)
        self.logit_loss = loss_over_samples("SDD.LOGIT_LOSS", logit_loss)
        self.temperature, self.grids, self.warmup = temperature, tuple(grids), warmup
        self.ce_weight, self.kd_weight = ce_weight, kd_weight

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        mine, theirs = student.features["head_map"], teacher.features["head_map"]
        own = region_logits(mine, self.student.classifier_of(mine), self.grids)
        with torch.no_grad():  # a teacher may train its classifier, but this term must not
            its = region_logits(theirs, self.teacher_network.classifier_of(theirs), self.grids)
        loss = sdd_loss(own, its, batch.target, self.logit_loss, self.temperature)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "kd": distillation(loss, self.kd_weight, ramp=warm_up(batch.epoch, self.warmup)),
        }
