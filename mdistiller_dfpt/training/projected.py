"""The gradient of distillation without the part that opposes the labels' (after Yu et al., 2020, arXiv:2001.06782).

One side of PCGrad's projection: the labels' gradient is not projected on the other. Code: penghui-yang/DHKD 7976c69,
helper/optimizer.py:10-134.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..losses import Terms
from ..losses.term import total


def backward_projected(terms: Terms, parameters: Iterable[Tensor], exchange: Callable[[], None]) -> None:
    """Set the gradient of the sum of the terms, with that of distillation projected where the two disagree.

    With g of the labels' terms and h of all others, over all parameters as one vector: g + h, and if <g, h> is
    negative, g + h - <g, h> / |g|^2 g. `exchange` averages the parameters' gradients over processes.
    """
    parameters = list(parameters)
    labels, others = (
        {name: term for name, term in terms.items() if (term.kind == "label") == of_labels and term.value.requires_grad}
        for of_labels in (True, False)
    )
    if not (labels and others):
        total(terms).backward()
        exchange()
        return
    total(others).backward(retain_graph=True)
    exchange()
    others_gradient = {p: p.grad for p in parameters if p.grad is not None}
    for p in parameters:
        p.grad = None
    total(labels).backward()
    exchange()
    with torch.no_grad():
        _add(parameters, others_gradient)


def _add(parameters: Iterable[Tensor], others: dict[Tensor, Tensor]) -> None:
    """Add these gradients, projected, to those of the labels in `grad`; nothing waits for the device."""
    own = {p: p.grad for p in parameters if p.grad is not None}
    square = torch.stack([gradient.square().sum() for gradient in own.values()]).sum()
    both = [(gradient * others[p]).sum() for p, gradient in own.items() if p in others]
    product = torch.stack(both).sum() if both else torch.zeros_like(square)
    # What the projection takes from the other gradient is a multiple of the labels', which thus grows
    factor = 1 - torch.where(product < 0, product / square, torch.zeros_like(product))
    for gradient in own.values():
        gradient.mul_(factor)
    for p, gradient in others.items():
        p.grad = own[p].add_(gradient) if p in own else gradient
