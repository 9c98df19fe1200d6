r"""OFA-KD: each stage of the student predicts classes, whatever its architecture (Hao et al., 2023, arXiv:2310.19444).

Paper: One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{KD} O(z^S, z^T) + w_{stage} \sum_l O(h_l(F^S_l), z^T), \quad O(z^S, z^T) = -\sum_c ((t_c +
y_c)^\epsilon - y_c) \log s_c$$ where $y_c$ is 1 for the label and 0 for the other classes, and $h_l$ is the head of
stage $l$.

Code: Hao840/OFAKD f7bb896, distillers/ofa.py:13-140, distillers/utils.py.

Differs: a class token is not part of the maps, so heads of transformers take the mean of the tokens; where no tokens
are merged and the widths differ, a linear layer leads to the classifier's width.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, AT_LEAST_ONE, NOT_NEGATIVE, Limit, one_of
from ..losses import Terms, distillation, label
from ..losses.logit_losses import is_target
from ..models.dummy import ImageShape
from ..models.output import autocast
from ..models.staged import global_pool
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import feature_shapes
from .token_block import AttentionBlock, PatchMerging, init_by_fan_out, tokens_of


def ofakd_loss(student: Tensor, teacher: Tensor, target: Tensor, eps: float, temperature: float = 1.0) -> Tensor:
    """-sum_c [(t + y)^eps - y]_c log s_c, averaged over the batch; (B, C), (B, C), target (B,) -> ().

    y is one for the target, else zero. With eps 1 it is the cross-entropy with the teacher's probabilities; a larger
    one emphasises the target, and more so the more confident the teacher is.
    """
    y = is_target(student, target).to(student.dtype)
    t, log_s = (teacher / temperature).softmax(1), (student / temperature).log_softmax(1)
    return -(((t + y) ** eps - y) * log_s).sum(1).mean()


def separable(source: int, width: int) -> nn.Sequential:
    """Halves a map by two depthwise separable convolutions; the second leads to `width` channels."""
    layers: list[nn.Module] = []
    for stride, out in ((2, source), (1, width)):
        depthwise = nn.Conv2d(source, source, 3, stride, 1, groups=source, bias=False)
        layers += [depthwise, nn.Conv2d(source, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers)


class MapHead(nn.Module):
    """Logits from a map (B, C, H, W) of a CNN that has `later` stages behind it."""

    def __init__(self, source: int, later: int, width: int, classes: int):
        super().__init__()
        widths = [source * 2**i for i in range(later)] + [width]
        downs: list[nn.Module] = [separable(widths[i], widths[i + 1]) for i in range(later)]
        self.down = nn.Sequential(*(downs or [nn.Conv2d(source, width, 1)]))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(global_pool(self.down(x)))


class TokenHead(nn.Module):
    """Logits from the tokens, as a map (B, C, H, W), of a transformer or perceptron with `later` stages behind it."""

    def __init__(self, shape: ImageShape, later: int, width: int, classes: int, *, grid: int, heads: int):
        super().__init__()
        source, side = shape[0], min(shape[1:])
        merges = max(int(math.log2(side / grid)), 0)
        layers: list[nn.Module] = []
        for i in range(merges):
            layers.append(PatchMerging(width if i else source, width))
            # Linear between the last two, if there are several
            layers.append(nn.GELU() if i == 0 or i < merges - 1 else nn.Identity())
        self.merge = nn.Sequential(*layers)
        self.align = nn.Identity() if merges or source == width else nn.Linear(source, width)
        self.blocks = nn.Sequential(*(AttentionBlock(width, heads) for _ in range(max(later, 1))))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.align(tokens_of(self.merge(x)))).mean(1))


@DISTILLERS.register("OFAKD")
class OFAKD(Distiller):
    """Cross-entropy, `ofakd_loss` of the student's logits, and its sum over the heads at STAGES."""

    config = CN(
        {
            "TEMPERATURE": 1.0,
            "EPS": [1.0],  # one for all; or one per stage, then that of the student's logits
            "STAGES": [],  # numbers from 1; empty: all
            "HEADS": "auto",  # kind of the stages' heads: map, tokens; auto: by the student's maps
            "GRID": 7,  # tokens are merged while their grid is at least twice as large
            "ATTENTION_HEADS": 4,
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0, "STAGE_WEIGHT": 1.0}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE,
        "EPS": Limit("numbers > 0, at least one", lambda v: len(v) > 0 and all(e > 0 for e in v)),
        "STAGES": Limit("numbers from 1", lambda v: all(type(i) is int and i >= 1 for i in v)),
        "HEADS": one_of("auto", "map", "tokens"),
        "GRID": AT_LEAST_ONE,
        "ATTENTION_HEADS": AT_LEAST_ONE,
        **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT", "LOSS.STAGE_WEIGHT"), NOT_NEGATIVE),
    }
    needs_teacher_maps = False
    takes_soft_labels = True
    min_batch = 2  # BatchNorm over a single position

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, eps: Sequence[float],
        stages: Sequence[int], heads: str, grid: int, attention_heads: int, ce_weight: float, kd_weight: float,
        stage_weight: float, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.temperature = temperature
        self.ce_weight, self.kd_weight, self.stage_weight = ce_weight, kd_weight, stage_weight
        count = len(student.stage_channels) - 1
        if count < 1:
            raise ValueError("OFAKD uses the student's feature maps, and it has none: set DISTILLER.STUDENT_STAGES")
        self.stages = tuple(stages or range(1, count + 1))
        if max(self.stages) > count:
            raise ValueError(f"OFAKD.STAGES is {list(stages)}; the student has the stages 1 to {count}")
        if len(eps) not in (1, len(self.stages) + 1):
            raise ValueError(
                f"OFAKD.EPS is {list(eps)}; it must be one number, or {len(self.stages) + 1}: for the stages "
                f"{list(self.stages)} and for the logits"
            )
        self.eps = tuple(eps) if len(eps) > 1 else tuple(eps) * (len(self.stages) + 1)
        mine, its = (n.classifier_layer.in_features for n in (student, self.teacher_network))
        shapes, classes = feature_shapes(student, image_shape).feats, student.num_classes
        if heads == "tokens" or (heads == "auto" and student.has_tokens):
            if mine % attention_heads:
                raise ValueError(f"OFAKD.ATTENTION_HEADS is {attention_heads}; it must divide the student's {mine}")
            made: list[nn.Module] = [
                TokenHead(shapes[i], count - i, mine, classes, grid=grid, heads=attention_heads) for i in self.stages
            ]
        else:
            made = [MapHead(shapes[i][0], count - i, max(mine, its), classes) for i in self.stages]
        self.heads = nn.ModuleList(made)
        init_by_fan_out(self.heads)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        def loss(logits: Tensor, eps: float) -> Tensor:
            return ofakd_loss(logits, teacher.logits, batch.classes, eps, self.temperature)

        maps, stages = student.features["feats"], student.logits.new_zeros(())
        for i, eps, head in zip(self.stages, self.eps, self.heads, strict=False):
            with autocast(self.dtype, batch.image):
                logits = head(maps[i])
            stages = stages + loss(logits.to(student.logits.dtype), eps)
        return {
            "ce": label(F.cross_entropy(student.logits, batch.labels), self.ce_weight),
            "kd": distillation(loss(student.logits, self.eps[-1]), self.kd_weight),
            "stages": distillation(stages, self.stage_weight),
        }
