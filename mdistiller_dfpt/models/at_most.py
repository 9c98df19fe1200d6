"""A limit for networks that a file of others names: they are not far larger than what is loaded into them."""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..errors import CheckpointError


@contextlib.contextmanager
def at_most(size: float, tensors: int, what: str) -> Iterator[None]:
    """CheckpointError as soon as the networks that are built here have more bytes or parameters; `what`: the file."""
    count, total = 0, 0

    def add(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal count, total
        if parameter is not None:
            count, total = count + 1, total + parameter.numel() * parameter.element_size()
        if total > size or count > tensors:  # before its values are written: until then it takes no memory
            raise CheckpointError(f"{what}: names a network that is far larger than its weights")

    hook = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        hook.remove()
