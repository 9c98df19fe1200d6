r"""AFD: match all pairs of attention maps, weighted by a learned attention (Ji et al., 2021, arXiv:2102.02973).

Paper: Show, Attend and Distill: Knowledge Distillation via Attention-based Feature Matching.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^T) + w_{feat} \sum_{i, j} a_{ij} MSE(e(F^S_j), e(F^T_i))$$ where $e(F)$
is the mean of $F^2$ over the channels, pooled to the size of the teacher's map and scaled to unit length, and $a_{ij} =
softmax_j((q_i^\top k_{ij} + u_i^\top v_j) / \sqrt{d})$ has learned queries $q_i$ of the teacher's map $i$, keys
$k_{ij}$ of the student's map $j$, and vectors $u_i$, $v_j$ of the two places.

Code: clovaai/attention-feature-distillation dd990d0, distill/AFD.py:11-120, utils.py:66-93.

Differs: the maps are those after the stages; the code takes those after the residual blocks.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, AT_LEAST_ONE, NOT_NEGATIVE
from ..losses import Terms, distillation, label
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import ImageShape, feature_shapes
from .kd import kd_loss


def spatial_energy(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean square over the channels, pooled to `size`, of unit length; (B, C, H, W) -> (B, size[0] * size[1])."""
    energy = x.pow(2).mean(1, keepdim=True)
    return F.normalize(F.adaptive_avg_pool2d(energy, size).flatten(1))


def afd_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], attention: Tensor) -> Tensor:
    """Mean squared differences of the energies of all pairs of maps (B, C, H, W), weighted by `attention` (B, T, S).

    Summed over the T maps of the teacher and the S of the student; each teacher's row of the attention sums to 1.
    """
    loss = attention.new_zeros(())
    for i, t in enumerate(teacher):
        size = (t.shape[2], t.shape[3])
        target = spatial_energy(t, size)
        errors = torch.stack([(spatial_energy(s, size) - target).pow(2).mean(1) for s in student], 1)
        loss = loss + (errors * attention[:, i]).sum(1).mean()
    return loss


class PairAttention(nn.Module):
    """The weight of each pair of maps: queries from the teacher's mean activations, keys from the student's.

    Maps of student and teacher -> (B, T, S); the softmax is over the student's maps.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], dim: int):
        super().__init__()
        self.scale = math.sqrt(dim)
        self.queries = nn.ModuleList(_linear_bn(channels, dim) for channels in teacher)
        self.keys = nn.ModuleList(_linear_bn(channels, dim) for channels in student)
        self.bilinear = _linear_bn(dim, dim * len(teacher))  # a key for each of the teacher's maps
        self.position_t = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(teacher), dim)))
        self.position_s = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(student), dim)))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        query = torch.stack([layer(t.mean((2, 3))) for layer, t in zip(self.queries, teacher, strict=True)], 1)
        key = torch.stack([layer(s.mean((2, 3))).relu() for layer, s in zip(self.keys, student, strict=True)], 1)
        keys = self.bilinear(key.flatten(0, 1)).unflatten(0, key.shape[:2]).unflatten(2, (len(teacher), -1))
        scores = torch.einsum("btd,bstd->bts", query, keys) + self.position_t @ self.position_s.T
        return (scores / self.scale).softmax(2)


def _linear_bn(in_features: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, features, bias=False), nn.BatchNorm1d(features))


@DISTILLERS.register("AFD")
class AFD(Distiller):
    """Cross-entropy, `kd_loss`, and `afd_loss` on the maps of all stages."""

    config = CN(
        {
            "TEMPERATURE": 4.0,
            "DIM": 128,
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 0.9, "FEAT_WEIGHT": 200.0}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "DIM": AT_LEAST_ONE,
        **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT", "LOSS.FEAT_WEIGHT"), NOT_NEGATIVE),
    }  # fmt: skip
    min_batch = 2  # BatchNorm over vectors

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, dim: int, ce_weight: float,
        kd_weight: float, feat_weight: float, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.temperature = temperature
        self.ce_weight, self.kd_weight, self.feat_weight = ce_weight, kd_weight, feat_weight
        mine, its = (feature_shapes(network, image_shape).feats[1:] for network in (student, self.teacher_network))
        self.attention = PairAttention([shape[0] for shape in mine], [shape[0] for shape in its], dim)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        s, t = (x.features["feats"][1:] for x in (student, teacher))
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "kd": distillation(kd_loss(student.logits, teacher.logits, self.temperature), self.kd_weight),
            "feat": distillation(afd_loss(s, t, self.attention(s, t)), self.feat_weight),
        }
