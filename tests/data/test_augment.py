"""The strongly augmented view."""

import numpy as np
import pytest
import torch
from PIL import Image

from mdistiller_dfpt.data.augment import OPERATIONS, cutout, strong_view, strong_views
from mdistiller_dfpt.data.image_files import FileLoader, FileRecipe, FileSet
from mdistiller_dfpt.testing import tiny_data


def images(count=6):
    return torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ramp():
    y, x, c = np.meshgrid(np.arange(16), np.arange(16), np.arange(3), indexing="ij")
    return Image.fromarray((40 + 9 * x + 3 * y + 20 * c).astype(np.uint8))


def moments(image):
    """The mean of the pixels, and of the pixels times their column."""
    pixels = np.asarray(image).astype(float)
    return pixels.mean(), (pixels * np.arange(16)[None, :, None]).mean()


# Of the ramp after each operation at 0.8 of its range, by Multi-Level-Logit-Distillation 5ee473f, dataset/cifar100.py
OFFICIAL = (
    (140.68, 1294.9), (114.49, 1002.1), (148.10, 1297.8), (148.07, 1253.9), (125.61, 1261.3), (149.33, 1306.2),
    (148.83, 1302.5), (133.59, 1156.8), (149.32, 1306.0), (140.73, 1093.6), (135.43, 1151.8), (123.79, 960.4),
    (132.18, 891.4), (124.86, 1086.9),
)  # fmt: skip


@pytest.mark.parametrize(("operation", "expected"), list(zip(OPERATIONS, OFFICIAL, strict=True)), ids=lambda v: None)
def test_an_operation_gives_the_pixels_of_the_authors(operation, expected):
    changed = operation.apply(ramp(), operation.low + 0.8 * (operation.high - operation.low))
    assert moments(changed) == pytest.approx(expected, rel=2e-3)  # Pillow's rounding may change


def test_cutout_gives_the_pixels_of_the_authors_and_is_cut_at_the_border():
    assert moments(cutout(ramp(), 0.4, 12.0, 3.0)) == pytest.approx((140.27, 1199.7), rel=2e-3)
    assert cutout(ramp(), 0.0, 12.0, 3.0) == ramp()
    corner = np.asarray(cutout(ramp(), 0.5, 15.9, 15.9))
    assert (corner[-1, -1] == (125, 123, 114)).all()
    assert np.array_equal(corner[:11, :11], np.asarray(ramp())[:11, :11])


def test_magnitudes_are_random_and_cutout_reaches_half_the_width():
    grey = Image.new("RGB", (32, 32), (200, 200, 200))
    views = [np.asarray(strong_view(grey)) for _ in range(300)]
    widths = {int((view == (125, 123, 114)).all(2).any(0).sum()) for view in views}
    assert 14 <= max(widths) <= 17
    assert len(widths) > 10
    assert len({view.tobytes() for view in views}) > 250


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


def _unchanged(monkeypatch):
    """Without the operations and Cutout: what is left is the crop and flip."""
    for module in ("augment", "samples"):
        monkeypatch.setattr(f"mdistiller_dfpt.data.{module}.strong_view", lambda image: image)


def test_it_has_a_crop_and_flip_of_its_own_in_memory(monkeypatch):
    _unchanged(monkeypatch)
    batch = next(tiny_data().train.epoch(1, strong=True))
    again = next(tiny_data().train.epoch(1, strong=True))
    differ = [not torch.equal(weak, strong) for weak, strong in zip(batch.image, batch.strong, strict=True)]
    assert sum(differ) > len(differ) / 2
    assert torch.equal(again.strong, batch.strong)


def test_it_has_a_crop_and_flip_of_its_own_from_files(monkeypatch, tmp_path):
    _unchanged(monkeypatch)
    paths = []
    for i, pixels in enumerate(images()):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(pixels.numpy()).save(paths[-1])

    def one_of_two(image):
        return image.rotate(180) if torch.rand(()) < 0.5 else image

    recipe = FileRecipe(one_of_two, one_of_two, "", 16, (0.5,) * 3, (0.5,) * 3)
    loader = FileLoader(FileSet(paths, torch.zeros(6, dtype=torch.int64), ("a",)), recipe, 6, train=True)
    found = [batch for epoch in range(1, 9) for batch in loader.epoch(epoch, strong=True)]
    same = [torch.equal(w, s) for batch in found for w, s in zip(batch.image, batch.strong, strict=True)]
    assert 8 < sum(same) < 40  # of 48, each equal with probability 1/2
