"""Modules filled as those of the authors' code were whose values the tests of methods state, and the comparison."""

from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn


def fill(module: nn.Module, keys: list[str]) -> nn.Module:
    """Fill a module, in float64, by the authors' names of the entries of its `state_dict`, in its order."""
    module = module.double()
    state = module.state_dict()
    module.load_state_dict({own: _entry(key, state[own].shape) for own, key in zip(state, keys, strict=True)})
    return module


def _entry(key: str, shape: tuple[int, ...]) -> Tensor:
    """The values of an entry: a function of its name and its shape."""
    a = np.random.default_rng(crc32(key.encode())).standard_normal(shape)
    kind = key.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.tensor(0)
    if kind == "running_var":
        a = 1 + 0.1 * np.abs(a)
    elif a.ndim == 1:
        a = 0.1 * a + (kind == "weight")
    else:
        a = a * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(a)


def check(loss: Tensor, value: float, inputs: list[Tensor], norms: list[float]) -> None:
    """Value and gradient norms within 1e-6 of those of the authors' code."""
    np.testing.assert_allclose(loss.item(), value, rtol=1e-6)
    found = [g.norm().item() for g in torch.autograd.grad(loss, inputs)]
    np.testing.assert_allclose(found, norms, rtol=1e-6)
