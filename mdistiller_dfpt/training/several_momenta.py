"""SGD whose momentum depends on the term that a gradient comes from: one buffer for each group of terms."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

import torch
from torch import Tensor

from ..losses import Term, Terms
from ..losses.term import total
from .parameters import optimised


class SeveralMomentaSGD(torch.optim.Optimizer):
    """SGD with a momentum buffer for the gradient of each group of terms; subclasses say which terms are a group.

    v_g = gradient_g + momenta[g] v_g for each group g, in the order of `momenta`; w -= lr (sum of v_g). Weight decay is
    part of the gradient of the group `decayed`, of the weights without the moves of the groups before it. A parameter
    that only one group reaches in a step has the momentum `alone`; where the group `decayed` does not reach it, weight
    decay is with the first group that does, from the second step on.
    """

    found_inf: Tensor | None = None  # () bool, set by the guard on a GPU: skip the update, without synchronising

    def __init__(
        self, params: Iterable[Any], defaults: dict[str, Any], *, momenta: Mapping[str, float], alone: float,
        decayed: str,
    ):  # fmt: skip
        """`defaults`: of the parameter groups, with `lr` and `weight_decay`."""
        super().__init__(params, defaults)
        self.momenta, self.alone, self.decayed = dict(momenta), alone, decayed
        # The gradient of the first group stays in the parameters' `grad`
        self.first, *others = self.momenta
        self._stored: dict[str, dict[Tensor, Tensor]] = {name: {} for name in others}

    def group_of(self, name: str, term: Term) -> str:
        """The group of a term, a key of `momenta`."""
        raise NotImplementedError

    @torch.no_grad()
    def store_gradient(self, group: str) -> None:
        """Store the parameters' current gradients as those of a group's terms, and clear them."""
        self._stored[group] = {p: p.grad for p in optimised(self) if p.grad is not None}
        self.zero_grad()

    def stored_gradients(self) -> list[Tensor]:
        """The gradients that the next step uses beside those of the parameters."""
        return [gradient for of_group in self._stored.values() for gradient in of_group.values()]

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update with the current gradients for the first group and the stored ones for the others.

        `closure`, as in PyTorch's optimisers, computes and returns the loss and sets the current gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                of_groups = {self.first: p.grad, **{name: own.get(p) for name, own in self._stored.items()}}
                gradients = {name: gradient for name, gradient in of_groups.items() if gradient is not None}
                # A parameter that no term reaches gets no weight decay either, as in PyTorch's SGD
                if not gradients:
                    continue
                update = self._update(p, gradients, group)
                if self.found_inf is not None:
                    update = torch.where(self.found_inf.bool(), torch.zeros_like(update), update)
                p.sub_(update, alpha=group["lr"])
        # The next step may lack some groups
        self._stored = {name: {} for name in self._stored}
        return loss

    def _update(self, p: Tensor, gradients: Mapping[str, Tensor], group: Mapping[str, Any]) -> Tensor:
        """The sum of a parameter's momentum buffers, after each has taken in its gradient."""
        state, decay = self.state[p], group["weight_decay"]
        heir = self.decayed if self.decayed in gradients else next(iter(gradients))
        update: Tensor | None = None
        for name, gradient in gradients.items():
            if name == heir and (name == self.decayed or name in state):
                gradient = gradient.add(p if update is None else p.sub(update, alpha=group["lr"]), alpha=decay)
            momentum = self.alone if len(gradients) == 1 else self.momenta[name]
            move = _momentum(state, name, gradient, momentum)
            update = move if update is None else update + move
        assert update is not None
        return update


def backward_by_group(
    terms: Terms, optimizer: SeveralMomentaSGD, exchange: Callable[[], None], clip: Callable[[], None]
) -> None:
    """Compute the gradient of each group of terms, and store those of all groups but the first in the optimiser.

    `exchange` averages gradients over processes; `clip` is a method's change of a gradient before it is used, which the
    caller applies to the first group's.
    """
    groups: dict[str, Terms] = {}
    for name, term in terms.items():
        groups.setdefault(optimizer.group_of(name, term), {})[name] = term
    # The first group last: what is left in the parameters' `grad` afterwards is its gradient
    order = [name for name in (*list(optimizer.momenta)[1:], optimizer.first) if name in groups]
    for name in order:
        total(groups[name]).backward(retain_graph=name != order[-1])
        exchange()
        if name != optimizer.first:
            clip()
            optimizer.store_gradient(name)


def _momentum(state: dict[str, Any], name: str, gradient: Tensor, momentum: float) -> Tensor:
    buffer = state.get(name)
    if buffer is None:
        state[name] = buffer = torch.clone(gradient)
    else:
        buffer.mul_(momentum).add_(gradient)
    return buffer
