"""A term of the training loss: its value, its weight and its kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from torch import Tensor

from ..errors import ConfigError, PluginError

Kind = Literal["label", "distillation", "teacher"]
Part = Literal["target", "others"]


@dataclass(frozen=True)
class Term:
    """A scalar before weighting. `kind`: from the labels, from the teacher, or from the teacher's own training.

    Trainers, the distillation weight in reports and the like use the kind and never infer it from a name.
    """

    value: Tensor  # ()
    weight: float
    kind: Kind
    ramp: float = 1.0  # the fraction of the weight that is in force in this step, such as that of a warm-up
    inside: float | None = 1.0  # the sum of the weights that `value` has already; None: unknown
    part: Part | None = None  # of a distillation term: the part of the classes that it is about, if it is about one

    @property
    def in_force(self) -> float:
        """The weight in this step."""
        return self.weight * self.ramp

    @cached_property
    def weighted(self) -> Tensor:
        """The value times the weight in this step, ()."""
        return self.value if self.in_force == 1 else self.in_force * self.value

    def times(self, factor: float) -> "Term":
        """The term with its weight multiplied by `factor`."""
        return self if factor == 1 else replace(self, weight=self.weight * factor)


Terms = dict[str, Term]
"""The terms of a step, by the names under which they are logged."""


RESERVED = ("loss", "top1", "top5")
"""Names that the loop logs itself."""


def label(value: Tensor, weight: float = 1.0) -> Term:
    """A term that matches the student to the labels."""
    return Term(value, weight, "label")


def distillation(
    value: Tensor, weight: float = 1.0, *, ramp: float = 1.0, inside: float | None = 1.0, part: Part | None = None
) -> Term:
    """A term that matches the student to the teacher; `part`: on the target against the rest, or among the others."""
    return Term(value, weight, "distillation", ramp, inside, part)


def warm_up(epoch: int, epochs: int) -> float:
    """The `ramp` of a term whose weight rises linearly over the first epochs; 1 if there are none."""
    return min(epoch / epochs, 1.0) if epochs else 1.0


def own(value: Tensor, weight: float = 1.0) -> Term:
    """A term that trains the teacher's own modules; the student gets no gradient from it."""
    return Term(value, weight, "teacher")


def own_terms(parts: Mapping[str, tuple[float, Callable[[], Tensor]]]) -> Terms:
    """{name: (weight, value)} as terms of the teacher's own; a value of weight 0 is not computed."""
    return {name: own(value(), weight) for name, (weight, value) in parts.items() if weight > 0}


def checked(terms: Mapping[str, Term], where: type) -> Mapping[str, Term]:
    """The terms, if each is a scalar `Term`; PluginError naming the class that returned something else."""
    if not isinstance(terms, Mapping):
        raise PluginError(where, f"its losses are a {type(terms).__name__}; they must be a dict from names to terms")
    for name, term in terms.items():
        if name in RESERVED:
            raise PluginError(where, f"the term {name!r} has a name that the loop logs itself: rename it")
        if not isinstance(term, Term):
            kind = type(term).__name__
            raise PluginError(where, f"the term {name!r} is a {kind}; write label(value, weight) for a term with the "
                                     "labels, distillation(value, weight) for one with the teacher")  # fmt: skip
        if not isinstance(term.weight, int | float):
            raise PluginError(where, f"the weight of the term {name!r} is {term.weight!r}; it must be a number")
        if not isinstance(term.value, Tensor) or term.value.shape != ():
            shape = tuple(getattr(term.value, "shape", ())) or type(term.value).__name__
            raise PluginError(
                where, f"the term {name!r} has shape {shape}; a term must be a scalar, such as a mean over the batch"
            )
    return terms


def trainable(terms: Mapping[str, Term], where: type) -> Mapping[str, Term]:
    """The terms of a step, checked; ConfigError if there is none that a parameter can learn from."""
    if not any(term.value.requires_grad for term in checked(terms, where).values()):
        raise ConfigError(
            f"{where.__name__}: no term of the loss depends on a trained parameter ({', '.join(terms) or 'no terms'}):"
            " are all weights 0?"
        )
    return terms


def checking(losses: Callable[..., Mapping[str, Term]], where: type) -> Callable[..., Terms]:
    """`losses`, with its terms checked before they are used."""
    return lambda *arguments: dict(checked(losses(*arguments), where))


def total(terms: Mapping[str, Term]) -> Tensor:
    """The loss: the weighted sum of all terms, ()."""
    weighted = [term.weighted for term in terms.values()]
    result = weighted[0]
    for value in weighted[1:]:
        result = result + value
    return result
