r"""SinKD: the transport cost between the student's and the teacher's batch (Cui et al., 2024, arXiv:2402.17110).

Paper: Sinkhorn Distance Minimization for Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^T) + w_{sink} \frac{1}{B} \sum_{i, j} P_{ij} c_{ij}, \quad c_{ij} =
\|s_i - t_j\|_1$$ where $P$ is $\exp(-c / \epsilon)$ after Sinkhorn's iterations, which scale rows and columns in turn
to a sum of 1; $\epsilon$ is SINKHORN.ENTROPY.

Code: 2018cx/SinKD 1ffac90, loss.py:7-18,119-139.

Differs: the cost is a mean over the batch, theirs a sum times 0.001; KD has the factor T^2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.conditions import When
from ..config.limits import A_TEMPERATURE, AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE
from ..losses import Terms, distillation, label
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .kd import kd_loss


def sinkd_loss(student: Tensor, teacher: Tensor, temperature: float, entropy: float, iterations: int) -> Tensor:
    """The mean cost per sample of the regularised transport between the batches; (B, C), (B, C) -> (), in [0, 2].

    The cost of a pair is the L1 distance of its softened probabilities, also for two different samples: a student is
    not told which of the teacher's outputs is its own, only that the two sets of outputs agree.
    """
    s, t = ((logits / temperature).softmax(1) for logits in (student, teacher))
    cost = torch.cdist(s, t, p=1)
    plan = -cost / entropy
    for _ in range(iterations):  # Sinkhorn: rows, then columns, of exp(plan) are scaled to a sum of one
        plan = plan.log_softmax(1)
        plan = plan.log_softmax(0)
    return (plan.exp() * cost).sum() / len(student)


@DISTILLERS.register("SINKD")
class SinKD(Distiller):
    """Cross-entropy, `kd_loss` and `sinkd_loss`."""

    config = CN(
        {
            "TEMPERATURE": 4.0,
            "SINKHORN": CN({"TEMPERATURE": 2.0, "ENTROPY": 0.1, "ITERATIONS": 20}),
            "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9, "SINKHORN_WEIGHT": 0.05}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "SINKHORN.TEMPERATURE": A_TEMPERATURE, "SINKHORN.ENTROPY": POSITIVE,
        "SINKHORN.ITERATIONS": AT_LEAST_ONE,
        "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE, "LOSS.SINKHORN_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    when = {"TEMPERATURE": When("LOSS.KD_WEIGHT is 0", lambda section: section.LOSS.KD_WEIGHT > 0)}
    couples_samples = True
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, sinkhorn_temperature: float,
        sinkhorn_entropy: float, sinkhorn_iterations: int, ce_weight: float, kd_weight: float, sinkhorn_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.kd_weight, self.sinkhorn_weight = ce_weight, kd_weight, sinkhorn_weight
        self.temperature = temperature
        self.arguments = (sinkhorn_temperature, sinkhorn_entropy, sinkhorn_iterations)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        mine, its = student.logits, teacher.logits
        return {
            "ce": label(F.cross_entropy(mine, batch.target), self.ce_weight),
            "kd": distillation(kd_loss(mine, its, self.temperature), self.kd_weight),
            "sinkhorn": distillation(sinkd_loss(mine, its, *self.arguments), self.sinkhorn_weight),
        }
