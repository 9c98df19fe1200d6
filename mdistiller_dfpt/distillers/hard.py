r"""HARD: images augmented so that teacher and student disagree (Nix et al., 2023, arXiv:2305.14890).

Paper: HARD: Hard Augmentations for Robust Distillation.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^T) + w_{hard} KD_\tau(z^S_a, z^T_a) + w_{cons} KD_\tau(z^T_a, z^T)$$
where $a$ is the augmented image; the augmentor ascends the third term, ASCENT times as fast as the student descends it,
and descends the fourth.

Code: none found.

Differs: written from the abstract, the only text at hand. Not confirmed are the form of the augmentation (one affine
map, and a gain and shift of each channel, per image), its network, ranges and start, the divergences, their weights,
and the single step of reversed gradients for both players. The paper's variational autoencoder is left out.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, AT_LEAST_ONE, FRACTION, NOT_NEGATIVE
from ..losses import Terms, distillation, label
from ..losses.sharded import over_processes
from ..models.output import as_output, autocast
from ..teachers.draws import Draws
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .ctkd import scale_gradient
from .feature import refuse_trained_network
from .kd import kd_loss

NOISE = 8  # random numbers per image, so that a view is not a function of the image alone


class Augmentor(nn.Module):
    """Images (B, 3, H, W), noise (B, NOISE) -> images of the same shape; at first the identity.

    A small network predicts, per image, an affine map within `spatial` of the identity (in units of half the image),
    and a gain within `color` of 1 and a shift within `color` of 0 for each channel. What leaves the image is mirrored.
    """

    def __init__(self, width: int, spatial: float, color: float):
        super().__init__()
        self.spatial, self.color = spatial, color
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.hidden, self.out = nn.Linear(width + NOISE, width), nn.Linear(width, 12)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        hidden = self.hidden(torch.cat([self.features(image), noise], 1)).relu()
        affine, gain, shift = self.out(hidden).tanh().split([6, 3, 3], 1)
        identity = torch.eye(2, 3, device=image.device, dtype=image.dtype)
        theta = identity + self.spatial * affine.unflatten(1, (2, 3))
        grid = F.affine_grid(theta, list(image.shape), align_corners=False)
        moved = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
        return moved * (1 + self.color * gain[..., None, None]) + self.color * shift[..., None, None]


@DISTILLERS.register("HARD")
class HARD(Distiller):
    """Cross-entropy and KD on the images, KD on augmented ones, and the teacher's consistency between the two.

    The augmentor ascends, ASCENT times as fast, the KD on its images that the student descends; it descends the
    divergence of the teacher's predictions from those on the images, by which the student learns nothing.
    """

    config = CN(
        {
            "TEMPERATURE": 4.0,
            "ASCENT": 1.0,
            "WIDTH": 32,  # of the augmentor's network
            "SPATIAL": 0.3,  # range of the affine map
            "COLOR": 0.3,  # range of gain and shift
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0, "HARD_WEIGHT": 1.0, "CONSISTENCY_WEIGHT": 1.0}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "ASCENT": NOT_NEGATIVE, "WIDTH": AT_LEAST_ONE, "SPATIAL": FRACTION,
        "COLOR": FRACTION,
        **dict.fromkeys(
            ("LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT", "LOSS.HARD_WEIGHT", "LOSS.CONSISTENCY_WEIGHT"), NOT_NEGATIVE
        ),
    }  # fmt: skip
    needs_teacher_maps = True  # the teacher's network itself: the path of an ensemble has only logits
    takes_soft_labels = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, ascent: float, width: int,
        spatial: float, color: float, ce_weight: float, kd_weight: float, hard_weight: float,
        consistency_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        refuse_trained_network(self, "HARD takes gradients through the layers")
        self.temperature, self.ascent = temperature, ascent
        self.weights = {"kd": kd_weight, "hard": hard_weight, "consistency": consistency_weight}
        self.ce_weight = ce_weight
        self.augmentor = Augmentor(width, spatial, color)
        self.draws = Draws()

    def terms(self, student: Output, paths: Mapping[str, Output], batch: Batch) -> Terms:
        image = self.augmentor(batch.image, self.draws.normal(batch, (NOISE,), 0))
        with autocast(self.dtype, image):
            teacher = as_output(self.teacher_network(image))
        # Between the student and its images the gradient changes its sign: the weights descend, the images ascend
        outputs = {
            "teacher": self.matched_output(student, paths, batch), "teacher_hard": teacher,
            "student_hard": self.forward_student(scale_gradient(image, -self.ascent)),
        }  # fmt: skip
        return over_processes(self._both_views, student, outputs, batch, couples_samples=False)

    def _both_views(self, student: Output, others: Mapping[str, Output], batch: Batch) -> Terms:
        plain, hard = others["teacher"].logits, others["teacher_hard"].logits
        pairs = {
            "kd": (student.logits, plain),
            "hard": (others["student_hard"].logits, scale_gradient(hard, -self.ascent)),
            "consistency": (hard, plain),
        }
        return {
            "ce": label(F.cross_entropy(student.logits, batch.labels), self.ce_weight),
            **{name: distillation(kd_loss(*pair, self.temperature), self.weights[name])
               for name, pair in pairs.items()},
        }  # fmt: skip
