r"""FCFD: match features by their function in the other network's last stages (Liu et al., 2023, arXiv:2304.11832).

Paper: Function-Consistent Feature Distillation.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^T) + w_{mixed} \sum_m KD_\tau(z^m, z^T) + w_{feat} r \left( \sum_l
d(g_l(F^S_l), F^T_l) + \sum_{m, l} d(F^m_l, F^T_l) \right)$$ where $m$ are the drawn paths that change from one network
to the other by a bridge $g$, the last sum is over those that enter the teacher and the stages behind their bridge, and
$d$ is $MSE$, for the last stage plus that of the pooled activations.

Code: LiuDongyang6/FCFD 2aefb7b, classification/models/meta.py:42-196, classification/cifar/main.py:295-373.

Differs: the bridges are between activations; the code takes maps before the ReLU in all networks but ResNet. The
running statistics of the teacher's BatchNorm do not change; in the code they do.
"""

import contextlib
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE
from ..data.randomness import draw_numbers
from ..losses import Terms, distillation, label, warm_up
from ..models.output import autocast
from ..models.staged import global_pool
from ..models.statistics import batch_statistics
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import ImageShape, feature_shapes, refuse_trained_network
from .kd import kd_loss


class Mixed(NamedTuple):
    """A path through both networks: one up to stage `last`, a bridge, then the other; the stem is stage 0."""

    into_teacher: bool
    last: int


def mixed_paths(stages: int) -> list[Mixed]:
    """All paths that change the network once, after at least one stage and before the last of `stages` (with stem)."""
    return [Mixed(into, last) for into in (False, True) for last in range(1, stages - 1)]


def bridge(source: ImageShape, target: ImageShape) -> nn.Sequential:
    """Maps of shape `source` (C, H, W) to `target`: a convolution, BatchNorm, leaky ReLU.

    ValueError unless the sizes are equal or differ by a factor of two.
    """
    conv: nn.Conv2d | nn.ConvTranspose2d
    if source[1:] == target[1:]:
        conv = nn.Conv2d(source[0], target[0], 3, padding=1, bias=False)
    elif source[1:] == (2 * target[1], 2 * target[2]):
        conv = nn.Conv2d(source[0], target[0], 3, stride=2, padding=1, bias=False)
    elif (2 * source[1], 2 * source[2]) == target[1:]:
        conv = nn.ConvTranspose2d(source[0], target[0], 4, stride=2, padding=1, bias=False)
    else:
        raise ValueError(
            f"FCFD bridges maps of equal size, or of a factor of two; here {source[1]}x{source[2]} and "
            f"{target[1]}x{target[2]}: choose other networks"
        )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(target[0]), nn.LeakyReLU(0.1))


def map_loss(x: Tensor, teacher: Tensor, last: bool) -> Tensor:
    """Mean squared difference of two maps (B, C, H, W); of the last stage also of what the classifier takes of them."""
    loss = F.mse_loss(x, teacher)
    return loss + F.mse_loss(global_pool(x.relu()), global_pool(teacher.relu())) if last else loss


@DISTILLERS.register("FCFD")
class FCFD(Distiller):
    """Cross-entropy, KD of the student and of mixed paths, and `map_loss` of all maps in the teacher's space.

    Each step draws PATHS mixed paths. BatchNorm normalises their maps with the statistics of the batch, and keeps no
    running ones, as they have other statistics than the network's own maps; the teacher's layers do so on its own path
    too, as in the authors' code, which leaves it in training mode.
    """

    config = CN(
        {
            "TEMPERATURE": 4.0,
            "PATHS": 2,
            "WARMUP_EPOCHS": 20,  # of FEAT_WEIGHT
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0, "MIXED_WEIGHT": 1.0, "FEAT_WEIGHT": 5.0}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "PATHS": NOT_NEGATIVE, "WARMUP_EPOCHS": NOT_NEGATIVE,
        "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE, "LOSS.MIXED_WEIGHT": NOT_NEGATIVE,
        "LOSS.FEAT_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    teacher_batch_statistics = True
    takes_soft_labels = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, paths: int, warmup_epochs: int,
        ce_weight: float, kd_weight: float, mixed_weight: float, feat_weight: float,
        image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        for network in (student, self.teacher_network):
            if type(network).stages is StagedModel.stages:
                raise ValueError("FCFD runs single stages, and a network of another library is always run in full: "
                                 "choose networks of this package")  # fmt: skip
        refuse_trained_network(self, "FCFD runs the stages")
        mine, its = (feature_shapes(network, image_shape).feats for network in (student, self.teacher_network))
        if len(mine) != len(its):
            raise ValueError(
                f"FCFD needs equally many stages; the student has {len(mine) - 1} and the teacher {len(its) - 1}"
            )
        self.mixed = mixed_paths(len(mine))
        if paths > len(self.mixed):
            raise ValueError(f"FCFD.PATHS is {paths}; between these networks there are {len(self.mixed)} mixed paths")
        self.temperature, self.paths, self.warmup_epochs = temperature, paths, warmup_epochs
        self.ce_weight, self.kd_weight = ce_weight, kd_weight
        self.mixed_weight, self.feat_weight = mixed_weight, feat_weight
        pairs = list(zip(mine, its, strict=True))[1:]
        self.to_teacher = nn.ModuleList(bridge(s, t) for s, t in pairs)
        self.to_student = nn.ModuleList(bridge(t, s) for s, t in (pairs[:-1] if paths else []))

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        s, t = (output.features["feats"] for output in (student, teacher))
        end, dtype = len(t) - 1, student.logits.dtype
        with autocast(self.dtype, batch.image):
            bridged = {i: self.to_teacher[i - 1](s[i]) for i in range(1, end + 1)}
        feat = mixed = student.logits.new_zeros(())
        feat = feat + sum(map_loss(x.to(dtype), t[i], i == end) for i, x in bridged.items())
        # In this stream the first step uses all bridges between networks of three stages: `check_distiller` asks for it
        for number in draw_numbers(len(self.mixed), self.paths, batch.step, batch.epoch, stream=14):
            path = self.mixed[number]
            with autocast(self.dtype, batch.image):
                if path.into_teacher:
                    maps, logits = self._run_from(self.teacher_network, path.last, bridged[path.last])
                    feat = feat + sum(map_loss(x.to(dtype), t[i], i == end) for i, x in maps.items())
                else:
                    entered = self.to_student[path.last - 1](t[path.last])
                    _, logits = self._run_from(self.student, path.last, entered)
            mixed = mixed + kd_loss(logits.to(dtype), teacher.logits, self.temperature)
        terms = {
            "ce": label(F.cross_entropy(student.logits, batch.labels), self.ce_weight),
            "kd": distillation(kd_loss(student.logits, teacher.logits, self.temperature), self.kd_weight),
            "feat": distillation(feat, self.feat_weight, ramp=warm_up(batch.epoch, self.warmup_epochs)),
        }
        return {**terms, "mixed": distillation(mixed, self.mixed_weight)} if self.paths else terms

    def _run_from(self, network: StagedModel, last: int, x: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """The maps of the stages after `last`, from its map x, and the logits."""
        maps = {}
        with batch_statistics(network) if self.training else contextlib.nullcontext():
            for i, stage in enumerate(network.stages()[last + 1 :], start=last + 1):
                x, _ = stage(x)
                maps[i] = x
            return maps, network.head(x)[0]
