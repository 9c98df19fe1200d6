r"""CRD: contrast each embedding with those of the other network (Tian et al., 2020, arXiv:1910.10699).

Paper: Contrastive Representation Distillation.

Formula: $$L = w_{CE} CE + w_{feat} (\ell(e^S, m^T) + \ell(e^T, m^S)), \quad \ell(e, m) = -\log \frac{h_0}{h_0 + K / N}
- \sum_{k = 1}^{K} \log \frac{K / N}{h_k + K / N}$$ where $h_k = \exp(\langle e, m_k \rangle / \tau) / Z$, $e^S$ and
$e^T$ are embeddings of unit length, $m_0$ is the row of the positive in the bank of the other network, $m_1$ to $m_K$
are those of the negatives, $N$ is the number of samples, and $Z$ makes the mean of $h$ in the first batch $1 / N$ for
each direction.

Code: HobbitLong/RepDistiller b84f547, crd/; megvii-research/mdistiller a08d46f, mdistiller/distillers/CRD.py.
"""

import math
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from ..config.limits import AT_LEAST_ONE, FRACTION, POSITIVE, one_of
from .base import DISTILLERS, Batch, Output, StagedModel, TeacherLike
from .feature import WEIGHT_LIMITS, FeatureDistiller, ImageShape, check_shapes, feature_shapes, weights

EPS = 1e-7
WORTH_SAYING = 2**28  # bytes
SECTION_OF_ROWS = "CRD"  # of its keys, mdistiller's loader reads NCE.K and MODE
LEFT_OUT = -2  # in place of the label of a sample that no step trains on
CHUNK = 2**24  # elements of a temporary tensor: 64 MiB in float32


