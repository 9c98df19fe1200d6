r"""LELP: subclasses along principal components of the teacher's embeddings (Loo et al., 2024, arXiv:2409.20449).

Paper: Linear Projections of Teacher Embeddings for Few-Class Distillation.

Formula: $$L = w_{CE} CE + w_{KD} \tau^2 KL(t' \| s'), \quad t'_{cm} = t_c \, softmax_m(a_{cm} / \tau')$$ where $a_{cm}$
is the coordinate of the teacher's feature along direction $m$ of class $c$, $\tau'$ is SUBCLASS_TEMPERATURE, and $s'$
are the student's softened probabilities of all subclasses, which its prediction of a class sums.

The paper is for few classes; with many, it comes close to KD. The published text that could be read gives the steps and
the probabilities of the subclasses; not confirmed: that coordinates are from the class's mean, one rotation for each
class, and the numbers of subclasses and temperatures.

Code: none found.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE
from ..distributed import all_reduce
from ..losses import Terms, distillation, label
from ..losses.logit_losses import entropy, mean_divergence
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import ImageShape, feature_shapes, refuse_trained_path


def lelp_loss(
    student: Tensor, teacher: Tensor, coordinates: Tensor, temperature: float, subclass_temperature: float
) -> Tensor:
    """T^2 KL between the probabilities of all subclasses; (B, C, S), logits (B, C), (B, C, S) -> ().

    The teacher's probability of a class is divided among its subclasses by the softmax of the sample's coordinates,
    divided by the subclass temperature. With one subclass it is `kd_loss`.
    """
    log_t = (teacher / temperature).log_softmax(1)[:, :, None] + (coordinates / subclass_temperature).log_softmax(2)
    log_s = (student / temperature).flatten(1).log_softmax(1)
    return mean_divergence(log_s, log_t.flatten(1)) * temperature**2


def null_space(weight: Tensor) -> Tensor:
    """An orthonormal basis (D, R) of the embeddings that no logit depends on, for a classifier (C, D)."""
    _, values, rows = torch.linalg.svd(weight, full_matrices=True)
    rank = int((values > values[0] * max(weight.shape) * torch.finfo(weight.dtype).eps).sum())
    return rows[rank:].T


def principal_directions(covariance: Tensor, count: int) -> Tensor:
    """The directions of the largest variance of each class, (C, D, count), orthonormal; covariances (C, D, D)."""
    return torch.linalg.eigh(covariance).eigenvectors[:, :, -count:].flip(2)


class SubclassHead(nn.Module):
    """The deployed network: the student with a classifier of C S subclasses, whose probabilities are summed by class.

    The subclasses' logits (B, C, S) are among the features.
    """

    def __init__(self, student: StagedModel, subclasses: int):
        super().__init__()
        self.student, self.subclasses = student, subclasses
        self.classifier = nn.Linear(student.classifier_layer.in_features, student.num_classes * subclasses)

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        _, features = self.student(image)
        logits = self.classifier(features["pooled_feat"]).unflatten(1, (-1, self.subclasses)).float()
        return logits.logsumexp(2), {**features, "subclass_logits": logits}


@DISTILLERS.register("LELP")
class LELP(Distiller):
    """`lelp_loss`, without the labels by default; the student's own classifier is neither used nor trained.

    The directions of a class are measured in a pass over the training set: the principal components of the teacher's
    embeddings of its images, without what the teacher's classifier sees of them, randomly rotated among each other, so
    that each has the same variance in expectation.
    """

    config = CN(
        {
            "SUBCLASSES": 5,  # of each class
            "TEMPERATURE": 1.0,
            "SUBCLASS_TEMPERATURE": 1.0,  # in units of the teacher's embedding
            "NULL_SPACE": True,  # whether what the teacher's classifier sees of an embedding is left out
            "LOSS": CN({"CE_WEIGHT": 0.0, "KD_WEIGHT": 1.0}),
        }
    )
    limits = {
        "SUBCLASSES": AT_LEAST_ONE, "TEMPERATURE": A_TEMPERATURE, "SUBCLASS_TEMPERATURE": POSITIVE,
        "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.KD_WEIGHT": NOT_NEGATIVE,
    }  # fmt: skip
    takes_soft_labels = True
    rotations: Tensor  # (C, S, S), a buffer, and so are both below
    directions: Tensor  # (C, D, S)
    origins: Tensor  # (C, S): the coordinates of the class's mean embedding

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, subclasses: int, temperature: float,
        subclass_temperature: float, null_space: bool, ce_weight: float, kd_weight: float,
        image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        refuse_trained_path(self, "LELP measures the subclasses of")
        self.temperature, self.subclass_temperature = temperature, subclass_temperature
        self.in_null_space, self.ce_weight, self.kd_weight = null_space, ce_weight, kd_weight
        its = feature_shapes(self.teacher_network, image_shape)
        left = its.pooled - (its.classes if null_space else 0)
        if subclasses > left:
            raise ValueError(
                f"LELP.SUBCLASSES is {subclasses}; the teacher's embedding of {its.pooled} dimensions and its "
                f"{its.classes} classes leave {max(left, 0)}: use fewer"
                + (", or `LELP.NULL_SPACE False`" if null_space else "")
            )
        self.head = SubclassHead(student, subclasses)
        student.classifier_layer.requires_grad_(False)
        drawn = torch.empty(its.classes, subclasses, subclasses)
        self.register_buffer("rotations", torch.stack([nn.init.orthogonal_(q) for q in drawn]))
        self.register_buffer("directions", torch.zeros(its.classes, its.pooled, subclasses))
        self.register_buffer("origins", torch.zeros(its.classes, subclasses))

    @property
    def deployed(self) -> nn.Module:
        return self.head

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Measure the directions of each class and the coordinates of its mean."""
        # In float64, as these are sums over a whole training set
        classes, width, _ = self.directions.shape
        sums = self.directions.new_zeros(classes, 1 + width, 1 + width, dtype=torch.float64)
        for batch in batches:
            embeddings = F.pad(self.teacher(batch)[self.path].features["pooled_feat"].double(), (1, 0), value=1.0)
            for own in batch.target.unique().tolist():
                rows = embeddings[batch.target == own]
                sums[own] += rows.T @ rows
        sums = all_reduce(sums)
        counts = sums[:, :1, :1].clamp(min=1)
        means, squares = sums[:, 0, 1:] / counts[:, 0], sums[:, 1:, 1:] / counts
        covariances = squares - means[:, :, None] * means[:, None, :]
        if self.in_null_space:
            basis = null_space(self.teacher_network.classifier_layer.weight.double())
        else:
            basis = torch.eye(width, dtype=torch.float64, device=sums.device)
        found = principal_directions(basis.T @ covariances @ basis, self.rotations.shape[1])
        self.directions.copy_(basis @ found @ self.rotations.double())
        self.origins.copy_((means[:, None] @ self.directions.double())[:, 0])

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        embedding = teacher.features["pooled_feat"]
        coordinates = torch.einsum("bd,cds->bcs", embedding, self.directions) - self.origins
        predicted = coordinates[torch.arange(len(embedding), device=embedding.device), teacher.logits.argmax(1)]
        # The effective number of subclasses of the predicted class: 1 or all of them say nothing about a sample
        self.log("subclasses", entropy(predicted / self.subclass_temperature).exp().mean())
        loss = lelp_loss(
            student.features["subclass_logits"], teacher.logits, coordinates, self.temperature,
            self.subclass_temperature,
        )  # fmt: skip
        terms = {"kd": distillation(loss, self.kd_weight)}
        if self.ce_weight:
            terms["ce"] = label(F.cross_entropy(student.logits, batch.labels), self.ce_weight)
        return terms
