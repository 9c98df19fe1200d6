"""How strongly a run distils: the total weight of its distillation terms, and their gradient relative to KD's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data import Batch
from ..distillers import Distiller, Method
from ..distillers.kd import kd_loss
from ..distributed import all_reduce, world_size
from ..errors import ConfigError
from ..losses import Term, Terms
from ..losses.term import total
from ..teachers import ORIGINAL

WEIGHT, GRADIENT = "distillation_weight", "gradient_to_kd"
"""The names under which the first epoch of a run has both."""
TEMPERATURE = 4.0  # of the KD that gradients are compared with, at weight 1


def _distilling(terms: Terms) -> list[Term]:
    return [term for term in terms.values() if term.kind == "distillation"]


def total_weight(terms: Terms) -> float | None:
    """The sum of the weights of the distillation terms, after any warm-up, with those inside a term; None: unknown."""
    weights = [None if term.inside is None else term.weight * term.inside for term in _distilling(terms)]
    return None if None in weights else sum(w for w in weights if w is not None)


def _of_all_processes(weight: float, device: torch.device) -> float:
    """The mean over the processes; rounded, as shards of unequal size weight their terms."""
    mean = all_reduce(torch.tensor(weight / world_size(), dtype=torch.float64, device=device))
    return float(f"{mean.item():.9g}")


def matching_factor(terms: Terms, wanted: float, device: torch.device) -> float:
    """The factor on all distillation terms that brings their total weight to `wanted`; the same in all processes.

    ConfigError if there is no weight to scale, or if it is unknown.
    """
    if (mine := total_weight(terms)) is None:
        raise ConfigError(f"DISTILLER.MATCH_WEIGHT is {wanted:g}; the weights of this method are unknown, as they are "
                          "applied within its losses: set them by its own keys")  # fmt: skip
    found = _of_all_processes(mine, device)
    if found <= 0:
        raise ConfigError(f"DISTILLER.MATCH_WEIGHT is {wanted:g}; the terms of distillation have no weight to scale")
    return wanted / found


def scaled(terms: Terms, factor: float) -> Terms:
    """The terms, with those of distillation multiplied by a factor."""
    return {name: term.times(factor) if term.kind == "distillation" else term for name, term in terms.items()}


def strength(distiller: Method, logits: Tensor, terms: Terms, batch: Batch) -> dict[str, Tensor]:
    """The total weight of a step's distillation terms, and the norm of their gradient divided by that of KD's.

    Gradients are those of the student's parameters, of this process's samples; KD is `kd_loss` with the original path
    at temperature 4 and weight 1, so that KD itself at weight 0.9 has 0.9. Warm-ups count as completed. Nothing changes
    but what is returned; empty if nothing is distilled, and without a ratio if there is no trained teacher.
    """
    distilling = _distilling(terms)
    if not distilling:
        return {}
    weight = total_weight(terms)
    values = {} if weight is None else {WEIGHT: logits.new_tensor(_of_all_processes(weight, logits.device))}
    parameters = [p for p in distiller.student.parameters() if p.requires_grad]
    full = [Term(term.value, term.weight, term.kind) for term in distilling if term.value.requires_grad]
    if not (isinstance(distiller, Distiller) and distiller.frozen() and full and logits.requires_grad):
        return values
    teacher = distiller.teacher(batch)[ORIGINAL].logits  # also if they are cached
    kd = kd_loss(logits, teacher, TEMPERATURE)
    mine = total({str(i): term for i, term in enumerate(full)})
    reference = _gradient_norm(kd, parameters)
    if reference > 0:
        values[GRADIENT] = _gradient_norm(mine, parameters) / reference
    return values


def _gradient_norm(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.stack([g.float().norm() for g in gradients if g is not None]).norm()
