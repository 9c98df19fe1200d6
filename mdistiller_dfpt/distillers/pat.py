r"""PAT: match the stages of a prompted teacher, aligned by attention (Lin et al., 2025, ICCV, arXiv:2501.08885).

Paper: Perspective-Aware Teaching: Adapting Knowledge for Heterogeneous Distillation.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^T) + w_{feat} HCL(g(F^S), F^P)$$ where $g$ mixes the student's stages
by attention and aligns them with the prompted teacher's maps $F^P$, and $HCL$ is the loss of ReviewKD. The prompts
descend the same term and $w_{reg} KD_\tau(z^P, z^T) + w_{student} KD_\tau(z^P, sg(z^S))$.

Code: jimmylin0979/PAT a7aff3f, distillers/pat.py:39-89, 441-594, 681-711, 812-1046 (its step, lines 374-434, was read,
not run).

Differs: positions are encoded along the tokens; the authors index the encodings by the sample's place in its batch.
Feedback is zero, not absent, in the first step. With two or three stages there are as many times 16 queries. Where the
widths of a map and its feedback agree, the feedback is only resized. Projections start at a scale that does not depend
on the widths: the authors' diverges where the teacher is much narrower than DIM.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, NOT_NEGATIVE, Limit
from ..losses import Terms, distillation, label
from ..losses.sharded import over_processes
from ..models.output import autocast
from ..teachers.prompted import ORIGINAL, PROMPTED, Prompted, projector
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import ImageShape, feature_shapes, stage_pairs
from .kd import kd_loss
from .reviewkd import hcl_loss, nearest


def positions(count: int, dim: int) -> Tensor:
    """Sines and cosines of positions 0 .. count - 1; (count, dim), for an even dim."""
    angle = torch.arange(count)[:, None] * torch.exp(torch.arange(0, dim, 2) * -(math.log(10000.0) / dim))
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)


class Patches(nn.Module):
    """(B, C, H, W) -> (B, side**2, dim): a map cut into side x side patches, each embedded by one convolution."""

    def __init__(self, channels: int, height: int, side: int, dim: int):
        super().__init__()
        self.side, patch = side, -(-height // side)
        self.size = (patch * side, patch * side)
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < self.side:
            x = nearest(x, (self.side, self.side))
        return self.proj(nearest(x, self.size)).flatten(2).mT


class RegionAttention(nn.Module):
    """Maps of N student stages -> N maps (B, dim, side, side), each a mixture of the patches of all stages."""

    def __init__(self, shapes: Sequence[ImageShape], side: int, dim: int, heads: int):
        super().__init__()
        self.side, self.heads = side, heads
        self.patches = nn.ModuleList(Patches(channels, height, side, dim) for channels, height, _ in shapes)
        self.norm, self.to_q = nn.LayerNorm(dim), nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)  # softmax and the aligners' BatchNorm would remove a bias
        self.register_buffer("place", positions(len(shapes) * side**2, dim), persistent=False)

    def forward(self, maps: Sequence[Tensor], place: Tensor | None = None) -> list[Tensor]:
        """`place`: encodings that are added to queries and keys, by default those of the tokens."""
        tokens = self.norm(torch.cat([patch(x) for patch, x in zip(self.patches, maps, strict=True)], 1))
        place = self.get_buffer("place") if place is None else place
        key, value = self.to_kv(tokens).chunk(2, -1)
        parts = [self.to_q(tokens) + place, key + place, value]
        query, key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in parts)
        mixed = F.scaled_dot_product_attention(query, key.to(query.dtype), value.to(query.dtype))
        stages = mixed.transpose(1, 2).flatten(2).chunk(len(maps), 1)
        return [x.mT.unflatten(2, (self.side, self.side)) for x in stages]


@DISTILLERS.register("PAT")
class PAT(Distiller):
    """Cross-entropy, KD from the unprompted teacher, and `hcl_loss` of aligned student maps and the prompted ones.

    The prompts learn from the same `hcl_loss`, and to leave the teacher's predictions as they are. What the student
    lacked at each stage in one step is the prompts' feedback in the next.
    """

    config = CN(
        {
            **Prompted.config,
            "SIDE": 4,  # the queries of a stage are SIDE x SIDE
            "DIM": 512,
            "HEADS": 8,
            "LOSS": CN(
                {"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0, "FEAT_WEIGHT": 1.0, "REG_WEIGHT": 1.0, "STUDENT_WEIGHT": 0.0}
            ),
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {
        **Prompted.limits, "SIDE": AT_LEAST_ONE, "HEADS": AT_LEAST_ONE,
        "DIM": Limit("an even number >= 2", lambda v: v >= 2 and v % 2 == 0),
        **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT", "LOSS.FEAT_WEIGHT"), NOT_NEGATIVE),
    }  # fmt: skip
    teacher_kind = "prompted"
    builds_teacher = True
    matches_one_path = False
    takes_soft_labels = True
    min_batch = 2  # BatchNorm over maps that may have a single position

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, side: int, dim: int, heads: int,
        ce_weight: float, kd_weight: float, feat_weight: float, image_shape: ImageShape = (3, 32, 32),
        batch_size: int = 64, **prompts: Any,
    ):  # fmt: skip
        if dim % heads:
            raise ValueError(f"PAT.DIM is {dim}; it must be a multiple of PAT.HEADS, {heads}")
        mine = feature_shapes(student, image_shape).feats
        network = teacher if isinstance(teacher, StagedModel) else None
        if network is None:
            raise ValueError("PAT builds its teacher: give it the trained network")
        pairs = stage_pairs(mine, feature_shapes(network, image_shape).feats)
        shapes = [t for _, t in pairs]
        super().__init__(
            student, Prompted(network, temperature=temperature, feedback=shapes, rows=batch_size, **prompts)
        )
        self.temperature = temperature
        self.weights = {"ce": ce_weight, "kd": kd_weight, "feat": feat_weight}
        self.attention = RegionAttention([s for s, _ in pairs], side, dim, heads)
        self.aligners = nn.ModuleList(projector(dim, channels) for channels, _, _ in shapes)

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        return over_processes(self._of_paths, student, paths, batch, couples_samples=False)

    def _of_paths(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        pairs = stage_pairs(student.features["feats"], paths[PROMPTED].features["feats"])
        targets = [t for _, t in pairs]
        with autocast(self.dtype, batch.image):
            mixed = self.attention([s for s, _ in pairs])
            aligned = [
                align(nearest(x, t.shape[2:])).float()
                for align, x, t in zip(self.aligners, mixed, targets, strict=True)
            ]
        if self.training and isinstance(self.teacher, Prompted):
            self.teacher.give_feedback([(s - t).detach() for s, t in zip(aligned, targets, strict=True)], batch.size)
        kd = kd_loss(student.logits, paths[ORIGINAL].logits, self.temperature)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.labels), self.weights["ce"]),
            "kd": distillation(kd, self.weights["kd"]),
            "feat": distillation(hcl_loss(aligned, targets), self.weights["feat"]),
        }
