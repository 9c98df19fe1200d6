"""bfloat16 on a CPU without bfloat16 instructions: the results of bfloat16 at about the speed of float32.

On such a CPU, PyTorch computes a convolution or matrix product of bfloat16 tensors up to 90 times slower than in
float32. Where a CPU has the instructions, their operands and result are bfloat16, their sums float32; so the same
result, up to the order of the sums, comes from float32 kernels between two roundings.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..environment import capabilities_of_cpu

SLOW = (
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input",
    "conv1d.padding", "conv2d.padding", "conv3d.padding", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm",
)  # fmt: skip
"""The operators that autocast runs in the lower precision and that are slow in it."""


def has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions; True if PyTorch cannot tell."""
    capabilities = capabilities_of_cpu()
    if capabilities.get("architecture") != "x86_64":
        return True
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def between_roundings(operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`operator` on float32 tensors rounded to autocast's type, its result rounded to that type; differentiable."""

    @functools.wraps(operator)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu")

        def rounded(value: Any) -> Any:  # autocast leaves float64 alone
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == torch.float64:
                return value
            return value.to(dtype).float()

        with torch.autocast("cpu", enabled=False):
            result = operator(*map(rounded, args), **{key: rounded(value) for key, value in kwargs.items()})
            return result if result.dtype == torch.float64 else result.to(dtype)

    return run


@functools.cache
def speed_up() -> None:
    """Let autocast run the slow operators between roundings in this process, if this CPU needs it; once."""
    capabilities = capabilities_of_cpu()
    if capabilities.get("architecture") == "x86_64" and not capabilities.get("avx512_bw"):
        _register()


def _register() -> None:
    library = torch.library.Library("aten", "IMPL", "AutocastCPU")
    for name in SLOW:
        operator, _, overload = name.partition(".")
        packet = getattr(torch.ops.aten, operator)
        library.impl(name, between_roundings(getattr(packet, overload or "default")), allow_override=True)
    _libraries.append(library)  # an operator is registered as long as its library is referenced


_libraries: list[torch.library.Library] = []
