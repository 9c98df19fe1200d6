r"""DiffKD: denoise the student's features by a diffusion model of the teacher's (Huang et al., 2023, arXiv:2305.15712).

Paper: Knowledge Diffusion for Distillation.

Formula: $$L = w_{CE} CE + w_{KD} (MSE(\hat F^S, F^T) + KD_\tau(\hat z^S, z^T)) + w_{diff} (N(F^T) + N(z^T) + R)$$ where
$\hat F^S$ and $\hat z^S$ are the student's, denoised by the diffusion models, $N(x) = MSE(\epsilon_\theta(\sqrt{a_k} x
+ \sqrt{1 - a_k} \epsilon, k), \epsilon)$ trains these models, $R$ is the autoencoder's squared error, and $F^T$ is the
map as the autoencoder encodes it.

Code: hunto/image_classification_sota 6f7a70a, lib/models/losses/diffkd/, lib/models/losses/kd_loss.py:75-157.

Differs: maps of unequal size are pooled to the smaller one; the code refuses them.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, Limit
from ..losses import Terms, distillation, label
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import ImageShape, feature_shapes, same_size
from .kd import kd_loss

TIMES, EMBEDDINGS = 1000, 1280  # time steps of the diffusion, and rows of the table of their embeddings


def bottleneck(channels: int, reduction: int) -> nn.Sequential:
    """The residual of a map: 1x1, 3x3 and 1x1 convolutions, each with BatchNorm."""
    mid = max(1, channels // reduction)
    convs = [nn.Conv2d(channels, mid, 1), nn.Conv2d(mid, mid, 3, padding=1), nn.Conv2d(mid, channels, 1)]
    layers: list[nn.Module] = []
    for conv in convs:
        layers += [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def pointwise(*widths: int) -> list[nn.Module]:
    """1x1 convolutions of these widths, each with BatchNorm, and a ReLU after every first one."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(a, b, 1), nn.BatchNorm2d(b), *([nn.ReLU()] if i % 2 == 0 else [])]
    return layers


