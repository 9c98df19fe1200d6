r"""SP: match pairwise similarities of samples (Tung & Mori, 2019, arXiv:1907.09682).

Paper: Similarity-Preserving Knowledge Distillation.

Formula: $$L = w_{CE} CE + w_{feat} MSE(n(G^S), n(G^T)), \quad G_{ij} = \langle F_i, F_j \rangle$$ for the maps of the
last stage of two samples $i$ and $j$, where $n$ scales each row to unit length.

Code: HobbitLong/RepDistiller b84f547, distiller_zoo/SP.py (verified by the paper's author, as it says);
megvii-research/mdistiller a08d46f, mdistiller/distillers/SP.py.
"""

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from .base import DISTILLERS, Batch, Output
from .feature import FeatureDistiller, weights


def similarity(feature: Tensor) -> Tensor:
    """Inner products of the samples' features, each row normalised to unit length; (B, ...) -> (B, B)."""
    flat = feature.flatten(1)
    return F.normalize(flat @ flat.T)


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the similarity matrices of features (B, ...), whose shapes may differ (equation 4)."""
    return F.mse_loss(similarity(student), similarity(teacher))


@DISTILLERS.register("SP")
class SP(FeatureDistiller):
    """Cross-entropy and `sp_loss` on the last stage's maps."""

    config = CN({"LOSS": weights(1.0, 3000.0)})
    couples_samples = True

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return sp_loss(student.features["feats"][-1], teacher.features["feats"][-1])
