"""DeepKD's trainer: a momentum each for the labels, the target class and the other classes (arXiv:2505.15133).

Its losses are those of a method whose terms of distillation say which part of the classes they are about. Code:
haiduo/DeepKD afb5964, mdistiller/engine/deepkd.py:16-86, mdistiller/engine/trainer.py:386-480.
"""

from collections.abc import Iterable
from typing import Any

from ..errors import ConfigError
from ..losses import Term
from .several_momenta import SeveralMomentaSGD


class ThreeMomentaSGD(SeveralMomentaSGD):
    """SGD with a momentum buffer for the labels' terms, one for those of the target class, one for the others'.

    Momenta are `momentum` plus the deltas of the three, in this order. In the paper each has its own. `released`: as in
    the authors' code, where the labels' buffer of a parameter that all terms reach decays with the target's momentum
    (deepkd.py:42-45), so that the first delta has no effect on it and the two buffers act as one. Weight decay is part
    of the target's gradient, of weights that the two other moves have changed already (deepkd.py:51, 63, 67-71). A
    parameter that one group alone reaches, such as a layer of the teacher's, has the mean of the three momenta.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float, deltas: tuple[float, float, float],
        weight_decay: float, released: bool,
    ):  # fmt: skip
        task, target, others = (momentum + delta for delta in deltas)
        for key, value in zip(("TOG", "TCG", "NCG"), (task, target, others), strict=True):
            if not 0 <= value < 1:
                raise ValueError(
                    f"SOLVER.DEEPKD.DELTA_{key} is {value - momentum:g}; with SOLVER.MOMENTUM {momentum} the momentum "
                    f"{value:g} must lie in [0, 1)"
                )
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "deltas": deltas, "weight_decay": weight_decay},
            momenta={"task": target if released else task, "others": others, "target": target},
            alone=(task + target + others) / 3, decayed="target",
        )  # fmt: skip

    def group_of(self, name: str, term: Term) -> str:
        """By the part of the classes; ConfigError for a term of distillation that has none."""
        if term.kind != "distillation":
            return "task"
        if term.part is None:
            raise ConfigError(f"SOLVER.TRAINER is deepkd; the term {name!r} has no `part`: set `has_parts = False`")
        return term.part
