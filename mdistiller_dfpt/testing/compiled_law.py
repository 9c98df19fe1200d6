"""The law of compiled methods: torch.compile changes no number but by rounding."""

import torch

from ..distillers import Method
from ..losses.term import total
from ..training.compiled import compile_method, static
from .laws import holds
from .make import run_seeded, tiny_method
from .tiny_data import tiny_batch


def compiled_it_computes_the_same(cls: type[Method]) -> None:
    """The terms and gradients of four steps in two epochs are those of the method that is not compiled."""
    plain, compiled = tiny_method(cls).train(), tiny_method(cls).train()
    torch.compiler.reset()
    # Traced as for the compiler, and run by PyTorch's own kernels
    compile_method(compiled, torch.device("cpu"), backend="aot_eager")
    for number in range(4):
        batch = static(tiny_batch(epoch=1 + number // 2, step=1 + number % 2))
        expected, found = (run_seeded(method, batch)[1] for method in (plain, compiled))
        holds(list(expected) == list(found), f"other terms once compiled: {list(found)} instead of {list(expected)}")
        for name, term in expected.items():
            a, b = term.weighted.item(), found[name].weighted.item()
            holds(abs(a - b) <= 1e-5 + 1e-4 * abs(a), f"the term {name!r} is {b:.6g} once compiled, and {a:.6g} before")
        for terms in (expected, found):
            total(terms).backward()
        for (name, p), q in zip(plain.named_parameters(), compiled.parameters(), strict=True):
            holds((p.grad is None) == (q.grad is None), f"{name} has a gradient only if it is compiled, or if not")
            if p.grad is not None and q.grad is not None:
                apart = (p.grad - q.grad).norm() > 1e-5 + 1e-3 * p.grad.norm()
                holds(not apart, f"the gradient of {name} is another once compiled")
        for method in (plain, compiled):
            method.zero_grad()
            for part in method.hooked():
                part.after_step(batch)
                part.take_logged()
