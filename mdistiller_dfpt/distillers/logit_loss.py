"""Losses between two sets of logits, by name, for methods that leave the choice open."""

from collections.abc import Callable

from torch import Tensor

from ..registry import Registry

LogitLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]

LOGIT_LOSSES = Registry("logit loss")
"""Maps a name to `(student (B, C), teacher (B, C), target (B,), temperature) -> ()`; the gradient is the student's."""
