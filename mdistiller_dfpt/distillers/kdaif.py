r"""KD-AIF: samples weighted by their influence on held-out ones (Wu et al., 2025, arXiv:2501.02705).

Paper: Knowledge Distillation with Adapted Weight.

Formula: $$L = w_{CE} CE + w_{KD} \, e^{\hat I} KD_\tau(z^S, z^T), \quad I_i = g_{held}^\top (H + \lambda)^{-1} g_i$$
where $g_i$ is the gradient of a sample's cross-entropy in the student's linear classifier, $g_{held}$ the mean one of
held-out samples, $H$ the Hessian, $\lambda$ DAMPING, and $\hat I$ is $I$ scaled to $[-1, 1]$ within the batch.

Code: Sharonwu96/KD-AIF 201330e, pytorch_influence_functions/influence_function.py:10-126,
calc_influence_function.py:163-260, KD_with_IF.ipynb (cells 3 and 4), KD_without_IF.ipynb (cell 10).

Differs: the released code measures influence on test images, on all layers, once, for a student trained before, and
approximates the inverse Hessian by one step of a recursion; here on held-out training images, on the linear
classifier, in each step, and by conjugate gradients. By the sign of its influences, its first notebook gives harmful
samples the larger weights, and its second one (EK-FAC) helpful ones; here, helpful ones. Scores are scaled within a
batch (the code: the training set), and KL has the factor T^2. The formula of the paper itself is not confirmed.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, POSITIVE, Limit
from ..losses import Terms, distillation, label
from ..losses.logit_losses import divergences, label_gradient
from ..models.dummy import ImageShape
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import output_of


def with_ones(features: Tensor) -> Tensor:
    """The inputs of a linear layer, (N, D) -> (N, D + 1): the last one is the bias's."""
    return torch.cat([features, features.new_ones(len(features), 1)], 1)


def hessian_product(x: Tensor, inputs: Tensor, logits: Tensor) -> Tensor:
    """The Hessian of the mean cross-entropy in a linear layer's weights, times x (C, D); (N, D), (N, C) -> (C, D).

    H = mean of (diag(p) - p p^T) x inputs inputs^T. It does not depend on the labels.
    """
    p, along = logits.softmax(1), inputs @ x.T
    curved = p * along - p * (p * along).sum(1, keepdim=True)
    return curved.T @ inputs / len(inputs)


def solved(b: Tensor, inputs: Tensor, logits: Tensor, damping: float, steps: int) -> Tensor:
    """(H + damping)^-1 b by conjugate gradients, (C, D) -> (C, D); b itself for 0 steps."""
    if not steps:
        return b
    x, residual, direction, norm = torch.zeros_like(b), b, b, b.square().sum()
    tiny = torch.finfo(b.dtype).tiny
    for _ in range(steps):
        ahead = hessian_product(direction, inputs, logits) + damping * direction
        length = norm / (direction * ahead).sum().clamp(min=tiny)  # 0 where the solution is reached
        x, residual = x + length * direction, residual - length * ahead
        before, norm = norm, residual.square().sum()
        direction = residual + norm / before.clamp(min=tiny) * direction
    return x


def influence(student: Output, target: Tensor, held: Output, held_target: Tensor, damping: float, steps: int) -> Tensor:
    """How much a larger weight of each sample lowers the held-out cross-entropy, (B,), by the linear classifier.

    g_val^T (H + damping)^-1 g_i, with the gradients of the mean held-out cross-entropy and of the sample's, and H of
    the samples' (Koh and Liang, 2017): the negative derivative of the held-out loss in the sample's weight.
    """
    inputs, theirs = (with_ones(output.features["pooled_feat"]) for output in (student, held))
    of_held = label_gradient(held.logits, held_target).T @ theirs / len(theirs)
    direction = solved(of_held, inputs, student.logits, damping, steps)
    return (label_gradient(student.logits, target) * (inputs @ direction.T)).sum(1)


def influence_weights(scores: Tensor) -> Tensor:
    """exp of the scores (B,), scaled to [-1, 1] by the smallest and the largest; 1 if they are all equal."""
    low, high = scores.aminmax()
    span = high - low
    scaled = 2 * (scores - low) / torch.where(span > 0, span, 1) - 1
    return torch.where(span > 0, scaled, 0).exp()


@DISTILLERS.register("KDAIF")
class KDAIF(Distiller):
    """KD whose samples are weighted by `influence_weights`, and cross-entropy."""

    config = CN(
        {
            "TEMPERATURE": 7.0,
            "HELD_OUT": 0.1,  # share of the training set, which is not trained on
            "DAMPING": 0.25,
            "CG_STEPS": 10,  # of conjugate gradients; 0: the identity in place of the inverse Hessian
            "LOSS": CN({"CE_WEIGHT": 0.0, "KD_WEIGHT": 1.0}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "HELD_OUT": Limit("in (0, 1)", lambda v: 0 < v < 1), "DAMPING": POSITIVE,
        "CG_STEPS": NOT_NEGATIVE, "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    needs_teacher_maps = False
    couples_samples = True  # by the Hessian and by the scaling of the scores
    held_out = 0.1
    uses_classifier = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, held_out: float, damping: float,
        cg_steps: int, ce_weight: float, kd_weight: float, image_shape: ImageShape,
    ):  # fmt: skip
        super().__init__(student, teacher)
        output_of(student, image_shape).features["pooled_feat"]  # refused here without one, not in the first step
        self.temperature, self.held_out = temperature, held_out
        self.damping, self.steps = damping, cg_steps
        self.ce_weight, self.kd_weight = ce_weight, kd_weight

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        held, labels = self.forward_held_out(batch)
        weights = influence_weights(influence(student.detach(), batch.target, held, labels, self.damping, self.steps))
        log_s, log_t = ((x.logits / self.temperature).log_softmax(1) for x in (student, teacher))
        kd = (weights * divergences(log_s, log_t)).mean() * self.temperature**2
        self.log("sample_weight", weights.mean())
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight),
            "kd": distillation(kd, self.kd_weight),
        }
