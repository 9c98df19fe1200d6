"""The strongly augmented view."""

import torch

from mdistiller_dfpt.data.augment import strong_views
from mdistiller_dfpt.testing import tiny_data


def images(count=6):
    return torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_view_is_a_function_of_seed_epoch_and_index():
    x, index = images(), torch.arange(6)
    first = strong_views(x, index, 1, 1)
    assert first.dtype == torch.uint8
    assert first.shape == x.shape
    order = torch.tensor([4, 2, 0])
    assert torch.equal(strong_views(x[order], index[order], 1, 1), first[order])
    assert not torch.equal(strong_views(x, index, 1, 2), first)
    assert not torch.equal(strong_views(x, index, 2, 1), first)


def test_the_global_random_state_does_not_change():
    state = torch.get_rng_state()
    strong_views(images(), torch.arange(6), 1, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loader_returns_it_on_request_together_with_the_same_weak_view():
    loader = tiny_data().train
    plain, both = next(loader.epoch(1)), next(loader.epoch(1, strong=True))
    assert plain.strong is None
    assert torch.equal(both.image, plain.image)
    assert both.strong.shape == both.image.shape
    assert not torch.equal(both.strong, both.image)
