r"""KD-SVD: match relations between stages, each compressed to singular vectors (Lee et al., 2018, ECCV).

Paper: Self-supervised Knowledge Distillation Using Singular Value Decomposition.

Formula: $$L = w_{CE} CE + w_{feat} \sum_{l \ge 2} \|R^S_l - R^T_l\|^2, \quad R_l[i, j, k] = \exp(-(u_l[i, k] - u_{l -
1}[j, k])^2 / 8)$$ where $u_l[:, k]$ is the $k$-th singular vector of a stage's map, times the teacher's singular value;
the student's vectors take the teacher's order and signs.

Code: HobbitLong/RepDistiller b84f547, distiller_zoo/KDSVD.py, bit for bit where both call the same LAPACK routine.
No value is recorded: it depends on the signs of singular vectors, which the routines choose.

Differs: mdistiller takes the vectors over the columns of the image.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, ImageShape, feature_shapes, same_size, stage_pairs, weights

EXTRA = 3  # student singular vectors beyond the teacher's k, as candidates for the alignment


def singular_vectors(feature: Tensor, k: int, over_channels: bool) -> tuple[Tensor, Tensor]:
    """The first k singular values, of unit length (B, k), and vectors (B, C or H * W, k) of (B, C, H, W)."""
    matrix = feature.flatten(2)  # (B, C, N)
    # If two singular values coincide, the derivative does not exist; such a sample passes no gradient
    if matrix.requires_grad:
        matrix.register_hook(_finite_samples)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    vectors = u if over_channels else vh.transpose(1, 2)
    return F.normalize(s[:, :k]), F.normalize(vectors[:, :, :k], dim=1)


def _finite_samples(gradient: Tensor) -> Tensor:
    finite = gradient.isfinite().flatten(1).all(1)
    return torch.where(finite[:, None, None], gradient, 0.0)


def align(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's nearest vector (B, N, k'), with matched sign, for each of the teacher's (B, N, k); (B, N, k).

    The order and sign of singular vectors are arbitrary, so the vectors are aligned before they are compared.
    """
    cosine = student.transpose(1, 2) @ teacher
    nearest = cosine.abs().argmax(1, keepdim=True)
    sign = cosine.gather(1, nearest).sign()
    return student.gather(2, nearest.expand(-1, student.shape[1], -1)) * sign


def _relation(a: Tensor, b: Tensor) -> Tensor:
    """Radial basis function between all pairs of vectors of two stages; (B, N, k), (B, N', k) -> (B, N, N', k)."""
    return torch.exp(-(a[:, :, None] - b[:, None]).pow(2) / 8)


def kdsvd_loss(student: list[Tensor], teacher: list[Tensor], k: int) -> Tensor:
    """Squared difference of the relations between consecutive stages, summed, over the batch; lists of (B, C, H, W).

    The vectors are over channels, as in the paper and in RepDistiller (b84f547, KDSVD.py), if student and teacher are
    equally wide in every stage; otherwise over the positions of the smaller map, which both networks have, a rule of
    this package. mdistiller takes them over the columns of the image, which gives other values.
    """
    over_channels = all(s.shape[1] == t.shape[1] for s, t in zip(student, teacher, strict=True))
    batch, loss, before = student[0].shape[0], student[0].new_zeros(()), None
    for s, t in zip(student, teacher, strict=True):
        # Compress: the leading singular vectors of each stage; spare ones let the student's match in another order
        s, t = same_size(s, t)
        scale, vectors_t = singular_vectors(t.detach(), k, over_channels)
        _, vectors_s = singular_vectors(s, k + EXTRA, over_channels)
        # Align: the student's vectors take the order and the signs of the teacher's
        now = align(vectors_s, vectors_t) * scale[:, None], vectors_t * scale[:, None]
        # Compare: the relation to the previous stage, not the vectors themselves
        if before is not None:
            difference = _relation(now[0], before[0]) - _relation(now[1], before[1])
            loss = loss + difference.pow(2).sum() / batch
        before = now
    return loss


@DISTILLERS.register("KDSVD")
class KDSVD(FeatureDistiller):
    """Cross-entropy and `kdsvd_loss` over the stages."""

    config = CN({"K": 1, "LOSS": weights(1.0, 1.0)})
    limits = {**WEIGHT_LIMITS, "K": AT_LEAST_ONE}

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, k: int, ce_weight: float, feat_weight: float,
        image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        maps = [feature_shapes(network, image_shape).feats for network in (student, self.teacher_network)]
        # A matrix (C, H * W) has at most as many singular vectors as its smaller side
        most = min(min(s[0], t[0], min(s[1], t[1]) * min(s[2], t[2])) for s, t in stage_pairs(*maps))
        if k > most:
            raise ValueError(
                f"KDSVD.K is {k}; a stage of these networks has {most} singular vectors: use at most {most}"
            )
        self.k = k

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = stage_pairs(student.features["feats"], teacher.features["feats"])
        return kdsvd_loss([s for s, _ in pairs], [t for _, t in pairs], self.k)
