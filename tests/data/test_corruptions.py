"""Corruptions: CIFAR-C's, checked with the constants of ImageNet-C against the library that has those alone."""

import numpy as np
import pytest
from PIL import Image

from mdistiller_dfpt.data import corruptions
from mdistiller_dfpt.data.corruptions import OF_SEVERITY, SEVERITIES, constants_for, corrupted, library
from mdistiller_dfpt.errors import ConfigError

OF_IMAGENET = {
    "gaussian_noise": 0.18, "shot_noise": 12, "defocus_blur": (6, 0.5), "glass_blur": (1, 2, 3),
    "motion_blur": (15, 8), "zoom_blur": 1.16, "snow": (0.55, 0.3, 4, 0.9, 12, 8, 0.7), "fog": (2.5, 1.7),
    "brightness": 0.3, "contrast": 0.2, "jpeg_compression": 15,
}  # fmt: skip
"""The constants of severity 3 in the library (of zoom blur, 2), where both papers' functions are the same."""


def picture(side=32):
    """A gradient with a bright square, uint8."""
    rows, columns = np.mgrid[:side, :side] / side
    image = np.stack([rows, columns, 0.5 + 0.3 * np.sin(9 * rows * columns)], -1)
    image[side // 4 : side // 2, side // 4 : side // 2] = (0.9, 0.8, 0.1)
    return (255 * image).astype(np.uint8)


@pytest.mark.parametrize("name", OF_IMAGENET)
def test_with_the_constants_of_imagenet_they_are_the_librarys(name):
    image, own = picture(), {"seed": 5} if name == "glass_blur" else {}
    with corruptions._seeded(5):
        found = corruptions._OF_CIFAR[name](image / 255, OF_IMAGENET[name])
    with corruptions._seeded(5):
        severity = 2 if name == "zoom_blur" else 3
        expected = np.asarray(getattr(library(), name)(Image.fromarray(image), severity, **own), np.float64)
    difference = np.abs(np.floor(255 * np.clip(found, 0, 1)) - np.floor(expected))
    assert difference.max() <= 1
    assert difference.mean() < 0.02


def test_every_corruption_is_a_function_of_its_seed_and_leaves_the_global_state():
    image, before = picture(), np.random.get_state()[1].copy()
    for name in OF_SEVERITY:
        found = [corrupted(image, name, 3, index=7) for _ in range(2)]
        assert np.array_equal(*found), name
        assert found[0].shape == image.shape
        assert found[0].dtype == np.uint8
    drawn = [corrupted(image, "gaussian_noise", 3, index, seed) for index, seed in ((7, 0), (8, 0), (7, 1))]
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("side", [16, 32, 40])
def test_the_highest_severity_changes_more_than_the_lowest(side):
    image = picture(side)
    for name in sorted(
        set(OF_SEVERITY) - {"glass_blur", "elastic_transform", "frost"}
    ):  # in them, kinds of change vary
        low, high = (
            np.mean([np.abs(corrupted(image, name, s, i).astype(int) - image).mean() for i in range(4)])
            for s in (SEVERITIES[0], SEVERITIES[-1])
        )
        assert high > low, name
    assert constants_for((side, side)) == ("CIFAR-C" if side <= 32 else "ImageNet-C")


def test_what_is_missing_or_unknown_is_said(monkeypatch):
    with pytest.raises(ConfigError, match="unknown corruption 'fogg'; did you mean fog"):
        corruptions.check_corruptions(["fogg"])
    library.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "imagecorruptions", None)
    with pytest.raises(ConfigError, match=r'pip install "mdistiller_dfpt\[corruptions\]"'):
        corruptions.check_corruptions(["fog"])
    library.cache_clear()
