r"""DisWOT: match sample relations and the classifiers' gradients (Dong, Li & Wei, 2023, arXiv:2303.15678).

Paper: DisWOT: Student Architecture Search for Distillation WithOut Training.

Formula: $$L = w_{CE} CE + w_{rel} MSE(n(G^S), n(G^T)) + w_{sem} \frac{1}{C D} \sum_k \|n(g^S_k g_k^{S\top}) - n(g^T_k
g_k^{T\top})\|^2$$ where $G_{ij} = \langle F_i, F_j \rangle$ for the maps of two samples, $g_k$ is the gradient of the
batch's cross-entropy in the classifier's weights of class $k$, of width $D$, and $n$ scales each row of a matrix to
unit length.

Code: lilujunai/DisWOT-CVPR2023 dffe4e6, README.md:15-67 (both metrics of the search), distiller_zoo/SP.py:8-31,
distiller_zoo/ICKD.py:36-67.

Differs: the code scores untrained networks with the metrics, and trains with neither. As losses their weights, and the
linear layer where the widths differ, are ours (not confirmed). Relations are those of a batch, as in its README; its
search script takes one sample's.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import NOT_NEGATIVE
from ..losses import Terms, distillation, label
from ..losses.logit_losses import label_gradient
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import ImageShape, feature_shapes
from .sp import sp_loss

EPS = 1e-12  # as small are the gradients of classes that a sure network rules out: they count little


def classifier_gradient(logits: Tensor, feature: Tensor, target: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy in a linear classifier's weight; (B, K), (B, C), (B,) -> (K, C)."""
    return label_gradient(logits, target).T @ feature / len(feature)


def semantic_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the channel correlations of each class, per row; (K, C), (K, C) -> ().

    Row i of the products of a class's gradient g with itself is g_i g, of length |g_i| |g|. Divided by it, or by `EPS`
    if it is shorter, it is a_i g with one number a_i, so that no matrix of C x C is needed.
    """
    (a, s), (b, t) = ((x / (x.abs() * x.norm(dim=1, keepdim=True)).clamp(min=EPS), x) for x in (student, teacher))
    squares = a.pow(2).sum(1) * s.pow(2).sum(1) + b.pow(2).sum(1) * t.pow(2).sum(1)
    return (squares - 2 * (a * b).sum(1) * (s * t).sum(1)).mean() / student.shape[1]


@DISTILLERS.register("DISWOT")
class DISWOT(Distiller):
    """Cross-entropy, `sp_loss` of the last stage's maps, and `semantic_loss` of the classifiers' gradients.

    Where the pooled features differ in width, a linear layer takes the student's to the teacher's width.
    """

    config = CN({"LOSS": CN({"CE_WEIGHT": 1.0, "RELATION_WEIGHT": 3000.0, "SEMANTIC_WEIGHT": 1.0})})
    limits = dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.RELATION_WEIGHT", "LOSS.SEMANTIC_WEIGHT"), NOT_NEGATIVE)
    couples_samples = True
    uses_classifier = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, ce_weight: float, relation_weight: float,
        semantic_weight: float, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.relation_weight, self.semantic_weight = ce_weight, relation_weight, semantic_weight
        s, t = (feature_shapes(network, image_shape).pooled for network in (student, self.teacher_network))
        self.projector = nn.Identity() if s == t else nn.Linear(s, t)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        relation = sp_loss(student.features["feats"][-1], teacher.features["feats"][-1])
        mine = classifier_gradient(student.logits, self.projector(student.features["pooled_feat"]), batch.target)
        its = classifier_gradient(teacher.logits, teacher.features["pooled_feat"], batch.target)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "relation": distillation(relation, self.relation_weight),
            "semantic": distillation(semantic_loss(mine, its), self.semantic_weight),
        }
