"""FT: match factors; the teacher's come from an autoencoder of its map (Kim et al., 2018, arXiv:1802.04977)."""

import itertools

from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, Limit
from ..losses import Terms, distillation
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, ImageShape, feature_shapes, same_size, weights


def factor_map(factor: Tensor) -> Tensor:
    """Mean square over a factor's channels, normalised to unit length; (B, C, H, W) -> (B, H * W)."""
    return F.normalize(factor.pow(2).mean(1).flatten(1))


def ft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the factor maps of (B, C, H, W), (B, C', H', W'), as in RepDistiller."""
    s, t = same_size(student, teacher)
    return F.l1_loss(factor_map(s), factor_map(t))


def _layers(channels: list[int]) -> nn.Sequential:
    """3x3 convolutions with these widths, each with BatchNorm and leaky ReLU."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(channels):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


@DISTILLERS.register("FT")
class FT(FeatureDistiller):
    """Cross-entropy, and `ft_loss` on the last maps: translator (student) against paraphraser (teacher).

    The paraphraser learns to reconstruct the teacher's map during the first INIT_EPOCHS epochs, jointly with the
    student instead of before it, by a separate term; its factors are targets, so the student's term never trains it.
    """

    config = CN({"RATE": 0.5, "INIT_EPOCHS": 30, "LOSS": weights(1.0, 200.0)})
    limits = {**WEIGHT_LIMITS, "RATE": Limit("in (0, 1]", lambda v: 0 < v <= 1), "INIT_EPOCHS": AT_LEAST_ONE}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, rate: float, init_epochs: int, ce_weight: float,
        feat_weight: float, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        self.init_epochs = init_epochs
        s, t = (feature_shapes(network, image_shape).feats[-1][0] for network in (student, self.teacher_network))
        factor = max(1, round(t * rate))
        self.encoder, self.decoder = _layers([t, t, factor, factor]), _layers([factor, factor, t, t])
        self.translator = _layers([s, s, factor, factor])

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        factor = self.encoder(teacher.features["feats"][-1])
        return ft_loss(self.translator(student.features["feats"][-1]), factor.detach())

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        terms = super().losses(student, teacher, batch)
        if batch.epoch <= self.init_epochs:
            feature = teacher.features["feats"][-1]
            terms["paraphrase"] = distillation(F.mse_loss(self.decoder(self.encoder(feature)), feature))
        return terms
