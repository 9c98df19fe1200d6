"""DOT: a separate momentum for distillation (Zhao et al., 2023, ICCV, "DOT: A Distillation-Oriented Trainer").

Code: megvii-research/mdistiller a08d46f, mdistiller/engine/dot.py.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from ..losses import Terms
from ..losses.term import total


class TwoMomentaSGD(torch.optim.Optimizer):
    """SGD with one momentum buffer for the labels' gradient and one for that of the distillation terms (algorithm 1).

    v_ce = g_ce + (momentum - delta) v_ce,  v_kd = g_kd + (momentum + delta) v_kd,  w -= lr (v_ce + v_kd);
    weight decay is part of g_ce. A parameter that only one kind of terms reaches in a step, such as the classifier
    under a feature loss, has one gradient: it gets `momentum` itself, and weight decay (from the second step on
    where distillation alone reaches it, as in mdistiller). With delta 0 all other parameters are those of SGD.
    """

    found_inf: Tensor | None = None  # () bool, set by the guard on a GPU: skip the update, without synchronising

    def __init__(self, params: Iterable[Any], lr: float, momentum: float, delta: float, weight_decay: float):
        if not 0 <= momentum - delta <= momentum + delta < 1:
            raise ValueError(
                f"SOLVER.DOT.DELTA is {delta}; with SOLVER.MOMENTUM {momentum} both momenta must lie in [0, 1)"
            )
        super().__init__(params, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})
        self._distilled: dict[Tensor, Tensor] = {}

    def parameters(self) -> list[Tensor]:
        """All optimised parameters."""
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def set_distillation_gradient(self) -> None:
        """Store the parameters' current gradients as those of the distillation terms, and clear them."""
        self._distilled = {p: p.grad for p in self.parameters() if p.grad is not None}
        self.zero_grad()

    def distillation_gradients(self) -> list[Tensor]:
        """The gradients that the next step uses for the distillation terms."""
        return list(self._distilled.values())

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update with the current gradients for the labels and the stored ones for the distillation terms.

        `closure`, as in PyTorch's optimisers, computes and returns the loss and sets the current gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                # A parameter that no term reaches gets no weight decay either, as in PyTorch's SGD
                if p.grad is None and p not in self._distilled:
                    continue
                update = _update(self.state[p], p, self._distilled.get(p), group)
                if self.found_inf is not None:
                    update = torch.where(self.found_inf.bool(), torch.zeros_like(update), update)
                p.sub_(update, alpha=group["lr"])
        # The next step may have no distillation terms
        self._distilled = {}
        return loss


def backward_by_kind(
    terms: Terms, optimizer: TwoMomentaSGD, exchange: Callable[[], None], clip: Callable[[], None]
) -> None:  # fmt: skip
    """Compute the gradient of all terms other than the labels', store it in the optimiser, then that of the labels'.

    `exchange` averages gradients over processes; `clip` is a method's change of a gradient before it is used.
    """
    labels = {name: term for name, term in terms.items() if term.kind == "label"}
    others = {name: term for name, term in terms.items() if term.kind != "label"}
    # The others first: what is left in the parameters' `grad` afterwards is the labels' gradient
    if others:
        total(others).backward(retain_graph=bool(labels))
        exchange()
        clip()
        optimizer.set_distillation_gradient()
    if labels:
        total(labels).backward()
        exchange()


def _update(state: dict[str, Any], p: Tensor, distilled: Tensor | None, group: dict[str, Any]) -> Tensor:
    """The sum of a parameter's momentum buffers, after each has taken in its gradient; at least one gradient is set."""
    delta = group["delta"] if p.grad is not None and distilled is not None else 0.0
    moves = []
    if p.grad is not None:
        task = p.grad.add(p, alpha=group["weight_decay"])
        moves.append(_momentum(state, "task", task, group["momentum"] - delta))
    if distilled is not None:
        if p.grad is None and "distilled" in state:  # the reference decays such a parameter from its second step on
            distilled = distilled.add(p, alpha=group["weight_decay"])
        moves.append(_momentum(state, "distilled", distilled, group["momentum"] + delta))
    return moves[0] if len(moves) == 1 else moves[0] + moves[1]


def _momentum(state: dict[str, Any], name: str, gradient: Tensor, momentum: float) -> Tensor:
    buffer = state.get(name)
    if buffer is None:
        state[name] = buffer = torch.clone(gradient)
    else:
        buffer.mul_(momentum).add_(gradient)
    return buffer
