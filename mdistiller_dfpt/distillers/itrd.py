r"""ITRD: match correlations and mutual information of the embeddings (Miles et al., 2022, arXiv:2112.00459).

Paper: Information Theoretic Representation Distillation.

Formula: $$L = w_{CE} CE + w_{corr} \log_2 \sum_d |\rho_d - 1|^{2 \alpha} + w_{mut} \left( \|\hat G^S\|^2 - \|\hat
G^{ST}\|^2 \right)$$ where $\rho_d$ is the correlation over the batch of channel $d$ of $g(f^S)$ and $f^T$, $G^S$ and
$G^T$ are the Gram matrices of features of unit length, $G^{ST}$ is their product entry by entry, and $\hat G$ is $G$
divided by its trace.

Code: roymiles/ITRD 5d08c6b, distiller_zoo/IT.py:49-128.

Differs: a channel that is constant over the batch counts as uncorrelated; in the code the loss is then not a number.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE, Limit
from ..losses import Terms, distillation, label
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike


def correlation_loss(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """log2 of the sum over channels of |r - 1|^(2 alpha); (B, D), (B, D) -> ().

    r is a channel's correlation over the batch between student and teacher. With the unbiased deviations that the code
    uses, equal embeddings have r = (B - 1) / B, so the loss is bounded from below.
    """
    s, t = (_standardised(x) for x in (student, teacher))
    r = (s * t).mean(0)
    return (r - 1).abs().pow(2 * alpha).sum().log2()


def _standardised(x: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the batch in each channel; 0 in a constant one."""
    return (x - x.mean(0)) / x.var(0).clamp(min=1e-12).sqrt()


def mutual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Difference of the squared norms of two Gram matrices of trace 1; (B, D), (B, D') -> ().

    The first is of the student's embeddings of unit length; the second is its product, entry by entry, with the
    teacher's.
    """
    gram_s, gram_t = (x @ x.T for x in (F.normalize(student), F.normalize(teacher)))
    joint = gram_s * gram_t
    return (gram_s / gram_s.trace()).pow(2).sum() - (joint / joint.trace()).pow(2).sum()


@DISTILLERS.register("ITRD")
class ITRD(Distiller):
    """Cross-entropy, `correlation_loss` and `mutual_loss`; a linear layer maps the student to the teacher's width.

    If the widths are equal, `mutual_loss` uses the student's own embedding.
    """

    config = CN({"ALPHA": 1.01, "LOSS": CN({"CE_WEIGHT": 1.0, "CORRELATION_WEIGHT": 2.0, "MUTUAL_WEIGHT": 1.0})})
    limits = {
        "ALPHA": Limit(">= 0.5", lambda v: v >= 0.5),  # below, the gradient is infinite at a correlation of 1
        **{f"LOSS.{w}_WEIGHT": NOT_NEGATIVE for w in ("CE", "CORRELATION", "MUTUAL")},
    }  # fmt: skip
    couples_samples = True
    min_batch = 2  # deviations over the batch

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, alpha: float, ce_weight: float, correlation_weight: float,
        mutual_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.alpha, self.ce_weight = alpha, ce_weight
        self.correlation_weight, self.mutual_weight = correlation_weight, mutual_weight
        source, width = (n.classifier_layer.in_features for n in (student, self.teacher_network))
        self.embed = nn.Linear(source, width)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        s, t = (x.features["pooled_feat"] for x in (student, teacher))
        embedded = self.embed(s)
        own = s if s.shape[1] == t.shape[1] else embedded
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "correlation": distillation(correlation_loss(embedded, t, self.alpha), self.correlation_weight),
            "mutual": distillation(mutual_loss(own, t), self.mutual_weight),
        }
