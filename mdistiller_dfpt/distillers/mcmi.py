r"""MCMI: a teacher fine-tuned to spread the predictions within a class (Ye et al., 2024, arXiv:2401.08732).

Paper: Bayes Conditional Distribution Estimation for Knowledge Distillation Based on Conditional Mutual Information.

Formula: $$L = w_{CE} CE - w_{CMI} KL(p \| Q^y)$$ where $p = softmax(z^S)$ is the prediction of the network that is
fine-tuned, and $Q^y$ the mean prediction for the class $y$, measured before.

Code: iclr2024mcmi/ICLRMCMI d12f354, CIFAT-100KD/losses.py:10-19, FineTuneTeacher.py:121-157, helper/loops.py:67-94,
centroid.py:99-115.

Differs: the paper updates the centroids while it fine-tunes; the released code, as here, measures them once before. The
students of the released commands use the best epoch of the fine-tuned teacher by its test accuracy; here, the last.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE
from ..distributed import all_reduce
from ..losses import Terms, label
from ..losses.logit_losses import mean_divergence
from ..losses.sharded import weighted_by_shard
from ..models.statistics import batch_statistics
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def conditional_information(logits: Tensor, centroids: Tensor) -> Tensor:
    """Mean of KL(p || Q^y), an estimate of the information about the image, given its class; (B, C), (B, C) -> ().

    `centroids`: Q^y, the mean probabilities of each sample's class.
    """
    log_p, log_q = logits.log_softmax(1), centroids.clamp(min=torch.finfo(centroids.dtype).tiny).log()
    return mean_divergence(log_q, log_p)


@DISTILLERS.register("MCMI")
class MCMI(Distiller):
    """Cross-entropy less `conditional_information`, for a student that starts as the teacher, as its own teacher's run.

    The centroids are measured in a pass over the training set, with the BatchNorm statistics of each batch.
    """

    config = CN({"LOSS": CN({"CE_WEIGHT": 1.0, "CMI_WEIGHT": 0.15})})
    limits = {"LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.CMI_WEIGHT": NOT_NEGATIVE}
    changed_beside_modules = True  # the centroids were measured with the student alone
    starts_from_teacher = True
    teacher_kind = "frozen"
    matches_one_path = False  # none: the teacher's weights are used, and neither its logits nor its maps
    centroids: Tensor  # (C, C), a row per class

    def __init__(self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, cmi_weight: float):
        super().__init__(student, teacher)
        self.ce_weight, self.cmi_weight = ce_weight, cmi_weight
        classes = student.num_classes
        self.register_buffer("centroids", torch.full((classes, classes), 1 / classes))

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        # In float64, as these are sums over a whole training set
        sums = torch.zeros_like(self.centroids, dtype=torch.float64)
        with batch_statistics(self.student):
            for batch in batches:
                sums.index_add_(0, batch.target, self.forward_student(batch.image).logits.softmax(1).double())
        sums = all_reduce(sums)
        counts = sums.sum(1, keepdim=True)
        # A class without samples keeps the uniform distribution
        self.centroids.copy_(torch.where(counts > 0, sums / counts.clamp(min=1), self.centroids))

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        information = conditional_information(student.logits, self.centroids[batch.target])
        terms = {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "cmi": label(-information, self.cmi_weight),
        }
        return weighted_by_shard(terms, batch)
