r"""FT: match factors; the teacher's come from an autoencoder of its map (Kim et al., 2018, arXiv:1802.04977).

Paper: Paraphrasing Complex Network: Network Compression via Factor Transfer.

Formula: $$L = w_{CE} CE + w_{feat} \, mean |a(g_S(F^S)) - a(g_T(F^T))|, \quad a(F) = \frac{q}{\|q\|}, \quad q =
\frac{1}{C'} \sum_c F_c^2$$ where $g_T$ is the encoder of the paraphraser, and $g_S$ the translator, both with $C'$
channels.

Code: HobbitLong/RepDistiller b84f547, distiller_zoo/FT.py:7-30, models/util.py:7-62, helper/pretrain.py (the authors'
Factor-Transfer-pytorch 19cce26 was read, not run).

Differs: the authors' code normalises the factor itself instead of its square, at a weight of 500.
"""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, POSITIVE, Limit
from ..distributed import all_reduce
from ..errors import DivergedError
from ..teachers.momenta import Momenta
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import (
    WEIGHT_LIMITS,
    FeatureDistiller,
    ImageShape,
    feature_shapes,
    refuse_trained_path,
    same_size,
    weights,
)  # fmt: skip


def factor_map(factor: Tensor) -> Tensor:
    """Mean square over a factor's channels, normalised to unit length; (B, C, H, W) -> (B, H * W)."""
    return F.normalize(factor.pow(2).mean(1).flatten(1))


def ft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the factor maps of (B, C, H, W), (B, C', H', W') (RepDistiller b84f547, FT.py:16-30).

    The authors' code (Factor-Transfer-pytorch 19cce26) normalises the factor itself, at a weight of 500.
    """
    s, t = same_size(student, teacher)
    return F.l1_loss(factor_map(s), factor_map(t))


def _layers(channels: list[int], layer: type[nn.Conv2d | nn.ConvTranspose2d], *, norm: bool) -> nn.Sequential:
    """3x3 convolutions with these widths, each with leaky ReLU, and if `norm` with BatchNorm, which removes a bias."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(channels):
        layers += [layer(a, b, 3, padding=1, bias=not norm), *([nn.BatchNorm2d(b)] if norm else []), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class Paraphraser(nn.Module):
    """The autoencoder of the teacher's map, without BatchNorm: (B, C, H, W) -> its reconstruction."""

    def __init__(self, channels: int, factor: int):
        super().__init__()
        self.encoder = _layers([channels, channels, factor, factor], nn.Conv2d, norm=False)
        self.decoder = _layers([factor, factor, channels, channels], nn.ConvTranspose2d, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


@DISTILLERS.register("FT")
class FT(FeatureDistiller):
    """Cross-entropy, and `ft_loss` on the last maps: translator (student) against paraphraser (teacher).

    The paraphraser learns to reconstruct the teacher's map in INIT_EPOCHS epochs before the first one of the student,
    by SGD at the constant rate INIT_LR (RepDistiller b84f547, helper/pretrain.py), and is frozen afterwards.
    """

    revision = 2
    config = CN({"RATE": 0.5, "INIT_EPOCHS": 30, "INIT_LR": 0.01, "LOSS": weights(1.0, 200.0)})
    limits = {
        **WEIGHT_LIMITS, "RATE": Limit("in (0, 1]", lambda v: 0 < v <= 1), "INIT_EPOCHS": AT_LEAST_ONE,
        "INIT_LR": POSITIVE,
    }  # fmt: skip

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, rate: float, init_epochs: int, init_lr: float,
        ce_weight: float, feat_weight: float, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        refuse_trained_path(self, "FT trains its paraphraser on")
        self.passes, self.init_lr = init_epochs, init_lr
        s, t = (feature_shapes(network, image_shape).feats[-1][0] for network in (student, self.teacher_network))
        factor = max(1, int(t * rate))
        self.paraphraser = Paraphraser(t, factor).requires_grad_(False)
        self.momenta = Momenta(self.paraphraser.parameters())
        self.translator = _layers([s, s, factor, factor], nn.Conv2d, norm=True)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """One epoch of the paraphraser's training, by the mean squared error of its reconstructions."""
        own = list(self.paraphraser.requires_grad_().parameters())
        errors, samples, epoch = [], 0, 0
        for batch in batches:
            feature = self.teacher(batch)[self.path].features["feats"][-1]
            loss = F.mse_loss(self.paraphraser(feature), feature) * (len(batch.target) / batch.size)
            self.momenta.step(own, torch.autograd.grad(loss, own), self.init_lr)
            errors.append(loss.detach() * batch.size)
            samples, epoch = samples + batch.size, batch.epoch
        self.paraphraser.requires_grad_(False)
        mean = all_reduce(torch.stack(errors).sum()).item() / samples
        if not mean < float("inf"):
            raise DivergedError(f"FT: the paraphraser's error is {mean}; lower FT.INIT_LR (now {self.init_lr})")
        print(f"FT: paraphraser, epoch {self.passes + epoch}/{self.passes}: error {mean:.4g}", flush=True)

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        factor = self.paraphraser.encoder(teacher.features["feats"][-1])
        return ft_loss(self.translator(student.features["feats"][-1]), factor)
