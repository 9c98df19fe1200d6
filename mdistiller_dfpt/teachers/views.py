r"""Angular-KD: heads on one teacher's pooled feature as diverse views of it (Yu et al., 2025, arXiv:2510.22480).

Paper: Single-Teacher View Augmentation: Boosting Knowledge Distillation via Angular Diversity.

Formula: $$softmax(z / \tau) = \sum_k w_k \, softmax(z^{(k)} / \tau), \quad L_V = w \sum_{k \ge 1} CE(z^{(k)}, y) +
\sum_f (w_{inter} I_f + w_{intra} J_f)$$ where $z^{(0)} = z^T$, $z^{(k)}$ are the logits of head $k$, the weights $w_k$
are 1 for the teacher and WEIGHT for a head, divided by their sum, $f$ is features and logits, $I_f$ asks that the views
of a sample are close to the teacher's, and to no other sample's, and apart from each other once they are close, and
$J_f$ that they lie in different directions from it.

Code: june6423/Angular-KD b8c2a08, mdistiller/models/diverse_loss.py, teacher_aug.py:9-83.

Differs: the heads learn from their own terms alone; in the authors' code the student's terms reach them too. Their
probabilities are averaged: their sum, which the authors match, is 2.44 times the mean for five heads, and so is the
weight of its path in configs/cifar100/angularkd. Terms are computed as in the code, which normalises feature views
over the heads, not the channels, where it asks how close they are to each other. As released, its CRD does not run: a
name is misspelt.
"""

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.conditions import When
from ..config.limits import A_TEMPERATURE, NOT_NEGATIVE, POSITIVE, WEIGHT, Limit
from ..data import Batch
from ..distributed import world_size
from ..errors import DivergedError
from ..losses import Terms, own
from ..losses.sharded import whole_batch, whole_output
from ..losses.term import total
from ..models import StagedModel
from ..models.output import Output, autocast
from .base import ORIGINAL, TEACHERS, Paths, Teacher
from .draws import Draws
from .ensemble import mixed_logits
from .momenta import Momenta

VIEWS = "views"
MARGIN, TEMPERATURE = 0.2, 0.07  # of the inter-view terms
DECAY, STAGES = 0.1, 3  # of the learning rate of the heads' own training


def contrast(anchor: Tensor, views: Tensor) -> Tensor:
    """Each view against the anchors of all samples; (B, D), (B, N, D) -> ().

    A view whose similarity to its own anchor exceeds 1 - MARGIN counts as equal to it, and is no longer drawn closer.
    """
    samples, count, _ = views.shape
    similarity = views.flatten(0, 1) @ anchor.T  # (B * N, B)
    target = torch.arange(samples, device=views.device).repeat_interleave(count)
    close = F.one_hot(target, samples).bool() & (similarity >= 1 - MARGIN)
    return F.cross_entropy(similarity.masked_fill(close, 1.0) / TEMPERATURE, target) / count


def diversity(anchor: Tensor, views: Tensor) -> Tensor:
    """Similarity of the views of one sample, where all are close to its anchor; (B, D), (B, N, D) -> ()."""
    close = torch.einsum("bd,bnd->bn", anchor, views).amin(1) > 1 - MARGIN
    apart = _off_diagonal(F.softplus(views @ views.mT))  # (B,)
    return torch.where(close, apart, 0.0).mean()


def intra_view_loss(anchor: Tensor, views: Tensor) -> Tensor:
    """Similarity of the directions from the anchor to its views, averaged over the samples; (B, D), (B, N, D) -> ()."""
    directions = F.normalize(anchor[:, None] - views, dim=2)
    return _off_diagonal(F.softplus((directions @ directions.mT).mean(0)))


def _off_diagonal(matrix: Tensor) -> Tensor:
    """The mean of the elements off the diagonal of (..., N, N)."""
    count = matrix.shape[-1]
    return (matrix.sum((-2, -1)) - matrix.diagonal(dim1=-2, dim2=-1).sum(-1)) / (count * (count - 1))


def feature_inter_loss(anchor: Tensor, views: Tensor) -> Tensor:
    """The inter-view term of features (B, D), (B, N, D)."""
    anchor = F.normalize(anchor, dim=1)
    return contrast(anchor, F.normalize(views, dim=2)) + diversity(anchor, F.normalize(views, dim=1))


def logit_inter_loss(anchor: Tensor, views: Tensor, temperature: float) -> Tensor:
    """The inter-view term of logits (B, C), (B, N, C), on their softened probabilities."""
    anchor, views = (anchor / temperature).softmax(1), (views / temperature).softmax(2)
    return contrast(anchor, views) + diversity(anchor, views)


