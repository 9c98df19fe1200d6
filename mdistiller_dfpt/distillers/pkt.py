r"""PKT: match the probability that two samples are neighbours (Passalis & Tefas, 2018, arXiv:1803.10837).

Paper: Learning Deep Representations with Probabilistic Knowledge Transfer.

Formula: $$L = w_{CE} CE + w_{feat} \frac{1}{B^2} \sum_{i, j} q^T_{ij} \log \frac{q^T_{ij}}{q^S_{ij}}, \quad q_{ij} =
\frac{1 + \cos(f_i, f_j)}{\sum_k (1 + \cos(f_i, f_k))}$$

Code: passalis/probabilistic_kt a58fd1b, nn/pkt.py:88-113; megvii-research/mdistiller a08d46f,
mdistiller/distillers/PKT.py.
"""

from torch import Tensor
from yacs.config import CfgNode as CN

from .base import DISTILLERS, Batch, Output
from .feature import FeatureDistiller, weights

EPS = 1e-7


def neighbour_probability(feature: Tensor) -> Tensor:
    """Cosine similarities scaled to [0, 1], each row a distribution over the batch; (B, C) -> (B, B)."""
    unit = feature / (feature.norm(dim=1, keepdim=True) + EPS)
    affinity = (unit @ unit.T + 1) / 2
    return affinity / affinity.sum(1, keepdim=True)


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of t log(t / s) over all pairs, for the two networks' neighbour probabilities; (B, C), (B, C') -> ()."""
    s, t = neighbour_probability(student), neighbour_probability(teacher)
    return (t * ((t + EPS).log() - (s + EPS).log())).mean()


@DISTILLERS.register("PKT")
class PKT(FeatureDistiller):
    """Cross-entropy and `pkt_loss` on the pooled features."""

    config = CN({"LOSS": weights(1.0, 30000.0)})
    couples_samples = True

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        return pkt_loss(student.features["pooled_feat"], teacher.features["pooled_feat"])
