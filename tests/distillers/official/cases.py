"""The entries of `fixtures/official/*.json`, which hold the authors' values, and their computations here.

A file beside this one registers the computations of a family of methods.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...golden import LOSSES, normal

ROOT = Path(__file__).parents[3]
RECORD = ROOT / "results/official_losses.json"
ENTRIES: dict[str, dict[str, Any]] = {
    name: entry
    for file in sorted((ROOT / "tests/fixtures/official").glob("*.json"))
    for name, entry in json.loads(file.read_text()).items()
}
"""{entry: value, gradient norms with respect to the student's inputs, source, inputs in words}."""

LISTED: dict[str, tuple[str, str]] = {}
"""Entries that are not met, with their method and the reason."""

Found = dict[str, Any]
"""What an entry states, as computed here."""
CASES: dict[str, tuple[str, Callable[[], Found]]] = {}
"""{entry: (DISTILLER.TYPE or SOLVER.TRAINER, its computation)}."""


def case(method: str, *names: str) -> Callable[[Callable[..., Found]], Callable[..., Found]]:
    """Register a computation for an entry; for several, it gets the entry's name."""

    def add(compute: Callable[..., Found]) -> Callable[..., Found]:
        for name in names:
            assert name not in CASES, name
            CASES[name] = (method, compute if len(names) == 1 else lambda name=name: compute(name))
        return compute

    return add


def found(value: Tensor, inputs: list[Tensor], **more: Any) -> Found:
    norms = [gradient.norm().item() for gradient in torch.autograd.grad(value, inputs)]
    return {"value": value.item(), "grad_norms": norms, **more}


def unit(seed: int, *shape: int) -> Tensor:
    return normal(seed, shape, 1.0)


def maps(first: int) -> list[Tensor]:
    width = 1.5 if first == 20 else 1
    shapes = [(8, int(width * c), size, size) for c, size in ((16, 16), (32, 8), (64, 4))]
    return [unit(first + i, *shape) for i, shape in enumerate(shapes)]


def learned(*tensors: Tensor) -> list[Tensor]:
    return [x.requires_grad_() for x in tensors]


def of_logits(method: str, name: str, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """A loss of the student's logits 2 N(1) and the teacher's 2 N(2)."""

    @case(method, name)
    def _() -> Found:
        (student,) = learned(normal(1))
        return found(loss(student, normal(2)), [student])


def differences(name: str) -> dict[str, float]:
    """The largest relative difference of each number that an entry states."""
    stated, mine = ENTRIES.get(name) or LOSSES[name], CASES[name][1]()
    return {key: max(abs(m - s) / abs(s) for m, s in _pairs(value, stated[key])) for key, value in mine.items()}


def _pairs(mine: Any, stated: Any) -> Iterator[tuple[float, float]]:
    yield from zip(mine, stated, strict=True) if isinstance(mine, list) else [(mine, stated)]


def measured() -> dict[str, dict[str, Any]]:
    """{method: its entries, those not met, the power of ten above the largest relative difference, 1e-15 at least}."""
    record: dict[str, dict[str, Any]] = {}
    for name, (method, _) in sorted(CASES.items()):
        not_met = {entry: reason for entry, (listed, reason) in LISTED.items() if listed == method}
        own = record.setdefault(method, {"entries": [], "difference": 0.0, "not_met": not_met})
        own["entries"].append(name)
        largest = max(differences(name).values())
        own["difference"] = max(own["difference"], 10.0 ** math.ceil(math.log10(max(largest, 1e-15))))
    return dict(sorted(record.items()))
