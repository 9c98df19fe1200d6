r"""LumiNet: KD on logits that are calibrated per class over the batch (Hossain et al., 2025, TMLR, arXiv:2310.03669).

Paper: LumiNet: Perception-Driven Knowledge Distillation via Statistical Logit Calibration.

Formula: $$L = w_{CE} CE + r \alpha^2 KL(t \| s)$$ with the softened probabilities of the calibrated logits $(z_{ic} -
\mu_c) / \sigma_c$, whose mean and deviation are over the batch for each class $c$.

Code: ismail31416/LumiNet 8cf749b, mdistiller/distillers/Luminet.py:6-48.

Differs: ALPHA, T and CE_WEIGHT are in the method's section; the authors' code reads them from SOLVER.
"""

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import LOGIT_LOSSES, Terms, distillation, label, warm_up
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .kd import kd_loss


def calibrated(logits: Tensor) -> Tensor:
    """The logits of each class scaled to mean 0 and variance 1 over the batch; (B, C) -> (B, C)."""
    return (logits - logits.mean(0)) / (logits.var(0, correction=0) + 1e-5).sqrt()


def luminet_loss(student: Tensor, teacher: Tensor, alpha: float, temperature: float) -> Tensor:
    """alpha**2 times the KL of the calibrated, softened logits; (B, C), (B, C) -> (). With alpha = T it is their KD."""
    return (alpha / temperature) ** 2 * kd_loss(calibrated(student), calibrated(teacher), temperature)


@LOGIT_LOSSES.register("LUMINET")
def _luminet(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    return luminet_loss(student, teacher, temperature, temperature)


vars(_luminet)["couples_samples"] = True  # mean and variance of a class are taken over the batch


@DISTILLERS.register("LUMINET")
class LumiNet(Distiller):
    """Cross-entropy and `luminet_loss`, with a warm-up over the first epochs."""

    config = CN({"CE_WEIGHT": 2.0, "ALPHA": 33.0, "T": 4.0, "WARMUP": 20})
    limits = {"CE_WEIGHT": NOT_NEGATIVE, "ALPHA": NOT_NEGATIVE, "T": A_TEMPERATURE, "WARMUP": NOT_NEGATIVE}
    couples_samples = True
    min_batch = 2  # calibrated over a single sample, all logits are 0
    needs_teacher_maps = False

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, alpha: float, t: float, warmup: int
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.alpha, self.temperature, self.warmup = ce_weight, alpha, t, warmup

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        loss = luminet_loss(student.logits, teacher.logits, self.alpha, self.temperature)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "kd": distillation(
                loss, ramp=warm_up(batch.epoch, self.warmup), inside=(self.alpha / self.temperature) ** 2
            ),
        }
