r"""KD3: unlabelled images from the web, selected by both networks (Tang et al., 2023, arXiv:2307.11469).

Paper: Distribution Shift Matters for Knowledge Distillation with Webly Collected Images.

Formula: $$L = w_{CE} CE + [c \ge c_{min}] \left( w_{KD} KD_\tau(z^S, z^T) + w_{feat} \, c \, MSE(g(F^S), F^T) + w_{con}
NCE(\tilde x, x) \right)$$ where all but $CE$ is of unlabelled images, $c = \max_k (u s_k + (1 - u) t_k)$ at temperature
1, $u$ rises from 0 to STUDENT_SHARE, $c_{min}$ is THRESHOLD, and $NCE$ is the cross-entropy of finding an image among
those of the batch, from its perturbed version, by the cosines of their projected features.

Code: none found.

Differs: the paper's equations could not be read. Its three parts are as its abstract and section titles describe them:
selection by combined predictions (section 3.2), a shared classifier and weighted features (3.3), a contrast with images
of mixed distributions (3.4). Not confirmed are all constants, the rule of selection, by what features are weighted,
that statistics are mixed of images rather than of feature maps, and what is contrasted. The paper uses no labelled
images: that is CE_WEIGHT 0.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Limit
from ..data.randomness import random_bits_of
from ..distributed import all_gather, rank, world_size
from ..losses import Terms, distillation, label
from ..losses.logit_losses import divergences
from ..losses.sharded import over_processes
from ..models.dummy import ImageShape
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike, checked_output
from .feature import same_size
from .simkd import ReusedClassifier

STREAM = 16  # of random numbers
A_SHARE = Limit("in [0, 1]", lambda v: 0 <= v <= 1)


def selected(student: Tensor, teacher: Tensor, share: float, threshold: float) -> tuple[Tensor, Tensor]:
    """Which samples are used, and their confidences; logits (B, C), (B, C) -> (B,) bool, (B,).

    The confidence is the largest probability of the mean of both predictions, of which the student's has weight
    `share`; samples from `threshold` on are used.
    """
    mean = share * student.softmax(1) + (1 - share) * teacher.softmax(1)
    confidence = mean.max(1).values
    return confidence >= threshold, confidence


def mixed_statistics(image: Tensor, kept: Tensor, total: int | None = None) -> Tensor:
    """Images with other contrast and colour: of their own statistics in part, the rest of another sample's.

    (B, 3, H, W) -> (B, 3, H, W). The statistics are mean and deviation of each channel (as Zhou et al., 2021,
    arXiv:2104.02008, mix those of feature maps); the other sample is the one at the same place from the end of the
    batch of `total` in all processes, `kept` (total,) the part that stays.
    """
    own = slice(rank(), None, world_size())
    mean, std = image.mean((2, 3)), image.std((2, 3)) + 1e-6
    part = kept[own, None]
    new_mean, new_std = (torch.lerp(all_gather(x, total).flip(0)[own], x, part) for x in (mean, std))
    mean, std, new_mean, new_std = (x[:, :, None, None] for x in (mean, std, new_mean, new_std))
    return (image - mean) / std * new_std + new_mean


def drawn(count: int, alpha: float, seed: int) -> Tensor:
    """Numbers (count,) of Beta(alpha, alpha), a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch._standard_gamma(torch.full((2, count), alpha, dtype=torch.float64), generator=generator)
    return a / (a + b)


