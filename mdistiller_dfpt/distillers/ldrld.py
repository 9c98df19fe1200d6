r"""LDRLD: match all pairs among the student's first classes (Xu et al., 2025, ICCV, arXiv:2507.15911).

Paper: Local Dense Logit Relations for Enhanced Knowledge Distillation.

Formula: $$L = w_{CE} CE + \alpha \frac{\tau^2}{n + 1} \left( \sum_{i < j \le k} w_{ij} KL(t_{ij} \| s_{ij}) + KL(\hat
t_{\le k} \| \hat s_{\le k}) \right) + \beta \tau^2 KL(\hat t_{> k} \| \hat s_{> k})$$ where classes are numbered by the
student's ranking, $t_{ij}$ is renormalised over the pair of classes $i$ and $j$, $\hat t_{\le k}$ over the first $k$
classes, $\hat t_{> k}$ over the others, $w_{ij} = 2 e^{-0.05 (i + j)} / (1.5 + j - i)$, and $n = k (k - 1) / 2$.

Code: yema-web/LDRLD b4dcfc9, distiller_zoo/LDRLD.py:7-87.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, Limit
from ..losses import LOGIT_LOSSES, Terms, distillation, label
from ..losses.logit_losses import divergences
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike

DECAY = 0.05  # of a pair's weight with its ranks


def ldrld_loss(student: Tensor, teacher: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The local and the remaining part, each times temperature**2; logits (B, C), (B, C) -> (), ().

    Local: the mean of the divergences in each pair of the student's first k classes, weighted by their ranks, and of
    the one among the k. Remaining: the divergence among the other C - k classes; with C <= k, there are none.
    """
    order = student.detach().argsort(1, descending=True)
    s, t = (logits.gather(1, order) / temperature for logits in (student, teacher))
    k = min(k, s.shape[1])
    i, j = torch.triu_indices(k, k, 1, device=s.device)
    distance, ranks = (x.to(s.dtype) for x in (j - i, i + j + 2))
    weights = 2 * (-DECAY * ranks).exp() / (1.5 + distance)
    pairs = _kl(*(torch.stack([x[:, i], x[:, j]], 2) for x in (s, t)))
    local = ((weights * pairs).sum(1) + _kl(s[:, :k], t[:, :k])) / (len(i) + 1)
    rest = _kl(s[:, k:], t[:, k:])
    return local.mean() * temperature**2, rest.mean() * temperature**2


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    return divergences(student.log_softmax(-1), teacher.log_softmax(-1))


@LOGIT_LOSSES.register("LDRLD")
def _ldrld(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    local, rest = ldrld_loss(student, teacher, LDRLD.config.K, temperature)
    return LDRLD.config.ALPHA * local + LDRLD.config.BETA * rest


@DISTILLERS.register("LDRLD")
class LDRLD(Distiller):
    """Cross-entropy and both parts of `ldrld_loss`."""

    config = CN(
        {
            "CE_WEIGHT": 1.0,
            "ALPHA": 10.5,  # of the local part
            "BETA": 7.0,  # of the remaining part
            "K": 7,  # classes of the local part; all, if there are no more
            "T": 4.0,
        }
    )
    limits = {
        "CE_WEIGHT": NOT_NEGATIVE, "ALPHA": NOT_NEGATIVE, "BETA": NOT_NEGATIVE, "K": Limit(">= 2", lambda v: v >= 2),
        "T": A_TEMPERATURE,
    }  # fmt: skip
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, alpha: float, beta: float, k: int,
        t: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.alpha, self.beta, self.k, self.temperature = ce_weight, alpha, beta, k, t

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        local, rest = ldrld_loss(student.logits, teacher.logits, self.k, self.temperature)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "local": distillation(local, self.alpha),
            "rest": distillation(rest, self.beta),
        }
