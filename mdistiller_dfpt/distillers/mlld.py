r"""MLLD: match predictions at instance, batch and class level, at several temperatures (Jin et al., 2023, CVPR).

Paper: Multi-Level Logit Distillation.

Formula: $$L = w_{CE} (CE_w + CE_s) + w_{KD} \left( \sum_\tau M_\tau + \sum_{\tau''} KD_{\tau''}(z^S_w, z^T_w) +
\sum_{\tau'} KD_{\tau'}(z^S_s, z^T_s) \right)$$ $$M_\tau = a \left( KD_\tau(z^S_w, z^T_w) + \frac{1}{B} \|P^S P^{S\top}
- P^T P^{T\top}\|^2 \right) + b \frac{1}{C} \|P^{S\top} P^S - P^{T\top} P^T\|^2$$ where $w$ and $s$ are the weak and the
strong view, $P$ is the $B \times C$ matrix of softened probabilities of the weak one, $a$ and $b$ are the shares of
samples and of classes up to the median of the teacher's confidence, $\tau$ runs through TEMPERATURES, $\tau'$ through
STRONG_TEMPERATURES, and $\tau''$ through those of the first that are not in the second.

Code: Jin-Ying/Multi-Level-Logit-Distillation 5ee473f, mdistiller/distillers/KD_ours.py:89-255,
mdistiller/dataset/cifar100.py:272-334.

Differs: the paper has all levels on both views, and masks single samples and classes; this is the loss of the code.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE, Limit
from ..losses import Terms, distillation, label
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .kd import kd_loss
from .two_views import TwoViewDistiller


def gram_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the Gram matrices of rows (N, M), divided by N; () (equations 5 and 7)."""
    return (student @ student.T - teacher @ teacher.T).pow(2).sum() / student.shape[0]


def share_up_to_median(values: Tensor) -> Tensor:
    """The share of the values (N,) that are at most their median, (): 1/2 for an even N, (N + 1) / 2N for an odd one.

    More if several values equal the median.
    """
    return (values <= values.quantile(0.5)).to(values.dtype).mean()


def mlld_loss(student: Tensor, teacher: Tensor, temperatures: Sequence[float]) -> Tensor:
    """The three levels on one view, summed over the temperatures; (B, C), (B, C) -> ().

    Level of instances: `kd_loss`; of batch and of classes: `gram_loss` of samples and of classes. The paper masks out
    samples that the teacher is sure of, and classes that it predicts often, both above the median. The authors' code
    reduces a level to a scalar before it multiplies by the mask, so each is weighted by the share that is not masked.
    Source: Jin-Ying/Multi-Level-Logit-Distillation 5ee473f, mdistiller/distillers/KD_ours.py:101-140, 164-185, 207-227.
    """
    probabilities = teacher.softmax(1)
    unsure, rare = share_up_to_median(probabilities.amax(1)), share_up_to_median(probabilities.sum(0))
    loss = student.new_zeros(())
    for temperature in temperatures:
        s, t = ((logits / temperature).softmax(1) for logits in (student, teacher))
        loss = loss + unsure * (kd_loss(student, teacher, temperature) + gram_loss(s, t)) + rare * gram_loss(s.T, t.T)
    return loss


def several_kd_loss(student: Tensor, teacher: Tensor, temperatures: Sequence[float]) -> Tensor:
    """`kd_loss` summed over the temperatures; (B, C), (B, C) -> ()."""
    return sum((kd_loss(student, teacher, t) for t in temperatures), student.new_zeros(()))


_ARE_TEMPERATURES = Limit("numbers > 0, at least one", lambda v: len(v) > 0 and all(t > 0 for t in v))


@DISTILLERS.register("MLLD")
class MLLD(TwoViewDistiller):
    """Cross-entropy on a weak and on a strong view; `mlld_loss` on the weak view, `several_kd_loss` on the strong one.

    These are the terms that the authors' code returns, and with which the published values were trained; in the paper
    all levels act on both views. It computes KD on the strong view at STRONG_TEMPERATURES only: at the others of
    TEMPERATURES it takes the weak view's logits a second time (KD_ours.py:142-162).
    """

    revision = 2
    config = CN(
        {
            "TEMPERATURES": [4.0, 2.0, 3.0, 5.0, 6.0],
            "STRONG_TEMPERATURES": [4.0, 3.0, 5.0],
            "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9}),
        }
    )
    limits = {
        "TEMPERATURES": _ARE_TEMPERATURES,
        "STRONG_TEMPERATURES": _ARE_TEMPERATURES,
        "LOSS.CE_WEIGHT": NOT_NEGATIVE,
        "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }
    couples_samples = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperatures: Sequence[float],
        strong_temperatures: Sequence[float], ce_weight: float, kd_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.temperatures, self.strong_temperatures = tuple(temperatures), tuple(strong_temperatures)
        self.repeated = tuple(t for t in temperatures if t not in strong_temperatures)
        self.ce_weight, self.kd_weight = ce_weight, kd_weight

    def both_views(self, student: Output, views: Mapping[str, Output], batch: Batch) -> Terms:
        s, t = student.logits, views["teacher"].logits
        s_strong, t_strong = views["student_strong"].logits, views["teacher_strong"].logits
        weak = mlld_loss(s, t, self.temperatures) + several_kd_loss(s, t, self.repeated)
        strong = several_kd_loss(s_strong, t_strong, self.strong_temperatures)
        return {
            "ce": label(F.cross_entropy(s, batch.target), self.ce_weight),
            "ce_strong": label(F.cross_entropy(s_strong, batch.target), self.ce_weight),
            "kd": distillation(weak, self.kd_weight),
            "kd_strong": distillation(strong, self.kd_weight),
        }
