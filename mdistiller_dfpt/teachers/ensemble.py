r"""CA-MKD: an ensemble of teachers, weighted per sample, or their mean (Zhang et al., 2022, arXiv:2201.00007).

Paper: Confidence-Aware Multi-Teacher Knowledge Distillation.

Formula: $$softmax(z / \tau) = \sum_k w_k \, softmax(z^{T_k} / \tau)$$ with $w_k = 1 / K$, or by confidence $w_k = (1 -
softmax_k(CE(z^{T_k}, y))) / (K - 1)$ for each sample.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import POSITIVE, Limit, one_of
from ..data import Batch
from ..models import StagedModel
from .base import ORIGINAL, TEACHERS
from .several import Joined


def confidence_weights(logits: Tensor, target: Tensor) -> Tensor:
    """The weight of each member for each sample; logits (K, B, C), labels (B,) -> (K, B), summing to 1 over K.

    (1 - softmax over the members of their cross-entropies) / (K - 1) (CA-MKD, equation 2): the more confident a member
    is in the label, the larger its weight. A single member has weight 1. The authors' code also divides the weighted
    sum of the losses by K; here, use the weight of the method for that.
    """
    count = logits.shape[0]
    if count == 1:
        return logits.new_ones(logits.shape[:2])
    losses = torch.stack([F.cross_entropy(one, target, reduction="none") for one in logits])
    return (1 - losses.softmax(0)) / (count - 1)


def mixed_logits(logits: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Logits whose softened probabilities are the weighted mean of the members'; (K, B, C), (K, B) -> (B, C).

    At that temperature the gradient of KD with them is the weighted sum of the gradients of KD with each member.
    """
    log_probabilities = (logits / temperature).log_softmax(2)
    return temperature * (log_probabilities + weights.log()[:, :, None]).logsumexp(0)


@TEACHERS.register("ensemble")
class Ensemble(Joined):
    """The path `teacher` is the ensemble, with logits only; `teacher1`, `teacher2`, ... are its members, with maps.

    The first member is DISTILLER.TEACHER, the others are DISTILLER.OTHER_TEACHERS.
    """

    others_key = "OTHER_TEACHERS"
    refusal = (
        f"an ensemble's path {ORIGINAL!r} has only logits, but the method uses {{!r}}; match its members' paths, for"
        " example `DISTILLER.PATHS.teacher1 1.0 DISTILLER.PATHS.teacher2 1.0`"
    )
    config = CN(
        {
            "WEIGHTS": "mean",  # mean, or confidence: per sample, by each member's confidence in the label (CA-MKD)
            "TEMPERATURE": 4.0,  # at which probabilities are averaged; exact if equal to the method's
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {"WEIGHTS": one_of("mean", "confidence"), "TEMPERATURE": POSITIVE}

    def __init__(
        self, network: StagedModel, others: Sequence[StagedModel] = (), *, weights: str, temperature: float
    ):  # fmt: skip
        super().__init__(network, others, [f"teacher{i}" for i in range(1, len(others) + 2)])
        self.by_confidence, self.temperature = weights == "confidence", temperature
        self.takes_soft_labels = self.reads_only_images = not self.by_confidence  # a mean does not use the labels

    def joined_logits(self, logits: Tensor, batch: Batch) -> Tensor:
        weights = logits.new_full(logits.shape[:2], 1 / len(logits))
        if self.by_confidence:
            weights = confidence_weights(logits, batch.target)
        return mixed_logits(logits, weights, self.temperature)
