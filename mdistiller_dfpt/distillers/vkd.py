r"""VkD: regress the teacher's normalised feature by an orthogonal projection (Miles et al., 2024, arXiv:2403.06213).

Paper: VkD: Improving Knowledge Distillation using Orthogonal Projections.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^T) + w_{feat} \, \ell(P f^S, n(f^T))$$ where $P$ is a learned matrix
with orthonormal rows or columns, $n$ standardises a feature over its channels, and $\ell$ is the smooth L1 distance.

Code: roymiles/VkD 6f8a507, engine.py:79-107, train.py:201, 367.

Differs: the feature is the one that the student's classifier takes, and the KL divergence is of its logits; the code
takes the mean of the patch tokens, and the logits of the distillation token.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..losses import Terms, distillation, label
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .kd import kd_loss


def vkd_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 distance of the projected feature and the teacher's, normalised over its channels; (B, D), (B, D)."""
    return F.smooth_l1_loss(projected, F.layer_norm(teacher, teacher.shape[1:]))


@DISTILLERS.register("VKD")
class VKD(Distiller):
    """Cross-entropy, `vkd_loss` and `kd_loss`.

    The projection has orthonormal rows or columns throughout the training: it cannot itself learn what the student
    should, and keeps the angles between the student's features.
    """

    config = CN({"TEMPERATURE": 1.0, "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0, "FEAT_WEIGHT": 1.0})})
    limits = {
        "TEMPERATURE": A_TEMPERATURE,
        **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT", "LOSS.FEAT_WEIGHT"), NOT_NEGATIVE),
    }  # fmt: skip
    takes_soft_labels = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, ce_weight: float, kd_weight: float,
        feat_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.temperature = temperature
        self.ce_weight, self.kd_weight, self.feat_weight = ce_weight, kd_weight, feat_weight
        source, width = (n.classifier_layer.in_features for n in (student, self.teacher_network))
        self.projector = orthogonal(nn.Linear(source, width, bias=False))

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        s, t = (x.features["pooled_feat"] for x in (student, teacher))
        return {
            "ce": label(F.cross_entropy(student.logits, batch.labels), self.ce_weight),
            "kd": distillation(kd_loss(student.logits, teacher.logits, self.temperature), self.kd_weight),
            "feat": distillation(vkd_loss(self.projector(s), t), self.feat_weight),
        }
