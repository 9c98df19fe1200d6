r"""LSKD: standardise the logits before KD (Sun et al., 2024, arXiv:2403.01427).

Paper: Logit Standardization in Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(n(z^S), n(z^T)), \quad n(z) = \frac{z - mean(z)}{std(z)}$$ with mean and
deviation over the classes of a sample.

Code: sunshangquan/logit-standardization-KD f6e5aa5, mdistiller/distillers/KD.py:7-19.
"""

from torch import Tensor

from ..losses import LOGIT_LOSSES
from ..losses.logit_losses import standardized
from .base import DISTILLERS, Batch, Output
from .kd import kd_loss
from .logit import LogitDistiller, logit_node


def lskd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """`kd_loss` of standardised logits; (B, C), (B, C) -> (). Invariant to shift and scale of either argument."""
    return kd_loss(standardized(student), standardized(teacher), temperature)


@LOGIT_LOSSES.register("LSKD")
def _lskd(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return lskd_loss(student, teacher, temperature)


@DISTILLERS.register("LSKD")
class LSKD(LogitDistiller):
    """Cross-entropy and `lskd_loss`; other methods offer the standardisation as a switch or as a logit loss."""

    config = logit_node(2.0, ce=0.1, kd=9.0)

    def logit_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return lskd_loss(student.logits, teacher.logits, self.temperature)
