"""The trainers of SOLVER.TRAINER: what the names of this project and of mdistiller stand for."""

from typing import NamedTuple

from .limits import Limit


class TrainerKind(NamedTuple):
    """What sets a trainer apart: the terms of which it computes separate gradients, and its optimiser."""

    several_backwards: bool = False  # a backward pass for each kind of terms
    own_optimiser: bool = False  # in place of SOLVER.TYPE
    needs_parts: bool = False  # terms of distillation about the target class or the others, not about all classes


TRAINERS = {
    "base": TrainerKind(),
    "crd": TrainerKind(),  # mdistiller's: one loop serves all methods here
    "dot": TrainerKind(several_backwards=True, own_optimiser=True),
    "deepkd": TrainerKind(several_backwards=True, own_optimiser=True, needs_parts=True),
    "projected": TrainerKind(several_backwards=True),
}

A_TRAINER = Limit(
    f"one of {', '.join(TRAINERS)}; a trainer of an mdistiller fork is not run here: base gives a method its views,"
    " indices and epoch",
    lambda v: v in TRAINERS,
)
WITH_OPTIMISER = tuple(name for name, kind in TRAINERS.items() if kind.own_optimiser)