class _GatheredScores(torch.autograd.Function):
    """Products with selected rows of a large bank, a few samples at a time, forward and backward."""

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, bank: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(bank, index)
        ctx.rows = rows = max(1, CHUNK // (index.shape[1] * bank.shape[1]))
        chunks = zip(embedding.split(rows), index.split(rows), strict=True)
        return torch.cat([torch.einsum("bd,bkd->bk", e, bank[i]) for e, i in chunks])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        bank, index = ctx.saved_tensors
        chunks = zip(gradient.split(ctx.rows), index.split(ctx.rows), strict=True)
        return torch.cat([torch.einsum("bk,bkd->bd", g, bank[i]) for g, i in chunks]), None, None


def bank_scores(embedding: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """Inner products of each embedding with its own rows of a bank; (B, D), (N, D), (B, K) -> (B, K).

    If K is a sizeable fraction of N, computing all N products and gathering them is an order of magnitude faster than
    gathering rows; if N is far larger, rows are gathered in chunks, so memory stays bounded.
    """
    if 8 * index.shape[1] >= bank.shape[0]:
        return (embedding @ bank.T).gather(1, index)
    return _GatheredScores.apply(embedding, bank, index)


def nce_loss(probability: Tensor, num_data: int) -> Tensor:
    """Noise-contrastive loss of unnormalised probabilities (B, 1 + K), positive first; () (equation 17 ff.)."""
    negatives = probability.shape[1] - 1
    noise = negatives / num_data
    positive, others = probability[:, 0], probability[:, 1:]
    # -log(p / (p + noise)) and -log(noise / (p + noise)), without quotients
    costs = ((noise + EPS) / positive).log1p().sum() + ((others + EPS) / noise).log1p().sum()
    return costs / probability.shape[0]


def crd_loss(
    student: Tensor, teacher: Tensor, student_bank: Tensor, teacher_bank: Tensor, index: Tensor, temperature: float,
    normalizers: Tensor, num_data: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Both directions of the contrastive loss, and the normalisers used.

    Embeddings (B, D) of unit length, banks (N, D), `index` (B, 1 + K) the rows of the positive and the negatives.
    `normalizers` (2,): the constants Z of the student's and the teacher's scores; if they are not positive, they are
    estimated from this batch, as in the paper. Each network is contrasted with the bank of the *other* one. `num_data`:
    rows among which they are drawn, by default all.
    """
    scores = [bank_scores(student, teacher_bank, index), bank_scores(teacher, student_bank, index)]
    exps = [(s / temperature).exp() for s in scores]
    num_data = student_bank.shape[0] if num_data is None else num_data
    estimate = torch.stack([e.detach().mean() * num_data for e in exps])
    normalizers = torch.where(normalizers > 0, normalizers, estimate)
    losses = (nce_loss(e / z, num_data) for e, z in zip(exps, normalizers, strict=True))
    return sum(losses, student.new_zeros(())), normalizers


def draw_rows(labels: Tensor, target: Tensor, k: int, seed: int, same: bool) -> Tensor:
    """For each target (B,) k rows, uniform without replacement among those of other labels (`same`: of the same label).

    `labels` (N,) int64; a row of LEFT_OUT is never drawn. Rows repeat only if there are fewer than k. (B, k) int64, in
    bounded memory.
    """
    return (_draw_on_cpu if target.device.type == "cpu" else _draw_on_device)(labels, target, k, seed, same)


def _draw_on_cpu(labels: Tensor, target: Tensor, k: int, seed: int, same: bool) -> Tensor:
    """Row by row with NumPy, at a cost of k rather than N; sorted, as gathering neighbours is five times faster."""
    generator, known = np.random.Generator(np.random.Philox(seed)), labels.numpy()
    drawn, usable = np.empty((len(target), k), np.int64), known != LEFT_OUT
    for row, label in zip(drawn, target.tolist(), strict=True):
        allowed = np.flatnonzero(((known == label) == same) & usable)
        # Without replacement if there are enough rows, else all of them in turn
        if len(allowed) >= k:
            row[:] = allowed[np.sort(generator.choice(len(allowed), k, replace=False, shuffle=False))]
        else:
            row[:] = np.resize(generator.permutation(allowed if len(allowed) else np.flatnonzero(usable)), k)
    return torch.from_numpy(drawn)


def _draw_on_device(labels: Tensor, target: Tensor, k: int, seed: int, same: bool) -> Tensor:
    """The rows with the largest random keys, a few samples at a time; never synchronises with the device."""
    generator = torch.Generator(target.device).manual_seed(seed)
    drawn = []
    for part in target.split(max(1, CHUNK // labels.shape[0])):
        allowed = ((labels == part[:, None]) == same) & (labels != LEFT_OUT)
        keys = torch.rand(allowed.shape, generator=generator, device=target.device)
        order = keys.masked_fill_(~allowed, -1.0).topk(min(k, keys.shape[1])).indices
        # A sample with fewer than k rows cycles through them
        position = torch.arange(k, device=target.device) % allowed.sum(1, keepdim=True).clamp(1, order.shape[1])
        drawn.append(order.gather(1, position))
    return torch.cat(drawn)


def contrastive_rows(labels: Tensor, batch: Batch, k: int, mode: str, seed: int) -> Tensor:
    """Rows (B, 1 + k) of a positive and k negatives of each sample, as a function of seed, epoch and step.

    `labels` (N,): those of the training samples, -1 where a sample was not met yet. `mode`: the positive is the sample
    itself (exact) or any sample of its class (relax).
    """
    seed = crc32(f"{seed} {batch.epoch} {batch.step}".encode())
    if mode == "exact":
        positive = batch.index[:, None]
    else:
        # In the first epoch most labels are unknown, but a sample is always a positive of its own
        known = labels.clone()
        known[batch.index] = batch.classes
        positive = draw_rows(known, batch.classes, 1, seed + 1, same=True)
    return torch.cat([positive, draw_rows(labels, batch.classes, k, seed, same=False)], 1)


class Bank(nn.Module):
    """The latest embedding of every training sample, by its index; equal in all processes of a run.

    A sample's label is stored with its first embedding. Until then its row is a random vector without a class, and
    thus a valid negative for all samples.
    """

    student: Tensor  # (N, D)
    teacher: Tensor  # (N, D)
    labels: Tensor  # (N,) int64; -1: not stored yet; LEFT_OUT: never

    def __init__(self, num_data: int, dim: int, momentum: float):
        super().__init__()
        self.momentum = momentum
        size = 2 * 4 * num_data * dim
        if size > WORTH_SAYING:
            print(f"two banks of {num_data:,} embeddings of {dim} use {size / 1e9:.1f} GB", flush=True)
        bound = 1 / math.sqrt(dim / 3)
        for name in ("student", "teacher"):
            self.register_buffer(name, torch.empty(num_data, dim).uniform_(-bound, bound))
        self.register_buffer("labels", torch.full((num_data,), -1, dtype=torch.int64))

    @torch.no_grad()
    def update(self, index: Tensor, target: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Move the rows of samples (B,) towards their new embeddings (B, D), normalised to unit length."""
        for bank, embedding in ((self.student, student), (self.teacher, teacher)):
            moved = bank[index] * self.momentum + embedding * (1 - self.momentum)
            bank[index] = F.normalize(moved)
        self.labels[index] = target


class Embedding(nn.Linear):
    """(B, C) -> (B, D), normalised to unit length."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x))


@DISTILLERS.register("CRD")
class CRD(FeatureDistiller):
    """Cross-entropy and `crd_loss` on the pooled features, with K negatives from a bank of all training samples."""

    config = CN(
        {
            "MODE": "exact",  # the positive: exact, the sample itself; relax, any sample of its class
            # 0: inferred from the networks; other values are checked
            "FEAT": CN({"DIM": 128, "STUDENT_DIM": 0, "TEACHER_DIM": 0}),
            "LOSS": weights(1.0, 0.8),
            "NCE": CN({"K": 16384, "MOMENTUM": 0.5, "TEMPERATURE": 0.07}),
        }
    )
    mdistiller_defaults = {"FEAT.STUDENT_DIM": 256, "FEAT.TEACHER_DIM": 256}
    limits = {
        **WEIGHT_LIMITS, "MODE": one_of("exact", "relax"), "FEAT.DIM": AT_LEAST_ONE, "NCE.K": AT_LEAST_ONE,
        "NCE.MOMENTUM": FRACTION, "NCE.TEMPERATURE": POSITIVE,
    }  # fmt: skip
    couples_samples = True  # the bank must be equal in all processes
    takes_soft_labels = True  # a mixed image counts as one of the class of its larger part
    normalizers: Tensor  # (2,), a buffer

    def __init__(
        self, student: StagedModel, teacher: TeacherLike, *, mode: str, feat_dim: int, feat_student_dim: int,
        feat_teacher_dim: int, ce_weight: float, feat_weight: float, nce_k: int, nce_momentum: float,
        nce_temperature: float, num_data: int, image_shape: ImageShape = (3, 32, 32),
    ):  # fmt: skip
        super().__init__(student, teacher, ce_weight=ce_weight, feat_weight=feat_weight)
        dims = [feature_shapes(network, image_shape).pooled for network in (student, self.teacher_network)]
        self.inferred = check_shapes({
            "CRD.FEAT.STUDENT_DIM": (feat_student_dim, dims[0]), "CRD.FEAT.TEACHER_DIM": (feat_teacher_dim, dims[1]),
        })  # fmt: skip
        self.mode, self.k, self.temperature = mode, nce_k, nce_temperature
        self.embed_student, self.embed_teacher = (Embedding(dim, feat_dim) for dim in dims)
        self.bank, self.num_drawn = Bank(num_data, feat_dim, nce_momentum), num_data
        self.register_buffer("normalizers", torch.zeros(2))
        self.seed = int(torch.randint(2**31, (), device="cpu"))
        self._pending: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # arguments of `Bank.update`

    def leave_out(self, index: Tensor) -> None:
        self.bank.labels[index] = LEFT_OUT
        self.num_drawn = len(self.bank.labels) - len(index)

    def feature_loss(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        # Embed both networks, and contrast each with the other's bank
        self._update_bank()
        s = self.embed_student(student.features["pooled_feat"])
        t = self.embed_teacher(teacher.features["pooled_feat"])
        loss, normalizers = crd_loss(
            s, t, self.bank.student, self.bank.teacher, self.draw(batch), self.temperature, self.normalizers,
            self.num_drawn,
        )  # fmt: skip
        # The estimate of the first batch is kept for the run
        self.normalizers.copy_(normalizers)
        self._pending = (batch.index, batch.classes, s.detach(), t.detach())
        return loss

    @torch.compiler.disable
    def draw(self, batch: Batch) -> Tensor:
        """Rows of the positive and the negatives, (B, 1 + K), as a function of seed, epoch and step."""
        return contrastive_rows(self.bank.labels, batch, self.k, self.mode, self.seed)

    def after_step(self, batch: Batch) -> None:
        self._update_bank()

    def _update_bank(self) -> None:
        """The bank is part of the loss's graph, so it changes only after the backward pass: here or before the next."""
        if self._pending:
            self.bank.update(*self._pending)
            self._pending = None