def contrast(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding sample i of x among all of y by its cosine; (B, D), (B, D) -> (B,)."""
    scores = F.normalize(x) @ F.normalize(y).T / temperature
    return F.cross_entropy(scores, torch.arange(len(x), device=x.device), reduction="none")


@DISTILLERS.register("KD3")
class KD3(Distiller):
    """On selected unlabelled images: KD, squared differences of features, and a contrast with perturbed images.

    The student ends in a projector and the teacher's frozen classifier. The weight of its predictions in the selection
    rises linearly from 0 to STUDENT_SHARE over the run. With CE_WEIGHT 0, labelled images are only classified for the
    log: no gradient and no running statistics come from them.
    """

    config = CN(
        {
            "TEMPERATURE": 4.0,
            "STUDENT_SHARE": 0.5,
            "THRESHOLD": 0.5,
            "ALPHA": 0.1,  # of the Beta distribution of a perturbed image's share of its own statistics
            "CONTRAST_TEMPERATURE": 0.5,
            "FACTOR": 2,  # of the projector's bottleneck
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0, "FEAT_WEIGHT": 1.0, "CONTRAST_WEIGHT": 0.1}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "STUDENT_SHARE": A_SHARE, "THRESHOLD": A_SHARE, "ALPHA": POSITIVE,
        "CONTRAST_TEMPERATURE": POSITIVE, "FACTOR": AT_LEAST_ONE, "LOSS.CE_WEIGHT": NOT_NEGATIVE,
        "LOSS.KD_WEIGHT": NOT_NEGATIVE, "LOSS.FEAT_WEIGHT": NOT_NEGATIVE, "LOSS.CONTRAST_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    needs_extra = True
    couples_samples = True
    takes_soft_labels = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, student_share: float, threshold: float,
        alpha: float, contrast_temperature: float, factor: int, ce_weight: float, kd_weight: float, feat_weight: float,
        contrast_weight: float, epochs: int, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.reused = ReusedClassifier.of(self, factor, image_shape)
        self.temperature, self.contrast_temperature = temperature, contrast_temperature
        self.share, self.threshold, self.alpha, self.epochs = student_share, threshold, alpha, epochs
        self.uses_labelled, self.ce_weight, self.kd_weight = ce_weight > 0, ce_weight, kd_weight
        self.feat_weight, self.contrast_weight = feat_weight, contrast_weight
        self.seed = int(torch.randint(2**31, (), device="cpu"))

    @property
    def deployed(self) -> nn.Module:
        return self.reused

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        if not self.uses_labelled:
            return {}
        return {"ce": label(F.cross_entropy(student.logits, batch.labels), self.ce_weight)}

    def extra_terms(self, batch: Batch) -> Terms:
        if batch.extra is None:
            raise ValueError("KD3 needs batches with unlabelled images: see DATASET.EXTRA")
        extra = batch.extra
        seed = random_bits_of(extra.step, self.seed, extra.epoch, STREAM)
        kept = drawn(extra.size, self.alpha, seed).to(extra.image)
        student = self.forward_student(extra.image)
        with torch.no_grad():
            teacher = checked_output(self.teacher(extra), self.path, type(self.teacher), student).detach()
        views = {
            "teacher": teacher,
            "perturbed": self.forward_student(mixed_statistics(extra.image, kept, extra.total)),
        }
        share = self.share * (batch.epoch - 1) / max(self.epochs - 1, 1)

        def losses(student: Output, views: Mapping[str, Output], extra: Batch) -> Terms:
            return self.web_losses(student, views["teacher"], views["perturbed"], share)

        return over_processes(losses, student, views, extra, couples_samples=True)

    def web_losses(self, student: Output, teacher: Output, perturbed: Output, share: float) -> Terms:
        """The terms of unlabelled images; those that are not selected count as 0."""
        is_used, confidence = selected(student.logits.detach(), teacher.logits, share, self.threshold)
        used = is_used.to(confidence)
        self.log("selected", used.mean())
        log_s, log_t = ((out.logits / self.temperature).log_softmax(1) for out in (student, teacher))
        mine, its = same_size(student.features["projected"], teacher.features["head_map"])
        x, y = (out.features["projected"].mean((2, 3)) for out in (student, perturbed))
        return {
            "kd": distillation((used * divergences(log_s, log_t)).mean() * self.temperature**2, self.kd_weight),
            "feat": distillation((used * confidence * (mine - its).square().mean((1, 2, 3))).mean(), self.feat_weight),
            "contrast": distillation((used * contrast(y, x, self.contrast_temperature)).mean(), self.contrast_weight),
        }
