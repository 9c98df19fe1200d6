r"""WKD: Wasserstein distances between logits and between features (Lv et al., 2024, arXiv:2412.08139).

Paper: Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation.

Formula: $$L = w_{CE} CE - t_y \log s_y + w_{logit} r \langle P, c \rangle + w_{feat} r \left( \rho \|\mu^S - \mu^T\|^2
+ \|\sigma^S - \sigma^T\|^2 \right)$$ where $s_y$ and $t_y$ are at temperature 1, $P$ is the transport by Sinkhorn's
iterations between the softened distributions over the classes other than $y$, $c$ the costs between classes, $\mu$ and
$\sigma$ are the means and deviations of a map's channels in the cells of a grid, $\rho$ is MEAN_COV_RATIO, and $r$
falls along a cosine after COSINE_DECAY_EPOCH.

Code: JiamingLv/WKD 214cf88, mdistiller/distillers/WKD.py:12-120, tools/generate_class_proto.py:30-66,
tools/generate_cost_matrix.py:44-60.

Differs: the costs between classes are measured before the first step, on training views; the authors' code loads them
from a file, made of test views. Maps of unequal size: as in FITNET.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.conditions import When
from ..config.limits import A_TEMPERATURE, AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, one_of
from ..distributed import all_gather
from ..losses import Terms, distillation, label
from ..losses.logit_losses import is_target
from .base import DISTILLERS, Batch, Distiller, Output, StagedModel, TeacherLike
from .feature import ImageShape, feature_shapes, refuse_trained_path
from .fitnet import Regressor


def target_loss(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """-t_y log s_y at temperature 1, averaged; (B, C), (B, C), (B,) -> ()."""
    own = target[:, None]
    return -(teacher.softmax(1).gather(1, own) * student.log_softmax(1).gather(1, own)).mean()


def transport_loss(
    student: Tensor, teacher: Tensor, target: Tensor, cost: Tensor, temperature: float, entropy: float, iterations: int
) -> Tensor:
    """The cost of the regularised optimal transport between both softened distributions of the other classes.

    Logits (B, C), (B, C), labels (B,), costs (C, C) -> (). A class without mass on either side takes no part in the
    iterations of Sinkhorn: the target has none, which spares a copy of the costs for each sample.
    """
    without = is_target(student, target)
    s, t = ((x / temperature).masked_fill(without, -math.inf).softmax(1) for x in (student, teacher))
    cost = cost.relu() + 1e-8
    kernel = (-cost / entropy).exp()
    u = (~without).to(s.dtype) / (s.shape[1] - 1)
    v = u
    for _ in range(iterations):
        v = t / (u @ kernel + 1e-8)
        u = s / (v @ kernel.T + 1e-8)
    return (u * (v @ (kernel * cost).T)).sum(1).mean()


def gaussian_loss(student: Tensor, teacher: Tensor, grid: int, eps: float) -> tuple[Tensor, Tensor]:
    """Squared distances of means and of standard deviations in the cells of a grid; maps (B, C, H, W) -> (), ().

    Each is summed over the channels, averaged over cells and samples: the Wasserstein distance of Gaussians with
    diagonal covariances.
    """
    mean, deviation = student.new_zeros(()), student.new_zeros(())
    for s, t in zip(_cells(student, grid), _cells(teacher, grid), strict=True):
        mean = mean + (s.mean(2) - t.mean(2)).pow(2).sum()
        s, t = ((x.var(2) + eps).sqrt() for x in (s, t))
        deviation = deviation + (s - t).pow(2).sum()
    return mean / (grid**2 * len(student)), deviation / (grid**2 * len(student))


def _cells(x: Tensor, grid: int) -> list[Tensor]:
    """The cells of a map (B, C, H, W), each (B, C, positions), with the bounds of adaptive pooling."""
    rows, columns = ([(i * n // grid, -(-(i + 1) * n // grid)) for i in range(grid)] for n in x.shape[2:])
    return [x[:, :, top:bottom, left:right].flatten(2) for top, bottom in rows for left, right in columns]


def class_distances(features: Tensor) -> Tensor:
    """1 - linear CKA of each pair of classes; rows that correspond between classes (K, N, D) -> (K, K)."""
    x = features - features.mean(1, keepdim=True)
    products = torch.stack([torch.stack([(one.T @ other).pow(2).sum() for other in x]) for one in x])
    own = products.diagonal().sqrt()
    return 1 - products / (own[:, None] * own).clamp(min=1e-12)


_BY_CKA = When("COST_MATRIX is fc", lambda section: section.COST_MATRIX == "cka")


@DISTILLERS.register("WKD")
class WKD(Distiller):
    """Cross-entropy, WKD-L (`target_loss` and `transport_loss`) and WKD-F (`gaussian_loss`); weight 0 omits one.

    The weights of the transport and of WKD-F fall to 0 along a cosine after COSINE_DECAY_EPOCH.
    """

    config = CN(
        {
            "TEMPERATURE": 8.0,
            "COST_MATRIX": "cka",  # between classes: cka of the teacher's features, or fc, cosines of its classifier
            "COST_FEATURES": "map",  # of which features: map (each position is a row), pooled or logits
            "COST_MATRIX_SHARPEN": 1.0,  # kappa: cost = 1 - exp(-kappa distance); 0: the distance
            "SINKHORN": CN({"LAMBDA": 0.05, "ITER": 10}),
            "HINT_LAYER": -1,  # the map of WKD-F; -1: the last
            "PROJECTOR": "conv1x1",
            "SPATIAL_GRID": 1,
            "MEAN_COV_RATIO": 8.0,  # weight of the means against the deviations
            "EPS": 1e-5,
            "LOSS": CN(
                {"CE_WEIGHT": 1.0, "WKD_LOGIT_WEIGHT": 200.0, "WKD_FEAT_WEIGHT": 0.08, "COSINE_DECAY_EPOCH": 150}
            ),
        }
    )
    limits = {
        "TEMPERATURE": A_TEMPERATURE, "COST_MATRIX": one_of("cka", "fc"),
        "COST_FEATURES": one_of("map", "pooled", "logits"), "COST_MATRIX_SHARPEN": NOT_NEGATIVE,
        "SINKHORN.LAMBDA": POSITIVE, "SINKHORN.ITER": AT_LEAST_ONE, "PROJECTOR": one_of("conv1x1", "bottleneck"),
        "SPATIAL_GRID": AT_LEAST_ONE, "MEAN_COV_RATIO": NOT_NEGATIVE, "EPS": POSITIVE,
        "LOSS.CE_WEIGHT": NOT_NEGATIVE, "LOSS.WKD_LOGIT_WEIGHT": NOT_NEGATIVE, "LOSS.WKD_FEAT_WEIGHT": NOT_NEGATIVE,
        "LOSS.COSINE_DECAY_EPOCH": NOT_NEGATIVE,
    }  # fmt: skip
    when = {"COST_FEATURES": _BY_CKA}
    cost: Tensor  # (classes, classes), a buffer

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, temperature: float, cost_matrix: str, cost_features: str,
        cost_matrix_sharpen: float, sinkhorn_lambda: float, sinkhorn_iter: int, hint_layer: int, projector: str,
        spatial_grid: int, mean_cov_ratio: float, eps: float, ce_weight: float, wkd_logit_weight: float,
        wkd_feat_weight: float, cosine_decay_epoch: int, epochs: int, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher)
        self.ce_weight, self.logit_weight, self.feat_weight = ce_weight, wkd_logit_weight, wkd_feat_weight
        self.decay_epoch, self.epochs = cosine_decay_epoch, epochs
        mine, its = (feature_shapes(network, image_shape) for network in (student, self.teacher_network))
        if wkd_logit_weight:
            refuse_trained_path(self, "WKD measures the costs between classes on")
            self.temperature, self.entropy, self.iterations = temperature, sinkhorn_lambda, sinkhorn_iter
            self.sharpen = cost_matrix_sharpen
            self.cost_features = cost_features if cost_matrix == "cka" else ""
            self.register_buffer("cost", torch.zeros(its.classes, its.classes))
        if wkd_feat_weight:
            last = min(len(mine.feats), len(its.feats)) - 1
            if not -1 <= hint_layer <= last:
                raise ValueError(f"WKD.HINT_LAYER is {hint_layer}; both networks have layers 0 to {last} (or -1)")
            source, target = mine.feats[hint_layer], its.feats[hint_layer]
            if min(math.ceil(n / spatial_grid) for n in target[1:]) < 2:
                raise ValueError(
                    f"WKD.SPATIAL_GRID is {spatial_grid}; the teacher's map is {target[1]}x{target[2]}, and a cell "
                    "needs several positions for a deviation: use a smaller grid"
                )
            self.hint_layer, self.grid, self.mean_ratio, self.eps = hint_layer, spatial_grid, mean_cov_ratio, eps
            self.projector = Regressor(source, target) if projector == "conv1x1" else _bottleneck(source, target)

    @torch.no_grad()
    def prepare(self, batches: Iterable[Batch]) -> None:
        """Measure the costs between classes: from the teacher's features of all training images, or its classifier."""
        if not self.logit_weight:
            return
        if self.cost_features:
            distances = class_distances(self._by_class(batches))
        else:
            prototypes = F.normalize(self.teacher_network.classifier_layer.weight.float())
            distances = 1 - prototypes @ prototypes.T
        self.cost.copy_(1 - (-self.sharpen * distances).exp() if self.sharpen else distances)

    def _by_class(self, batches: Iterable[Batch]) -> Tensor:
        """The teacher's features (classes, N, D), in the order of the training set, as many of each class."""
        rows, targets, indices = [], [], []
        for batch in batches:
            output = self.teacher(batch)[self.path]
            rows.append(all_gather(self._rows(output), batch.total))
            targets.append(all_gather(batch.target, batch.total))
            indices.append(all_gather(batch.index, batch.total))
        order = torch.cat(indices).argsort(stable=True)
        target = torch.cat(targets)[order]
        positions = [order[target == label] for label in range(len(self.cost))]
        present = [own for own in positions if len(own)]
        count, absent = min(map(len, present)), len(positions) - len(present)
        without = f"; {absent} classes have none, their distance to all is 1" if absent else ""
        print(f"WKD: costs between classes, from {count} training images of each{without}", flush=True)
        samples = torch.cat(rows)
        # Zeros for an absent class: they correlate with nothing
        nothing = torch.zeros_like(samples[:count])
        return torch.stack([(samples[own[:count]] if len(own) else nothing).flatten(0, 1) for own in positions])

    def _rows(self, output: Output) -> Tensor:
        """The rows (B, positions, D) of a batch."""
        if self.cost_features == "map":
            return output.features["feats"][-1].flatten(2).transpose(1, 2)
        return (output.logits if self.cost_features == "logits" else output.features["pooled_feat"])[:, None]

    def losses(self, student: Output, teacher: Output, batch: Batch) -> Terms:
        terms = {"ce": label(F.cross_entropy(student.logits, batch.target), self.ce_weight)}
        left = self._decay(batch.epoch)
        if self.logit_weight:
            terms["wkd_target"] = distillation(target_loss(student.logits, teacher.logits, batch.target))
            cost = transport_loss(
                student.logits, teacher.logits, batch.target, self.cost, self.temperature, self.entropy, self.iterations
            )
            terms["wkd_logit"] = distillation(cost, self.logit_weight, ramp=left)
        if self.feat_weight:
            s, t = (output.features["feats"][self.hint_layer] for output in (student, teacher))
            mean, deviation = gaussian_loss(self.projector(s), t, self.grid, self.eps)
            terms["wkd_feat"] = distillation(self.mean_ratio * mean + deviation, self.feat_weight, ramp=left)
        return terms

    def _decay(self, epoch: int) -> float:
        past = epoch - self.decay_epoch
        return 1.0 if past <= 0 else 0.5 * (1 + math.cos(math.pi * past / (self.epochs - self.decay_epoch)))


def _bottleneck(source: ImageShape, target: ImageShape, width: int = 256) -> nn.Sequential:
    """Maps of shape `source` (C, H, W) to `target`, through `width` channels."""
    if source[1:] != target[1:]:
        raise ValueError(
            f"WKD.PROJECTOR is bottleneck; the student's map is {source[1]}x{source[2]}, the teacher's {target[1]}x"
            f"{target[2]}: use conv1x1"
        )
    convolutions = nn.Conv2d(source[0], width, 1), nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, target[0], 1)
    return nn.Sequential(*convolutions, nn.BatchNorm2d(target[0]), nn.ReLU())
