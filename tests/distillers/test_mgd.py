"""Laws of MGD."""

import pytest
import torch

from mdistiller_dfpt.distillers.mgd import Generation, mask_channels, mgd_loss
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..golden import normal


def test_a_channel_is_masked_as_a_whole_and_the_others_are_not_rescaled():
    torch.manual_seed(0)
    x = normal(1, (50, 40, 2, 2))
    masked = mask_channels(x, 0.25)
    kept = (masked == x).flatten(2).all(2)
    gone = (masked == 0).flatten(2).all(2)
    assert torch.equal(kept, ~gone)
    assert gone.double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(mask_channels(x, 0.0), x)


def test_the_loss_sums_over_a_sample_and_averages_over_the_batch():
    a, b = normal(1, (2, 3, 4, 4)), normal(2, (2, 3, 4, 4))
    assert mgd_loss(a, a) == 0
    torch.testing.assert_close(mgd_loss(a, b), (mgd_loss(a[:1], b[:1]) + mgd_loss(a[1:], b[1:])) / 2)
    torch.testing.assert_close(mgd_loss(a + 2, a), torch.tensor(4.0 * 3 * 16).double())


def test_widths_are_aligned_only_where_they_differ():
    assert [name for name, _ in Generation(6, 6, 0.1).named_parameters()] == [
        f"generate.{i}.{key}" for i in (0, 2) for key in ("weight", "bias")
    ]
    assert Generation(4, 6, 0.1).align.weight.shape == (6, 4, 1, 1)


def test_in_training_each_call_draws_a_mask_and_in_evaluation_none_does():
    distiller, batch = tiny_distiller("MGD", "MGD.MASK_RATIO", "0.5"), tiny_batch()
    values = [distiller(batch)[1]["feat"].value.item() for _ in range(2)]
    assert values[0] != values[1]
    distiller.eval()
    values = [distiller(batch)[1]["feat"].value.item() for _ in range(2)]
    assert values[0] == values[1]
