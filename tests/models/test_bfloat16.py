"""bfloat16 on a CPU without the instructions has the results of bfloat16."""

import subprocess
import sys

import pytest
import torch

import mdistiller_dfpt.models.bfloat16 as bfloat16
from mdistiller_dfpt.models.bfloat16 import between_roundings, has_bfloat16

X, W = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.randn(4, 3, 3, 3)
A, B = torch.randn(2, 5, 7), torch.randn(2, 7, 3)
aten = torch.ops.aten
CASES = {
    "conv1d": (aten.conv1d.default, (X[..., 0], W[..., 0])),
    "conv2d": (aten.conv2d.default, (X, W, torch.ones(4), [2, 2], [1, 1])),
    "conv2d, groups": (aten.conv2d.default, (X, W[:3, :1], None, [1, 1], [0, 0], [1, 1], 3)),
    "conv2d, same": (aten.conv2d.padding, (X, W, None, [1, 1], "same")),
    "linear": (aten.linear.default, (A, B[0].T, torch.ones(3))),
    "matmul": (aten.matmul.default, (A, B)),
    "bmm": (aten.bmm.default, (A, B)),
    "mm": (aten.mm.default, (A[0], B[0])),
    "addmm": (aten.addmm.default, (torch.ones(5, 3), A[0], B[0])),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_are_those_of_bfloat16(name):
    operator, args = CASES[name]

    def run(f):
        inputs = [a.clone().requires_grad_() if torch.is_tensor(a) else a for a in args]
        with torch.autocast("cpu", torch.bfloat16):
            result = f(*inputs)
        result.float().square().mean().backward()
        return [result, *(a.grad for a in inputs if torch.is_tensor(a))]

    for ours, theirs in zip(run(between_roundings(operator)), run(operator), strict=True):
        assert ours.dtype == theirs.dtype
        # the sums differ in their order alone: at most two neighbouring bfloat16 numbers, 2^-8 of the value each
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=2**-7, atol=2**-7 * theirs.abs().max().item())


def test_operands_and_result_are_rounded_and_sums_are_not():
    ones = torch.ones(1, 300)
    with torch.autocast("cpu", torch.bfloat16):
        assert between_roundings(aten.mm.default)(ones, ones.T) == 300, "summed in bfloat16 it would stay at 256"
        assert between_roundings(aten.mm.default)(torch.full((1, 1), 257.0), torch.ones(1, 1)) == 256


def test_float64_is_left_alone():
    x = torch.full((1, 1), 257.0, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert between_roundings(aten.mm.default)(x, x).dtype == torch.float64


@pytest.mark.parametrize(("wide", "calls"), [(True, "bfloat16"), (False, "float32")])
def test_only_a_cpu_that_needs_it_computes_between_roundings(wide, calls):
    """In a process of its own, as the operators of a process are exchanged for good."""
    script = f"""
import torch
from torch.utils._python_dispatch import TorchDispatchMode
import mdistiller_dfpt.models.bfloat16 as bfloat16
from mdistiller_dfpt.models.output import autocast
bfloat16.capabilities_of_cpu = lambda: dict(architecture="x86_64", avx512_bw={wide})
class Types(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution" in str(func):
            print(str(args[0].dtype), str(args[1].dtype))
        return func(*args, **(kwargs or {{}}))
x = torch.ones(1, 3, 8, 8)
with autocast(torch.bfloat16, x), Types():
    print(torch.nn.Conv2d(3, 2, 3)(x).dtype)
print(torch.nn.Conv2d(3, 2, 3)(x).dtype)
"""
    lines = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert lines.stdout.split() == [f"torch.{calls}"] * 2 + ["torch.bfloat16", "torch.float32"]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, True),
        ({"architecture": "aarch64"}, True),
        ({"architecture": "x86_64", "avx512_bw": True}, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True),
    ],
)
def test_a_cpu_is_asked_for_its_instructions(capabilities, expected, monkeypatch):
    monkeypatch.setattr(bfloat16, "capabilities_of_cpu", lambda: capabilities)
    assert has_bfloat16() is expected
