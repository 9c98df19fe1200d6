r"""NST: match the distribution of channel activations (Huang & Wang, 2017, arXiv:1707.01219).

Paper: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer.

Formula: $$L = w_{CE} CE + w_{feat} \sum_l \left( k(F^T_l, F^T_l) + k(F^S_l, F^S_l) - 2 k(F^S_l, F^T_l) \right)$$ where
$k(F, G)$ is the mean of $\langle F_c, G_d \rangle^2$ over all pairs of channels, each scaled to unit length.

Code: megvii-research/mdistiller a08d46f, mdistiller/distillers/NST.py:8-35; HobbitLong/RepDistiller b84f547,
distiller_zoo/NST.py (the authors' MXNet code was read, not run).
"""

from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from .base import DISTILLERS, Batch, Output
from .feature import FeatureDistiller, same_size, stage_pairs, weights


def _mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Mean of the kernel <a, b>**2 over samples and pairs of channels; (B, C, N), (B, C', N) -> ()."""
    return (a @ b.transpose(1, 2)).pow(2).mean()


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between channels (unit vectors over positions), with a polynomial kernel.

    (B, C, H, W), (B, C', H', W') -> (); equation 6 of the paper. Channels are samples of a distribution, so their order
    and number do not matter.
    """
    s, t = (F.normalize(x.flatten(2), dim=2) for x in same_size(student, teacher))
    return _mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(s, t)


@DISTILLERS.register("NST")
class NST(FeatureDistiller):
    """Cross-entropy and `nst_loss`, summed over the stages."""

    config = CN({"LOSS": weights(1.0, 50.0)})

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        pairs = stage_pairs(student.features["feats"], teacher.features["feats"])
        return sum((nst_loss(s, t) for s, t in pairs), student.logits.new_zeros(()))
