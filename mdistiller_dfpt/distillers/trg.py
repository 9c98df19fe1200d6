r"""TRG: match a graph of tokens across the images of a batch (Zhang et al., 2023, arXiv:2306.12442).

Paper: Knowledge Distillation via Token-level Relationship Graph.

Formula: $$L = w_{CE} CE + w_{KD} KD_\tau(z^S, z^T) + \alpha MSE(K^S, K^T) + \beta KL(q^S \| q^T) + \gamma NCE(g(x^S),
x^T)$$ where $x$ are tokens, $K = softmax(x x^\top / \sqrt{D})$ within an image, $q_i = softmax_j(A_{ij})$, $A_{ij} =
e^{-\|x_i - x_j\|^2 / 2 \sigma}$ for tokens of unit length if $i$ is among the nearest neighbours of $j$, else 0, and
$NCE$ is the cross-entropy of finding the teacher's token of the same place by cosines, at a temperature that falls.

Code: none found.

Differs: written from a summary of the paper, whose weights, k, sigma, patch size, number of sampled tokens and schedule
of the temperature were not at hand; they are keys. Not confirmed are that tokens come from the last maps, have unit
length in the graph and are no neighbours of themselves. Sums over tokens are means, so that weights do not depend on
the batch. The divergence of the local term is that of the student from the teacher, as printed.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import A_TEMPERATURE, AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE
from ..losses import Terms, distillation, label
from ..losses.logit_losses import divergences
from ..teachers.draws import Draws
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import ImageShape, feature_shapes, same_size
from .kd import kd_loss


def tokens_of(x: Tensor, patch: int) -> Tensor:
    """A map cut into patches, each flattened; (B, C, H, W) -> (B, N, C * patch**2). A remainder is left out."""
    return F.unfold(x, patch, stride=patch).mT


def contextual_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the tokens' similarities within each image; (B, N, D), (B, N, D') -> ()."""
    s, t = ((x @ x.mT / math.sqrt(x.shape[2])).softmax(2) for x in (student, teacher))
    return F.mse_loss(s, t)


def knn_graph(tokens: Tensor, k: int, sigma: float) -> Tensor:
    """A[i, j] = exp(-|i - j|^2 / (2 sigma)) if i is among the k nearest of j, else 0; (M, D) -> (M, M)."""
    unit = F.normalize(tokens, dim=1, eps=1e-6)
    distance = (2 - 2 * unit @ unit.T).clamp(min=0)
    with torch.no_grad():
        others = distance.masked_fill(torch.eye(len(tokens), dtype=torch.bool, device=tokens.device), math.inf)
        nearest = others.topk(min(k, len(tokens) - 1), dim=1, largest=False).indices
        is_near = torch.zeros_like(distance).scatter(1, nearest, 1.0).T
    return is_near * (-distance / (2 * sigma)).exp()


def local_loss(student: Tensor, teacher: Tensor, k: int, sigma: float) -> Tensor:
    """Mean divergence of the rows of both graphs, as distributions over the tokens; (M, D), (M, D') -> ()."""
    log_s, log_t = (knn_graph(x, k, sigma).log_softmax(1) for x in (student, teacher))
    return divergences(log_t, log_s).mean()


def global_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """InfoNCE of cosines, the positive of a token being the teacher's at its place; (M, D), (M, D) -> ()."""
    s, t = (F.normalize(x, dim=1, eps=1e-6) for x in (student, teacher))
    return F.cross_entropy(s @ t.T / temperature, torch.arange(len(s), device=s.device))


def falling(start: float, end: float, epoch: int, epochs: int) -> float:
    """From `start` in the first epoch linearly to `end` in the last."""
    return start + (end - start) * min((epoch - 1) / max(epochs - 1, 1), 1.0)


@DISTILLERS.register("TRG")
class TRG(Distiller):
    """Cross-entropy, KD, `contextual_loss`, and the graph's `local_loss` and `global_loss`.

    Context is that of all tokens of an image; the graph has TOKENS of each image of the batch, drawn anew every epoch.
    """

    config = CN(
        {
            "TEMPERATURE": 4.0,  # of KD
            "PATCH": 1,  # side of a token in the last maps; at most that of the smaller map
            "TOKENS": 8,  # of each image in the graph; all, if there are no more
            "NEIGHBORS": 8,
            "SIGMA": 1.0,
            "TAU_START": 0.5,  # temperature of the global term in the first epoch
            "TAU_END": 0.1,  # and in the last one
            "ALPHA": 10.0,  # of the contextual term
            "BETA": 10.0,  # of the local term
            "GAMMA": 1.0,  # of the global term
            "LOSS": CN({"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0}),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "SIGMA": POSITIVE, "TAU_START": POSITIVE, "TAU_END": POSITIVE,
        **dict.fromkeys(("PATCH", "TOKENS", "NEIGHBORS"), AT_LEAST_ONE),
        **dict.fromkeys(("ALPHA", "BETA", "GAMMA", "LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT"), NOT_NEGATIVE),
    }  # fmt: skip
    couples_samples = True

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, patch: int, tokens: int,
        neighbors: int, sigma: float, tau_start: float, tau_end: float, alpha: float, beta: float, gamma: float,
        ce_weight: float, kd_weight: float, epochs: int = 240, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        mine, its = (feature_shapes(network, image_shape).feats[-1] for network in (student, self.teacher_network))
        self.patch = min(patch, *mine[1:], *its[1:])
        self.temperature, self.tokens, self.neighbors, self.sigma = temperature, tokens, neighbors, sigma
        self.tau = tau_start, tau_end, epochs
        self.weights = {"ce": ce_weight, "kd": kd_weight, "context": alpha, "local": beta, "global": gamma}
        self.projector = nn.Linear(mine[0] * self.patch**2, its[0] * self.patch**2)
        self.draws = Draws()

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        maps = same_size(student.features["feats"][-1], teacher.features["feats"][-1])
        s, t = (tokens_of(x, self.patch) for x in maps)
        # The same places in both networks; a function of seed, epoch and sample, whichever process computes it
        places = self.draws.uniform(batch, s.shape[1:2], 0).argsort(1)[:, : self.tokens, None]
        mine, its = (x.gather(1, places.expand(-1, -1, x.shape[2])).flatten(0, 1) for x in (s, t))
        tau = falling(*self.tau[:2], batch.epoch, self.tau[2])
        values = {
            "kd": kd_loss(student.logits, teacher.logits, self.temperature),
            "context": contextual_loss(s, t),
            "local": local_loss(mine, its, self.neighbors, self.sigma),
            "global": global_loss(self.projector(mine), its, tau),
        }
        return {
            "ce": label(F.cross_entropy(student.logits, batch.target), self.weights["ce"]),
            **{name: distillation(value, self.weights[name]) for name, value in values.items()},
        }
