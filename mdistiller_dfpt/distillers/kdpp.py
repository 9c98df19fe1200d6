r"""KD++: KD and features along class directions, no shorter than the teacher's (Wang et al., 2023, arXiv:2305.17007).

Paper: Improving Knowledge Distillation via Regularizing Feature Norm and Direction.

Formula: $$L = w_{CE} CE + w_{KD} r KD_\tau(z^S, z^T) + w_{ND} \left( 1 - \frac{\langle g(f^S), e_y
\rangle}{\max(\|g(f^S)\|, \|f^T\|)} \right)$$ where $e_y$ is the mean of the teacher's features of class $y$ at unit
length, $g$ a projector where the widths differ, and $r$ counts epochs from 0.

Code: WangYZ1608/Knowledge-Distillation-via-ND fc6f3f9, CIFAR/utils.py:44-66, train_cifar_kd.py,
Models/embtrans_cifar.py.

Differs: any pair of different widths has a projector; the authors' list names the four of theirs. Class means are not
rounded.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..distributed import all_reduce
from ..losses import Terms, distillation, label, warm_up
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import ImageShape, feature_shapes, refuse_trained_path
from .kd import kd_loss


def nd_loss(student: Tensor, teacher: Tensor, direction: Tensor) -> Tensor:
    """1 - <s, e> / max(|s|, |t|), averaged; embeddings (B, D), (B, D), unit class directions e (B, D) -> ().

    The loss falls with the norm of s while that is below the teacher's, and always with the angle to e.
    """
    along = (student * direction).sum(1)
    norm = torch.maximum(student.norm(dim=1), teacher.norm(dim=1)).clamp(min=1e-12)
    return (1 - along / norm).mean()


def embedding_projector(student: int, teacher: int) -> nn.Module:
    """The student's pooled feature in the teacher's width: (B, student) -> (B, teacher); unchanged where they agree.

    BatchNorm comes first: after the linear layer it would fix the norm of the embedding, which `nd_loss` is about.
    Source: WangYZ1608/Knowledge-Distillation-via-ND fc6f3f9, CIFAR/Models/embtrans_cifar.py:10-46.
    """
    if student == teacher:
        return nn.Identity()
    linear = nn.Linear(student, teacher)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.BatchNorm1d(student), nn.Dropout(0.5), linear)


@DISTILLERS.register("KDPP")
class KDPP(Distiller):
    """Cross-entropy, `kd_loss`, and `nd_loss` of the student's projected embedding.

    Over the first epochs the weight of KD rises linearly, from 0 in the first one: the authors count epochs from 0
    (CIFAR/train_cifar_kd.py:50-56). The weight of `nd_loss` is constant.
    """

    revision = 2
    config = CN(
        {
            "TEMPERATURE": 4.0,
            "WARMUP_EPOCHS": 20,  # of KD; its weight is 0 in the first epoch
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0, "ND_WEIGHT": 2.0}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "WARMUP_EPOCHS": NOT_NEGATIVE,
        **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT", "LOSS.ND_WEIGHT"), NOT_NEGATIVE),
    }  # fmt: skip
    min_batch = 2  # BatchNorm over the embedding, where the widths differ
    directions: Tensor  # (classes, D), a buffer

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, warmup_epochs: int, ce_weight: float,
        kd_weight: float, nd_weight: float, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        refuse_trained_path(self, "KDPP takes class means of")
        self.temperature, self.warmup_epochs = temperature, warmup_epochs
        self.ce_weight, self.kd_weight, self.nd_weight = ce_weight, kd_weight, nd_weight
        s, t = (feature_shapes(network, image_shape) for network in (student, self.teacher_network))
        self.projector = embedding_projector(s.pooled, t.pooled)
        self.register_buffer("directions", torch.zeros(t.classes, t.pooled))

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """The direction of each class: the mean of the teacher's embeddings of its training images, at unit length."""
        # In float64, as these are sums over a whole training set
        total = torch.zeros_like(self.directions, dtype=torch.float64)
        for batch in batches:
            features = self.teacher(batch)[self.path].features
            total.index_add_(0, batch.target, features["pooled_feat"].double())
        self.directions.copy_(F.normalize(all_reduce(total)))

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        embedding = self.projector(student.features["pooled_feat"])
        direction = self.directions[batch.target]
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "kd": distillation(
                kd_loss(student.logits, teacher.logits, self.temperature),
                self.kd_weight,
                ramp=warm_up(batch.epoch - 1, self.warmup_epochs),
            ),
            "nd": distillation(nd_loss(embedding, teacher.features["pooled_feat"], direction), self.nd_weight),
        }
