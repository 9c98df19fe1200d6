"""Inputs of the golden loss values, as defined in their README."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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