class Residual(nn.Module):
    """x + block(x)."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Denoised(NamedTuple):
    """The refined feature of the student, its target, and the losses of the diffusion model and the autoencoder."""

    student: Tensor
    teacher: Tensor
    diffusion: Tensor
    reconstruction: Tensor


class Diffusion(nn.Module):
    """Student and teacher maps (B, C, H, W), (B, C', H, W) -> `Denoised`; for logits H and W are 1, and `is_map` False.

    The diffusion model learns to predict the noise in features of the teacher, which an autoencoder of `latent`
    channels compresses (0: none). The student's are mixed with noise, by a learned share, and denoised in `steps`.
    """

    cumulated: Tensor

    def __init__(self, source: int, channels: int, *, latent: int, steps: int, is_map: bool):
        super().__init__()
        self.encoder: nn.Module | None = None
        if latent:
            self.encoder = nn.Sequential(nn.Conv2d(channels, latent, 1), nn.BatchNorm2d(latent))
            self.decoder = nn.Conv2d(latent, channels, 1)
            channels = latent
        self.steps = steps
        self.align = nn.Conv2d(source, channels, 1)
        self.times = nn.Embedding(EMBEDDINGS, channels)
        if is_map:
            blocks = [Residual(bottleneck(channels, 4)) for _ in range(2)]
            self.noise_of = nn.Sequential(*blocks, nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
            self.share = nn.Sequential(Residual(bottleneck(channels, 8)), nn.AdaptiveAvgPool2d(1))
        else:
            widths = (channels, 4 * channels, channels, 4 * channels, channels)
            self.noise_of = nn.Sequential(*pointwise(*widths)[:-1])  # without the last BatchNorm
            self.share = nn.Sequential(*pointwise(channels, 2 * channels, channels))
        self.share_head = nn.Linear(channels, 2)
        self.project = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        kept = (1.0 - torch.linspace(1e-4, 0.02, TIMES)).cumprod(0)
        self.register_buffer("cumulated", kept, persistent=False)

    def predicted_noise(self, x: Tensor, time: Tensor) -> Tensor:
        """Of a map (B, C, H, W) at the time steps `time`, () or (B,)."""
        return self.noise_of(x + self.times(time)[..., None, None])

    def refined(self, x: Tensor) -> Tensor:
        """The student's aligned map, mixed with noise and denoised; in evaluation the noise is zero."""
        share = self.share_head(self.share(x).flatten(1)).softmax(1)[:, :1, None, None]
        noise = torch.randn_like(x) if self.training else torch.zeros_like(x)
        x = share * x + (1 - share) * noise
        # The second half of the steps: the student's feature is taken for a partly noisy one
        stride = TIMES // (2 * self.steps)
        for time in range((self.steps - 1) * stride, -1, -stride):
            now = self.cumulated[time]
            before = self.cumulated[time - stride] if time >= stride else torch.ones_like(now)
            noise = self.predicted_noise(x, torch.tensor(time, device=x.device))
            clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
            x = before.sqrt() * clean + (1 - before).sqrt() * noise
        return self.project(x)

    def diffusion_loss(self, x: Tensor) -> Tensor:
        """Mean squared error of the noise that is predicted from noisy teacher features."""
        if self.training:
            noise = torch.randn(x.shape, device=x.device)
            time = torch.randint(0, TIMES, (len(x),), device=x.device)
        else:
            noise, time = torch.zeros_like(x), torch.full((len(x),), TIMES // 2, device=x.device)
        kept = self.cumulated.to(x.dtype)[time][:, None, None, None]
        return F.mse_loss(self.predicted_noise(kept.sqrt() * x + (1 - kept).sqrt() * noise, time), noise.to(x.dtype))

    def forward(self, student: Tensor, teacher: Tensor) -> Denoised:
        student, reconstruction = self.align(student), teacher.new_zeros(())
        if self.encoder is not None:
            hidden = self.encoder(teacher)
            reconstruction = F.mse_loss(self.decoder(hidden), teacher)
            teacher = hidden.detach()
        refined = self.refined(student)
        return Denoised(refined, teacher, self.diffusion_loss(teacher), reconstruction)


@DISTILLERS.register("DIFFKD")
class DiffKD(Distiller):
    """Cross-entropy; the squared difference of the refined last maps and `kd_loss` of the refined logits, as one term.

    The losses of the two diffusion models and of the autoencoder are another.
    """

    config = CN(
        {
            "TEMPERATURE": 1.0,
            "LATENT_DIM": 1024,  # of the autoencoder of the teacher's map; 0: none
            "STEPS": 5,
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0, "DIFFUSION_WEIGHT": 1.0}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "LATENT_DIM": NOT_NEGATIVE,
        "STEPS": Limit("in 1 .. 500", lambda v: 1 <= v <= TIMES // 2),
        **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT", "LOSS.DIFFUSION_WEIGHT"), NOT_NEGATIVE),
    }  # fmt: skip
    min_batch = 2  # BatchNorm over logits

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, latent_dim: int, steps: int,
        ce_weight: float, kd_weight: float, diffusion_weight: float, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.temperature = temperature
        self.ce_weight, self.kd_weight, self.diffusion_weight = ce_weight, kd_weight, diffusion_weight
        mine, its = (feature_shapes(network, image_shape) for network in (student, self.teacher_network))
        self.of_map = Diffusion(mine.feats[-1][0], its.feats[-1][0], latent=latent_dim, steps=steps, is_map=True)
        self.of_logits = Diffusion(mine.classes, its.classes, latent=0, steps=steps, is_map=False)

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        maps = self.of_map(*same_size(student.features["feats"][-1], teacher.features["feats"][-1]))
        logits = self.of_logits(student.logits[..., None, None], teacher.logits[..., None, None])
        refined = kd_loss(logits.student.flatten(1), teacher.logits, self.temperature)
        own = maps.diffusion + maps.reconstruction + logits.diffusion
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "kd": distillation(F.mse_loss(maps.student, maps.teacher) + refined, self.kd_weight),
            "diffusion": distillation(own, self.diffusion_weight),
        }
