"""The output of a network, and the precision in which it runs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError
from .bfloat16 import speed_up


class Output(NamedTuple):
    """Logits and features in float32, regardless of the precision in which they were computed."""

    logits: Tensor  # (B, classes)
    features: Mapping[str, Any]  # "feats", "preact_feats": lists of (B, C, H, W); "head_map"; "pooled_feat": (B, C)

    def detach(self) -> "Output":
        """The same values, detached."""
        return Output(self.logits.detach(), LazyFeatures(self.features, lambda x: x.detach()))


class LazyFeatures(Mapping[str, Any]):
    """Features with a function applied to each tensor lazily, when a loss uses it."""

    def __init__(self, features: Mapping[str, Any], function: Callable[[Tensor], Tensor]):
        self.features, self.function = features, function
        self._done: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._done:
            value = self.features[key]
            if isinstance(value, list):
                value = [self.function(v) for v in value]
            elif isinstance(value, Tensor):
                value = self.function(value)
            self._done[key] = value
        return self._done[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)


class NoFeatures(dict[str, Any]):
    """Features of an output with only logits; access to one is a ConfigError: `refusal`, with its name for `{!r}`."""

    def __init__(self, refusal: str):
        super().__init__()
        self.refusal = refusal

    def __missing__(self, key: str) -> Any:
        raise ConfigError(self.refusal.format(key))


def as_output(result: tuple[Tensor, Mapping[str, Any]]) -> Output:
    """A network's (logits, features) as an `Output` in float32; features are cast lazily."""
    logits, features = result
    return Output(logits.float(), LazyFeatures(features, lambda x: x.float()))


def memory_format(channels_last: bool) -> torch.memory_format:
    """SOLVER.CHANNELS_LAST as a PyTorch memory format."""
    return torch.channels_last if channels_last else torch.contiguous_format


def autocast(dtype: torch.dtype | None, image: Tensor) -> contextlib.AbstractContextManager:
    """The autocast context for `dtype`; None means float32."""
    if dtype is None:
        return contextlib.nullcontext()
    if image.device.type == "cpu" and not torch.compiler.is_compiling():
        speed_up()
    return torch.autocast(image.device.type, dtype)
