"""Label smoothing, mixup and CutMix: distributions, exact fractions, and randomness by (seed, epoch, step)."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt.data import Batch
from mdistiller_dfpt.data.mixing import Mixing


def batch(size=6, step=1, epoch=1):
    """Images that are constant, at the number of their sample."""
    image = torch.arange(float(size))[:, None, None, None].expand(size, 3, 16, 16).contiguous()
    return Batch(image, torch.arange(size) % 4, torch.arange(size), epoch=epoch, step=step)


def mixing(smoothing=0.0, mixup=0.0, cutmix=0.0, seed=1):
    return Mixing(smoothing, mixup, cutmix, classes=4, seed=seed)


def test_smoothed_labels_give_pytorchs_smoothed_cross_entropy():
    logits = torch.randn(6, 4, dtype=torch.double)
    soft = mixing(smoothing=0.1)(batch()).soft.double()
    expected = F.cross_entropy(logits, batch().target, label_smoothing=0.1)
    torch.testing.assert_close(F.cross_entropy(logits, soft), expected)


def test_without_any_of_them_batches_pass_unchanged():
    first = batch()
    assert list(mixing().over([first])) == [first]
    assert first.labels is first.target


def test_mixup_mixes_image_and_label_by_the_same_fraction():
    mixed = mixing(mixup=0.8)(batch())
    kept = mixed.soft[0, 0].item()  # sample 0 of class 0, with sample 5 of class 1
    assert 0 < kept < 1
    torch.testing.assert_close(mixed.soft[0], torch.tensor([kept, 1 - kept, 0, 0]))
    torch.testing.assert_close(mixed.image[0, 0, 0, 0].item(), (1 - kept) * 5, atol=1e-5, rtol=1e-5)
    assert mixed.image.flatten(1).std(1).max() < 1e-6


def test_cutmix_cuts_a_box_of_the_partner_whose_area_is_the_labels_fraction():
    for step in range(1, 20):
        mixed = mixing(cutmix=1.0)(batch(step=step))
        of_partner = mixed.image[0, 0] == 5
        rows, columns = of_partner.any(1).nonzero().flatten(), of_partner.any(0).nonzero().flatten()
        assert of_partner.sum() == len(rows) * len(columns), "a box"
        torch.testing.assert_close(mixed.soft[0, 1].item(), of_partner.float().mean().item(), atol=1e-6, rtol=1e-6)


def test_the_area_of_a_cut_follows_its_own_beta_distribution():
    """Boxes whose centre keeps them inside the image have the area 1 - kept; the others are smaller."""
    alone = torch.tensor([mixing(cutmix=1.0)(batch(step=s)).soft[0, 0].item() for s in range(1, 2001)])
    # E of the kept fraction for Beta(1, 1) and a uniform centre: 1 - E[s (1 - s / 4)]^2 with s^2 = 1 - kept, by hand
    side = torch.rand(200_000, dtype=torch.double).sqrt()
    inside = (side - side**2 / 4) ** 2  # each direction loses s / 4 of s on average, independently
    assert alone.mean().item() == pytest.approx(1 - inside.mean().item(), abs=0.02)
    with_mixup = [mixing(mixup=0.05, cutmix=1.0)(batch(step=s)) for s in range(1, 400)]
    cuts = torch.tensor([m.soft[0, 0].item() for m in with_mixup if (m.image % 1 == 0).all()])
    assert cuts.std().item() == pytest.approx(alone.std().item(), rel=0.15), "alpha of CutMix, not of mixup"


def test_with_both_each_batch_takes_one_of_them():
    kinds = {bool((mixing(mixup=1.0, cutmix=1.0)(batch(step=s)).image % 1 == 0).all()) for s in range(1, 30)}
    assert kinds == {True, False}


def test_the_fraction_follows_the_beta_distribution():
    """Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1))."""
    kept = torch.tensor([mixing(mixup=0.8)(batch(step=s)).soft[0, 0].item() for s in range(1, 3001)])
    assert kept.mean().item() == pytest.approx(0.5, abs=0.02)
    assert kept.var().item() == pytest.approx(1 / (4 * 2.6), rel=0.06)


def test_it_is_a_function_of_seed_epoch_and_step_alone():
    def image(seed=1, **where):
        torch.rand(3)
        return mixing(mixup=1.0, seed=seed)(batch(**where)).image

    assert torch.equal(image(), image())
    for other in (image(seed=2), image(step=2), image(epoch=2)):
        assert not torch.equal(image(), other)


def test_rows_of_a_batch_keep_their_labels():
    mixed = mixing(mixup=1.0)(batch())
    assert torch.equal(mixed.rows(slice(2, 4)).soft, mixed.soft[2:4])
    assert replace(mixed, soft=None).labels is mixed.target