def logit_intra_loss(anchor: Tensor, views: Tensor, temperature: float) -> Tensor:
    """`intra_view_loss` of softened probabilities; (B, C), (B, N, C) -> ()."""
    return intra_view_loss((anchor / temperature).softmax(1), (views / temperature).softmax(2))


def weighted_mean(logits: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Logits whose softened probabilities are the weighted mean of these; (K, B, C), (K,) -> (B, C)."""
    return mixed_logits(logits, (weights / weights.sum())[:, None].expand(logits.shape[:2]), temperature)


def weighted_feature(features: Tensor, weights: Tensor) -> Tensor:
    """The sum of features, by weights of unit length; (K, B, D), (K,) -> (B, D)."""
    return torch.einsum("k,kbd->bd", F.normalize(weights, dim=0), features)


def spread_rows(width: int, count: int) -> Tensor:
    """Weights (count, width, width) whose rows i are unit vectors orthogonal to each other, for each i."""
    return torch.linalg.qr(torch.randn(width, width, count)).Q.permute(2, 0, 1)


class View(nn.Module):
    """Head `number`: dropout, linear layer, BatchNorm, classifier; later heads drop and vary more."""

    def __init__(self, weight: Tensor, classes: int, number: int):
        super().__init__()
        width = len(weight)
        self.dropout = 0.15 + 0.05 * number
        self.linear, self.norm = nn.Linear(width, width, bias=False), nn.BatchNorm1d(width)  # which removes a bias
        self.classifier = nn.Linear(width, classes)
        with torch.no_grad():
            self.linear.weight.copy_(weight)
        for scale in (self.norm.weight, self.norm.bias):
            nn.init.constant_(scale, 1 - 0.1 * number + (0.1 + 0.1 * number) * torch.randn(()).item())
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor, chance: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, D) -> logits (B, classes), feature (B, D); `chance`: uniform numbers (B, D) for dropout."""
        if chance is not None:
            x = torch.where(chance >= self.dropout, x / (1 - self.dropout), 0.0)
        feature = self.norm(self.linear(x))
        return self.classifier(feature), feature


@TEACHERS.register("views")
class Views(Teacher):
    """The path `teacher`, and `views`: the weighted mean of its probabilities and of AUGNUM heads', by default matched.

    The heads read the frozen network's pooled feature. They learn from the labels and to differ, jointly with the
    student and, for INIT_EPOCHS epochs, before. The path's pooled feature is the weighted sum of the teacher's and the
    heads'; its maps are the teacher's.
    """

    config = CN(
        {
            "AUGNUM": 5,  # heads
            "TEMPERATURE": 4.0,  # of their terms, and of the mean, which is exact if the method's is equal
            "WEIGHT": 0.8,  # of a head in the mean and of its cross-entropy; the teacher's is 1
            "INIT_EPOCHS": 0,  # of the heads' own training before the first epoch of the student
            "INIT_LR": 0.1,  # of this training, at first; a tenth after each third
            "FEAT_INTERWEIGHT": 0.1,
            "FEAT_INTRAWEIGHT": 1.0,
            "LOGIT_INTERWEIGHT": 1.0,
            "LOGIT_INTRAWEIGHT": 1.0,
        }
    )
    limits: ClassVar[Mapping[str, Limit]] = {
        "AUGNUM": Limit("in 2 .. 6", lambda v: 2 <= v <= 6), "TEMPERATURE": A_TEMPERATURE, "WEIGHT": WEIGHT,
        "INIT_EPOCHS": NOT_NEGATIVE, "INIT_LR": POSITIVE,
        **{f"{of}_{which}WEIGHT": NOT_NEGATIVE for of in ("FEAT", "LOGIT") for which in ("INTER", "INTRA")},
    }  # fmt: skip
    when: ClassVar[Mapping[str, When]] = {"INIT_LR": When("INIT_EPOCHS is 0", lambda s: s.INIT_EPOCHS > 0)}
    shares: Tensor  # (1 + AUGNUM,), a buffer: the weights of the teacher and of the heads
    couples_samples = True
    min_batch = 2  # BatchNorm over features

    def __init__(
        self, network: StagedModel, *, augnum: int, temperature: float, weight: float, init_epochs: int, init_lr: float,
        feat_interweight: float, feat_intraweight: float, logit_interweight: float, logit_intraweight: float,
    ):  # fmt: skip
        super().__init__(network)
        self.temperature, self.weight, self.init_epochs, self.init_lr = temperature, weight, init_epochs, init_lr
        self.weights = {
            "feat_inter": feat_interweight, "feat_intra": feat_intraweight,
            "logit_inter": logit_interweight, "logit_intra": logit_intraweight,
        }  # fmt: skip
        self.passes = max(1, init_epochs)
        width = network.classifier_layer.in_features
        if width < augnum:
            raise ValueError(f"AUGNUM is {augnum}; the pooled feature of this network has only {width} channels")
        self.register_buffer("shares", torch.tensor([1.0, *[weight] * augnum]), persistent=False)
        rows = spread_rows(width, augnum)
        self.heads = nn.ModuleList(View(rows[i], network.num_classes, i) for i in range(augnum))
        self.draws = Draws()
        self.momenta = Momenta(self.heads.parameters() if init_epochs else ())

    def path_names(self) -> Sequence[str]:
        return (ORIGINAL, VIEWS)

    def default_paths(self) -> dict[str, float]:
        return {VIEWS: 1.0}

    def learns(self, path: str) -> bool:
        return path == VIEWS

    def forward(self, batch: Batch) -> Mapping[str, Output]:
        plain = Paths({ORIGINAL: lambda: self.output_of(self.network, batch.image)})
        return Paths({ORIGINAL: lambda: plain[ORIGINAL], VIEWS: lambda: self._viewed(plain[ORIGINAL], batch)})

    def _viewed(self, plain: Output, batch: Batch | None) -> Output:
        """The output of the path `views`; nothing is dropped without a batch, which decides what is."""
        pooled = plain.features["pooled_feat"]
        drops = self.training and batch is not None
        with autocast(self.dtype, pooled):
            outputs = [
                head(pooled, self.draws.uniform(batch, pooled.shape[1:], i) if drops and batch is not None else None)
                for i, head in enumerate(self.heads)
            ]
        logits, features = ([x.float() for x in xs] for xs in zip(*outputs, strict=True))
        together = weighted_mean(torch.stack([plain.logits, *logits]), self.shares, self.temperature)
        summed = weighted_feature(torch.stack([pooled, *features]), self.shares)
        more = {"pooled_feat": summed, "view_logits": logits, "view_feats": features}
        return Output(together, ChainMap(more, cast(dict[str, Any], plain.features)))

    def losses(self, student: Output, outputs: Mapping[str, Output], batch: Batch) -> Terms:
        plain, views = outputs[ORIGINAL], outputs[VIEWS].features
        logits, features = (torch.stack(views[key], 1) for key in ("view_logits", "view_feats"))
        pooled = plain.features["pooled_feat"]
        values = {
            "feat_inter": feature_inter_loss(pooled, features),
            "feat_intra": intra_view_loss(pooled, features),
            "logit_inter": logit_inter_loss(plain.logits, logits, self.temperature),
            "logit_intra": logit_intra_loss(plain.logits, logits, self.temperature),
        }
        error = sum(F.cross_entropy(x, batch.target) for x in logits.unbind(1))
        return {"views_ce": own(torch.as_tensor(error), self.weight),
                **{f"views_{key}": own(value, self.weights[key]) for key, value in values.items()}}  # fmt: skip

    def prepare(self, batches: Iterable[Batch]) -> None:
        """An epoch of the heads' own training, if INIT_EPOCHS is set."""
        if not self.init_epochs:
            return
        self.train()
        trained, values, epoch = list(self.heads.parameters()), [], 0
        for batch in batches:
            epoch = self.init_epochs + batch.epoch
            # Each process trains the heads on the features of all: BatchNorm is not synchronised yet
            plain, whole = whole_output(self.output_of(self.network, batch.image), batch.total), whole_batch(batch)
            loss = total(self.losses(plain, {ORIGINAL: plain, VIEWS: self._viewed(plain, whole)}, whole))
            rate = self.init_lr * DECAY ** ((epoch - 1) * STAGES // self.init_epochs)
            self.momenta.step(trained, torch.autograd.grad(loss / world_size(), trained), rate)
            values.append(loss.detach())
        mean = torch.stack(values).mean().item()
        if not mean < float("inf"):
            raise DivergedError(f"VIEWS: the heads' loss is {mean}; lower VIEWS.INIT_LR (now {self.init_lr})")
        print(f"VIEWS: heads, epoch {epoch}/{self.init_epochs}: loss {mean:.4g}", flush=True)

    def evaluated_paths(self, image: Tensor) -> dict[str, Tensor]:
        plain = self.output_of(self.network, image)
        return {ORIGINAL: plain.logits, VIEWS: self._viewed(plain, None).logits}
