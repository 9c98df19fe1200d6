"""Inputs and weights behind the golden values: each is a function of its seed or name."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

LOSSES = json.loads((Path(__file__).parent / "fixtures" / "loss_values.json").read_text())


def normal(seed: int, shape: tuple[int, ...] = (8, 100), scale: float = 2.0) -> Tensor:
    """Logits by default; float64."""
    return torch.from_numpy(scale * np.random.default_rng(seed).standard_normal(shape))


def labels() -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 100, 8))


def check(name: str, loss: Tensor, inputs: list[Tensor]) -> None:
    """Value and gradient norms within 1e-6 of the reference implementation's."""
    expected = LOSSES[name]
    np.testing.assert_allclose(loss.item(), expected["value"], rtol=1e-6)
    norms = [g.norm().item() for g in torch.autograd.grad(loss, inputs)]
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=1e-6)


def golden_state(module: nn.Module, name_of: Callable[[str], str] = str) -> dict[str, Tensor]:
    """The weights behind golden outputs; each entry depends only on its name: `name_of(key)` in the reference."""
    state = {}
    for key, value in module.state_dict().items():
        name = name_of(key)
        a = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(value.shape))
        if name.endswith("running_var"):
            a = 1 + 0.1 * np.abs(a)
        elif name.endswith("num_batches_tracked"):
            a = np.zeros(())
        elif name.endswith("running_mean"):
            a = 0.1 * a
        elif value.dim() == 1:
            a = 1 + 0.1 * a if name.endswith("weight") else 0.1 * a
        else:
            a = a * np.sqrt(2 / np.prod(value.shape[1:]))
        state[key] = torch.as_tensor(a).to(value.dtype)
    return state
