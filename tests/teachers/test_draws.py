"""Random numbers of a teacher: distributions, and what they depend on."""

from dataclasses import replace

import torch

from mdistiller_dfpt.teachers.draws import Draws
from mdistiller_dfpt.testing import tiny_batch


def draws(seed=0):
    torch.manual_seed(seed)
    return Draws()


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    x = draws().normal(tiny_batch(64), (5000,), 3).double().flatten()
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert abs((x**power).mean().item() - moment) < 0.05
    assert abs(torch.corrcoef(torch.stack([x[:-1], x[1:]]))[0, 1].item()) < 0.01


def test_uniform_numbers_fill_the_open_interval_evenly():
    x = draws().uniform(tiny_batch(64), (5000,), 0).double().flatten()
    assert x.min() > 0
    assert x.max() < 1
    shares = torch.histc(x, 20, 0, 1) / len(x)
    torch.testing.assert_close(shares, torch.full((20,), 0.05).double(), rtol=0.02, atol=0)


def test_samples_epochs_streams_and_seeds_have_independent_numbers():
    batch, one = tiny_batch(), draws()
    plain = one.normal(batch, (4000,), 0)
    others = {
        "sample": plain.roll(1, 0), "epoch": one.normal(replace(batch, epoch=2), (4000,), 0),
        "stream": one.normal(batch, (4000,), 1), "seed": draws(1).normal(batch, (4000,), 0),
    }  # fmt: skip
    for what, other in others.items():
        assert abs(torch.corrcoef(torch.stack([plain.flatten(), other.flatten()]))[0, 1].item()) < 0.03, what


def test_a_sample_has_its_numbers_in_any_batch_and_after_a_resume():
    batch, one, resumed = tiny_batch(), draws(), draws(1)
    resumed.load_state_dict(one.state_dict())
    expected = one.normal(batch, (3, 2), 5)
    assert expected.shape == (8, 3, 2)
    assert torch.equal(one.normal(batch.rows(slice(1, None, 3)), (3, 2), 5), expected[1::3])
    torch.rand(7)  # the generator has moved on
    assert torch.equal(resumed.normal(batch, (3, 2), 5), expected)
