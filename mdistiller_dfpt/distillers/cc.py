r"""CC: match differences of neighbouring samples, as in RepDistiller (Peng et al., 2019, arXiv:1904.01802).

Paper: Correlation Congruence for Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{feat} \frac{1}{B - 1} \sum_{i = 1}^{B - 1} \langle d_i, d_{i + 1} \rangle, \quad d_i =
|E_S f^S_i - E_T f^T_i|$$ with learned linear layers $E_S$ and $E_T$.

Code: HobbitLong/RepDistiller b84f547, distiller_zoo/CC.py:7-17, which says that it is the authors' own, restructured.

Differs: it is not the formula of the paper.
"""

from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, ImageShape, feature_shapes, weights


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Inner product of |student - teacher| of each sample with that of the next, averaged; (B, D), (B, D) -> ().

    The published CC rows of the CIFAR-100 tables use this loss; the paper itself compares kernel matrices.
    """
    delta = (student - teacher).abs()
    return (delta[:-1] * delta[1:]).sum(1).mean()


@DISTILLERS.register("CC")
class CC(FeatureDistiller):
    """Cross-entropy and `cc_loss` on the pooled features, each projected to FEAT_DIM by a linear layer."""

    config = CN({"FEAT_DIM": 128, "LOSS": weights(1.0, 0.02)})
    limits = {**WEIGHT_LIMITS, "FEAT_DIM": AT_LEAST_ONE}
    couples_samples = True
    min_batch = 2

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, feat_dim: int, ce_weight: float, feat_weight: float,
        image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        dims = (feature_shapes(network, image_shape).pooled for network in (student, self.teacher_network))
        self.embed_student, self.embed_teacher = (nn.Linear(dim, feat_dim) for dim in dims)

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return cc_loss(
            self.embed_student(student.features["pooled_feat"]), self.embed_teacher(teacher.features["pooled_feat"])
        )
