"""Registered losses between two sets of logits, for methods with a configurable logit loss, and their helpers."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..registry import Registry

LogitLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]

LOGIT_LOSSES: Registry[LogitLoss] = Registry("logit loss")
"""Maps a name to `(student (B, C), teacher (B, C), target (B,), temperature) -> ()`; the gradient is the student's."""


def divergences(log_s: Tensor, log_t: Tensor) -> Tensor:
    """KL(t || s) in the last dimension, from log-probabilities; (..., C), (..., C) -> (...)."""
    return (log_t.exp() * (log_t - log_s)).sum(-1)


def mean_divergence(log_s: Tensor, log_t: Tensor) -> Tensor:
    """KL(t || s) from log-probabilities, averaged over the samples; (B, C), (B, C) -> ().

    The steps of `F.kl_div`, whose results it has to the last bit; unlike that, it can be vectorised by `torch.vmap`.
    """
    return (log_t.exp() * (log_t - log_s)).sum() / log_s.shape[0]


def per_sample(loss: LogitLoss, student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    """The loss of each sample by itself, (B,): their mean is the loss, unless it couples samples."""

    def of_one(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return loss(s[None], t[None], y[None], temperature)

    return torch.vmap(of_one)(student, teacher, target)


def loss_over_samples(key: str, name: str) -> LogitLoss:
    """The logit loss of this name, the value of the config key; ValueError if it has no value for a single sample."""
    loss = LOGIT_LOSSES[name]
    if getattr(loss, "couples_samples", False):
        raise ValueError(f"{key} is {name}, which is no mean over samples, so that none can be weighted: use another")
    return loss


def is_target(logits: Tensor, target: Tensor) -> Tensor:
    """Whether a class is the sample's target; (B, C), (B,) -> (B, C) bool. Unlike `one_hot`, it reads no value."""
    return target[:, None] == torch.arange(logits.shape[1], device=logits.device)


def label_gradient(logits: Tensor, target: Tensor) -> Tensor:
    """The gradient of each sample's cross-entropy in its logits; (B, C), (B,) -> (B, C)."""
    return logits.softmax(1) - is_target(logits, target).to(logits.dtype)


def without_target(logits: Tensor, target: Tensor) -> Tensor:
    """The logits of all classes except each sample's target; (B, C), (B,) -> (B, C - 1)."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, others + (others >= target[:, None]))


def target_and_rest(logits: Tensor, target: Tensor) -> Tensor:
    """Log-probabilities of a class per sample and of all other classes combined; (B, C), (B,) -> (B, 2)."""
    others = without_target(logits, target).logsumexp(1)
    return torch.stack([logits.gather(1, target[:, None])[:, 0], others], 1).log_softmax(1)


def entropy(logits: Tensor) -> Tensor:
    """The entropy of each sample's probabilities, in nats; (B, C) -> (B,)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def standardized(logits: Tensor) -> Tensor:
    """Each sample's logits scaled to mean 0 and standard deviation 1 (Sun et al., 2024, arXiv:2403.01427, algorithm 1).

    (B, C) -> (B, C). The student's logits can then have any range; only their relations are matched.
    """
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


def pearson_distance(a: Tensor, b: Tensor, eps: float = 1e-8) -> Tensor:
    """One minus the correlation of the rows, averaged; (N, M), (N, M) -> ().

    `eps` is added to the product of the norms, so rows of almost constant probabilities, such as those of classes that
    are absent from a batch, count little.
    """
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return 1 - ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + eps)).mean()
