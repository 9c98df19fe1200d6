"""Prompt and fusion blocks: shapes, unchanged channels, identity initialisation."""

import pytest
import torch

from mdistiller_dfpt.teachers.prompt import PROMPT_BLOCKS, FusionBlock, PartialConv


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 16, 60])
@pytest.mark.parametrize("name", sorted(PROMPT_BLOCKS))
def test_a_block_keeps_the_shape_at_any_width_and_size(name, channels, norm):
    block = PROMPT_BLOCKS[name](channels, r1=2, r2=0.25, kernels=(3, 5, 7), norm=norm)
    for size in (1, 2, 7):
        assert block(torch.randn(2, channels, size, size)).shape == (2, channels, size, size)


@pytest.mark.parametrize("name", sorted(PROMPT_BLOCKS))
def test_a_zeroed_block_returns_zero_and_still_learns(name):
    block = PROMPT_BLOCKS[name](8, r1=2, r2=0.5, kernels=(3, 5), norm=True)
    block.zero()
    seen = []
    block.up.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    out = block(torch.randn(2, 8, 5, 5))
    assert not out.any()
    out.sum().backward()
    expected = seen[0].sum((0, 2, 3)).expand(8, -1)
    torch.testing.assert_close(block.up.weight.grad[:, :, 0, 0], expected)


def test_partial_conv_changes_only_the_first_channels():
    conv = PartialConv(8, kernel=3, ratio=0.25)
    x = torch.randn(2, 8, 5, 5)
    out = conv(x)
    assert conv.convolved == 2
    assert torch.equal(out[:, 2:], x[:, 2:])
    assert not torch.allclose(out[:, :2], x[:, :2])


def test_ratio_one_is_a_plain_convolution():
    conv = PartialConv(4, kernel=3, ratio=1.0)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(conv(x), conv.conv(x))


def test_parallel_groups_do_not_mix_before_the_pointwise_convolution():
    middle = PROMPT_BLOCKS["parallel"](16, r1=1, r2=0.75, kernels=(3, 5), norm=False).middle[0]
    x = torch.randn(1, 16, 6, 6)
    moved = x.clone()
    moved[:, 0] += 1  # within the first kernel's group
    differs = (middle(x) != middle(moved)).flatten(2).any(2)[0]
    assert differs[:6].any()
    assert not differs[6:].any()


def test_cost_falls_with_r1_and_rises_with_r2():
    def parameters(r1, r2):
        return sum(p.numel() for p in PROMPT_BLOCKS["sequence"](64, r1, r2, (3, 5, 7), True).parameters())

    assert parameters(4, 0.25) < parameters(2, 0.25) < parameters(2, 0.5) < parameters(1, 0.5)


def test_the_fusion_block_can_start_as_the_identity():
    fusion = FusionBlock(6)
    fusion.identity()
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(fusion(x), x)
