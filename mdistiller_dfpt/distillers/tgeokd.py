r"""TGeo-KD: a learned share of the teacher and of the labels for each sample (Hu et al., 2024, arXiv:2312.15112).

Paper: Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation.

Formula: $$L = w \ell, \quad \ell = a KD_\tau(z^S, z^T) + (1 - a) CE, \quad L_a = w_{held} \frac{CE_{held}(\theta - \eta
\nabla \ell) - CE_{held}(\theta)}{\eta}$$ where the controller, which gives the share $a$ of each sample, descends
$L_a$; $\theta$ are the weights of the student's linear classifier, $\eta$ is STEP_SIZE, and $CE_{held}$ the
cross-entropy of held-out samples.

Code: Chengming0501/TGeo-KD 5a69cbe, src/fusion_ratio_bilevel.py:54-102, 126-150, src/network.py:16-36.

Differs: the released code computes the shares without gradient, so that its controller never learns; here it learns,
from the cross-entropy of held-out samples after one gradient step of the student's linear classifier, as the paper's
upper level asks. It is trained by the run's optimiser (the code: Adam), on steps of one batch each (all samples). The
code applies cross-entropy to probabilities, as if they were logits; here, to logits.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, POSITIVE, Limit
from ..distributed import all_reduce
from ..losses import Terms, distillation
from ..losses.logit_losses import divergences, is_target, label_gradient
from ..losses.term import own
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import refuse_trained_path

STATE = 9  # vectors over the classes that the controller sees


def geometry(student: Tensor, teacher: Tensor, truth: Tensor, mean: Tensor) -> Tensor:
    """What the controller sees of each sample: four distributions and five squared differences; (B, C) x 4 -> (B, 9 C).

    `mean`: the teacher's mean distribution over the sample's class.
    """
    pairs = ((mean, student), (truth, student), (teacher, student), (teacher, truth), (mean, truth))
    return torch.cat([student, teacher, truth, mean, *((a - b).square() for a, b in pairs)], 1)


def controller(classes: int) -> nn.Sequential:
    """The network from `geometry` (B, 9 C) to the teacher's share (B, 1), in (0, 1)."""
    layers = [nn.Linear(STATE * classes, 32), nn.LeakyReLU(), nn.Linear(32, 16), nn.LeakyReLU(), nn.Linear(16, 1)]
    return nn.Sequential(*layers, nn.Sigmoid())


def sample_losses(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(temperature**2 KL(teacher || student), cross-entropy) of each sample; (B, C), (B, C), (B,) -> (B,), (B,)."""
    log_s, log_t = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return temperature**2 * divergences(log_s, log_t), F.cross_entropy(student, target, reduction="none")


def slopes(student: Tensor, teacher: Tensor, target: Tensor, share: Tensor, temperature: float) -> Tensor:
    """The gradient of share KD + (1 - share) CE of each sample in its logits, (B, C); `share` (B,) keeps its graph."""
    of_kd = temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1))
    return share[:, None] * of_kd + (1 - share[:, None]) * label_gradient(student, target)


def logits_after_step(held: Output, features: Tensor, slopes: Tensor, step: float, *, bias: bool) -> Tensor:
    """The logits (K, C) of held-out samples after a gradient step of the linear classifier on a batch.

    `features` (B, D), `slopes` (B, C): of the batch, whose loss is a mean. A step changes the weights by
    -step / B sum_i slopes_i x features_i and the bias by -step / B sum_i slopes_i, hence the logits of held-out
    features h by -step / B sum_i (h . features_i + 1) slopes_i.
    """
    kernel = held.features["pooled_feat"] @ features.T + float(bias)
    return held.logits - step / len(features) * (kernel @ slopes)


@DISTILLERS.register("TGEOKD")
class TGeoKD(Distiller):
    """Each sample's KD and cross-entropy, in shares by a controller that learns from held-out samples.

    Its term is by how much the step of `logits_after_step` changes the held-out cross-entropy, per unit of step size:
    exact for a plain gradient step of the classifier, with the layers below as they are; momentum, weight decay and the
    change of the features are left out. Only the controller gets its gradient, and the student's term gives it none.
    """

    config = CN(
        {
            "TEMPERATURE": 4.0,
            "HELD_OUT": 0.1,  # share of the training set, on which the controller learns and the student does not
            "STEP_SIZE": 0.05,  # of the step that the controller looks ahead
            "LOSS": CN({"WEIGHT": 1.0, "HELD_OUT_WEIGHT": 1.0}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "HELD_OUT": Limit("in (0, 1)", lambda v: 0 < v < 1), "STEP_SIZE": POSITIVE,
        "LOSS.WEIGHT": NOT_NEGATIVE, "LOSS.HELD_OUT_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    needs_teacher_maps = False
    couples_samples = True  # the step that the controller looks ahead is on the whole batch
    held_out = 0.1
    uses_classifier = True
    means: Tensor  # (C, C), a row per class

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, held_out: float, step_size: float,
        weight: float, held_out_weight: float,
    ):  # fmt: skip
        super().__init__(student, teacher)
        refuse_trained_path(self, "TGEOKD takes class means of")
        self.temperature, self.held_out, self.step_size = temperature, held_out, step_size
        self.weight, self.held_out_weight = weight, held_out_weight
        classes = student.num_classes
        self.controller = controller(classes)
        self.register_buffer("means", torch.full((classes, classes), 1 / classes))

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """The teacher's mean distribution over each class of the training images."""
        # In float64, as these are sums over a whole training set
        sums = torch.zeros_like(self.means, dtype=torch.float64)
        for batch in batches:
            sums.index_add_(0, batch.target, self.teacher(batch)[self.path].logits.softmax(1).double())
        sums = all_reduce(sums)
        counts = sums.sum(1, keepdim=True)
        # A class without samples has the uniform distribution
        self.means.copy_(torch.where(counts > 0, sums / counts.clamp(min=1), 1 / len(sums)))

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        s, t, y = student.logits, teacher.logits, batch.target
        fixed = student.detach()
        truth = is_target(s, y).to(s.dtype)
        share = self.controller(geometry(fixed.logits.softmax(1), t.softmax(1), truth, self.means[y]))[:, 0]
        # Lower level: the student, with the shares as they are
        kd, ce = sample_losses(s, t, y, self.temperature)
        loss = (share.detach() * kd + (1 - share.detach()) * ce).mean()
        # Upper level: the controller, by what the student's next step does to held-out samples
        held, labels = self.forward_held_out(batch)
        slope = slopes(fixed.logits, t, y, share, self.temperature)
        bias = self.student.classifier_layer.bias is not None
        after = logits_after_step(held, fixed.features["pooled_feat"], slope, self.step_size, bias=bias)
        change = F.cross_entropy(after, labels) - F.cross_entropy(held.logits, labels)
        self.log("share", share.mean())
        return {
            "kd": distillation(loss, self.weight, inside=None),  # with the labels, in shares that change
            "held_out": own(change / self.step_size, self.held_out_weight),
        }
