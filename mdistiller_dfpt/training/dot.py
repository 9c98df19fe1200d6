r"""DOT: a separate momentum for distillation (Zhao et al., 2023, ICCV).

Paper: DOT: A Distillation-Oriented Trainer.

Formula: $$v_{CE} \leftarrow g_{CE} + (\mu - \Delta) v_{CE}, \quad v_{KD} \leftarrow g_{KD} + (\mu + \Delta) v_{KD},
\quad \theta \leftarrow \theta - \eta (v_{CE} + v_{KD})$$ with the gradients $g_{CE}$ of the labels' terms and $g_{KD}$
of all others; $\mu$ is SOLVER.MOMENTUM, $\Delta$ SOLVER.DOT.DELTA.

Code: megvii-research/mdistiller a08d46f, mdistiller/engine/dot.py.
"""

from collections.abc import Iterable
from typing import Any

from ..losses import Term
from .several_momenta import SeveralMomentaSGD


class TwoMomentaSGD(SeveralMomentaSGD):
    """SGD with one momentum buffer for the labels' gradient and one for that of the distillation terms (algorithm 1).

    v_ce = g_ce + (momentum - delta) v_ce,  v_kd = g_kd + (momentum + delta) v_kd,  w -= lr (v_ce + v_kd);
    weight decay is part of g_ce. A parameter that only one kind of terms reaches in a step, such as the classifier
    under a feature loss, has one gradient: it gets `momentum` itself, and weight decay (from the second step on
    where distillation alone reaches it, as in mdistiller). With delta 0 all other parameters are those of SGD.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float, delta: float, weight_decay: float):
        if not 0 <= momentum - delta <= momentum + delta < 1:
            raise ValueError(
                f"SOLVER.DOT.DELTA is {delta}; with SOLVER.MOMENTUM {momentum} both momenta must lie in [0, 1)"
            )
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay},
            momenta={"task": momentum - delta, "distilled": momentum + delta}, alone=momentum, decayed="task",
        )  # fmt: skip

    def group_of(self, name: str, term: Term) -> str:
        """The labels' terms, and all others."""
        return "task" if term.kind == "label" else "distilled"
