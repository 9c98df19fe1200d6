r"""USKD: soft labels made of the student's own predictions, without a teacher (Yang et al., 2023, arXiv:2303.13005).

Paper: From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and
Customized Soft Labels.

Formula: $$L = w_{CE} CE - w_{target} v_y \log s_y - w_{non} \sum_{c \ne y} v_c \log \hat s_c + w_{weak} CE(z^W, y)$$
where $v_y = 1 + s_y^2 - mean(s_y^2)$ with the mean over the batch, $v_c$ is proportional to 1 over the rank of class
$c$ and sums to 1, $\hat s$ is renormalised over the classes other than $y$, $z^W$ are the logits of the weak
classifier, which learns smoothed labels, and $v$ carries no gradient.

Code: yzd-v/cls_KD 1e5d48f, mmcls/models/dis_losses/uskd.py:8-99, mmcls/models/classifiers/distiller.py:170-181.

Differs: the mean of the squared probabilities is over the batch of all processes, not over each process's. A sample
that is not mixed, in a batch of mixed ones, has one target class; the code takes an arbitrary second one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE, one_of
from ..distributed import all_gather
from ..losses import Terms, distillation, label
from ..losses.sharded import weighted_by_shard
from .base import DISTILLERS, Batch, Method, StagedModel

SMOOTHING = 0.1  # of the labels that the weak classifier learns


def targets_of(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The target classes of each sample and their labels: (B, K), (B, K), by falling label.

    Labels (B,) have one target. Distributions (B, C) have the two largest, as mixed ones do; one that is not above the
    smallest label, that of smoothing, counts as 0.
    """
    if labels.dim() == 1:
        return labels[:, None], torch.ones_like(labels, dtype=torch.float32)[:, None]
    values, classes = labels.topk(min(2, num_classes), dim=1)
    return classes, torch.where(values > labels.amin(1, keepdim=True), values, 0)


def soft_targets(probabilities: Tensor, values: Tensor, total: int | None = None) -> Tensor:
    """The soft labels of the targets: label + p^2 - the mean of p^2 over the batch; (B, K), (B, K) -> (B, K).

    `total`: samples in the batch of all processes, if it is shared. A target with label 0 gets 0.
    """
    squares = probabilities.detach().pow(2)
    mean = all_gather(squares, total).mean(0)
    return torch.where(values > 0, values.to(squares.dtype) + squares - mean, 0)


def zipf_labels(student: Tensor, weak: Tensor, targets: Tensor, rank_by: str) -> Tensor:
    """Soft labels of the classes that are no targets, proportional to 1 / rank; (B, C), (B, C), bool (B, C) -> (B, C).

    The rank is among all classes, by the sum of both predictions, each divided by what it leaves to the others.
    `rank_by`: of the student, its log_probability, as in the released code, or its probability, as in the paper.
    """
    log_s = student.detach().log_softmax(1)
    predictions = (weak.detach().softmax(1), log_s if rank_by == "log_probability" else log_s.exp())
    of_weak, of_student = (p / (1 - (p * targets).sum(1, keepdim=True) + 1e-6) for p in predictions)
    rank = 1 + (of_weak + of_student).argsort(1, descending=True).argsort(1)
    zipf = (~targets).to(log_s.dtype) / rank
    return zipf / zipf.sum(1, keepdim=True).clamp(min=1e-12)


def non_target_loss(student: Tensor, soft: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with soft labels among the classes that are no targets; (B, C), (B, C), bool (B, C) -> ()."""
    # No class may be left: its soft labels are 0 then, and so is the loss
    lowest = torch.finfo(student.dtype).min / 2
    log_p = student.masked_fill(targets, lowest).log_softmax(1).masked_fill(targets, 0)
    return -(soft * log_p).sum(1).mean()


def uskd_losses(
    student: Tensor, weak: Tensor, labels: Tensor, rank_by: str, total: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The terms of the targets, of the other classes, and of the weak classifier, without weights.

    Logits (B, C), (B, C), labels (B,) or (B, C) -> (), (), (). Soft labels carry no gradient, so the weak classifier
    learns from its own term alone.
    """
    classes, values = targets_of(labels, student.shape[1])
    targets = torch.zeros_like(weak, dtype=torch.bool).scatter(1, classes, values > 0)
    log_p = student.log_softmax(1).gather(1, classes)
    target = -(soft_targets(log_p.exp(), values, total) * log_p).sum(1).mean()
    others = non_target_loss(student, zipf_labels(student, weak, targets, rank_by), targets)
    return target, others, F.cross_entropy(weak, labels, label_smoothing=SMOOTHING)


@DISTILLERS.register("USKD")
class USKD(Method):
    """Cross-entropy, and the student's soft labels for the target and for the other classes.

    A weak classifier of the pooled map of the last stage but one learns the smoothed labels; its predictions, with the
    student's own, rank the other classes.
    """

    config = CN(
        {
            "RANK_BY": "log_probability",  # of the student: log_probability (released code) or probability (paper)
            "LOSS": CN({"CE_WEIGHT": 1.0, "TARGET_WEIGHT": 1.0, "NON_TARGET_WEIGHT": 0.1, "WEAK_WEIGHT": 0.005}),
        }
    )
    limits = {
        "RANK_BY": one_of("log_probability", "probability"),
        **{f"LOSS.{k}_WEIGHT": NOT_NEGATIVE for k in ("CE", "TARGET", "NON_TARGET", "WEAK")},
    }  # fmt: skip
    takes_soft_labels = True

    def __init__(
        self, student: StagedModel, *, rank_by: str, ce_weight: float, target_weight: float, non_target_weight: float,
        weak_weight: float,
    ):  # fmt: skip
        super().__init__(student)
        if len(student.stage_channels) < 2:
            raise ValueError("USKD has a classifier of the map of the last stage but one; the student has no such map")
        self.rank_by, self.ce_weight, self.weak_weight = rank_by, ce_weight, weak_weight
        self.target_weight, self.non_target_weight = target_weight, non_target_weight
        self.weak = nn.Linear(student.stage_channels[-2], student.num_classes)

    def forward(self, batch: Batch) -> tuple[Tensor, Terms]:
        student = self.forward_student(batch.image)
        weak = self.weak(student.features["feats"][-2].mean((2, 3)))
        target, others, own = uskd_losses(student.logits, weak, batch.labels, self.rank_by, batch.total)
        terms = {
            "ce": label(F.cross_entropy(student.logits, batch.labels), self.ce_weight),
            "target": distillation(target, self.target_weight),
            "non_target": distillation(others, self.non_target_weight),
            "weak": label(own, self.weak_weight),
        }
        return student.logits, weighted_by_shard(terms, batch)
