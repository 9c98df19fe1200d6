"""Images in memory with ImageNet's augmentation; timm's policies and random erasing as functions of seed and sample."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from mdistiller_dfpt import build_data, load_cfg
from mdistiller_dfpt.data.auto_augment import Erasing
from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.errors import ConfigError

MEMORY = {"DATASET.TYPE": "digits", "DATASET.NUM_WORKERS": 0, "SOLVER.BATCH_SIZE": 64, "EXPERIMENT.DEVICE": "cpu"}
IMAGENET = {**MEMORY, "DATASET.RECIPE": "imagenet", "DATASET.SIZE": 24}


def first(data, epoch=1):
    return next(iter(data.train.epoch(epoch)))


@pytest.mark.parametrize(("words", "packages"), [
    ({}, set()), ({"DATASET.AUTO_AUGMENT": "rand-m9-mstd0.5"}, {"PIL", "timm"}), ({"DATASET.ERASING": 0.2}, {"PIL"}),
    ({"DATASET.AUGMENT": ["fixmatch"]}, {"PIL"}),
])  # fmt: skip
def test_what_augments_images_in_memory_is_known_by_its_packages(words, packages):
    data = build_data(load_cfg(None, MEMORY | words))
    assert (data.train.packages, data.test.packages, data.packages) == (packages, set(), packages)


def test_images_in_memory_get_the_views_of_files_and_stay_the_same_dataset():
    plain, data = (build_data(load_cfg(None, words)) for words in (MEMORY, IMAGENET))
    assert data.in_files
    assert data.content == plain.content
    assert data.normalisation == plain.normalisation
    assert data.image_shape == (3, 24, 24)
    batch, again, later = first(data), first(build_data(load_cfg(None, IMAGENET))), first(data, 2)
    assert torch.equal(batch.image, again.image)
    assert torch.equal(batch.index, first(plain).index)
    assert torch.equal(batch.target, first(plain).target)
    assert not torch.equal(batch.image[batch.index.argsort()], later.image[later.index.argsort()])


@pytest.mark.parametrize("kind", ["cub200", "tiny_imagenet"])
def test_images_in_files_of_another_recipe_get_that_of_imagenet(kind, tmp_path):
    files = write_data_set(kind, tmp_path, classes=4, per_class=16)
    words = [*files, *(str(w) for pair in MEMORY.items() for w in pair if pair[0] != "DATASET.TYPE")]
    plain, data = (
        build_data(load_cfg(None, ["DATASET.TYPE", kind, *words, "DATASET.SIZE", "24", "DATASET.RECIPE", recipe]))
        for recipe in ("published", "imagenet")
    )
    assert data.train.augmentation == "random resized crop 24, flip" != plain.train.augmentation
    assert data.normalisation == plain.normalisation
    assert data.content == plain.content


def test_a_policy_of_timm_is_a_function_of_the_sample_and_leaves_all_generators_alone():
    words = {**IMAGENET, "DATASET.AUTO_AUGMENT": "rand-m9-mstd0.5-inc1", "DATASET.ERASING": 0.25}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    batches = [first(build_data(load_cfg(None, words))) for _ in range(2)]
    assert torch.equal(batches[0].image, batches[1].image)
    assert not torch.equal(batches[0].image, first(build_data(load_cfg(None, IMAGENET))).image)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    words = build_data(load_cfg(None, words)).train.augmentation
    assert words == "random resized crop 24, flip, rand-m9-mstd0.5-inc1, random erasing 0.25"
    with pytest.raises(ConfigError, match="DATASET.AUTO_AUGMENT is sand-m9; timm has no such policy"):
        build_data(load_cfg(None, {**IMAGENET, "DATASET.AUTO_AUGMENT": "sand-m9"}))


def test_erasing_replaces_a_rectangle_of_its_share_by_noise():
    torch.manual_seed(0)
    image = Image.new("RGB", (40, 40), (255, 0, 255))
    shares = []
    for _ in range(200):
        changed = np.asarray(Erasing(0.999999, (0.5,) * 3, (0.05,) * 3).augment_picture(image))[..., 1] > 0
        rows, columns = changed.any(1).sum(), changed.any(0).sum()
        assert changed.sum() == rows * columns, "a rectangle"
        shares.append(changed.mean())
    assert min(shares) > 0.015
    assert max(shares) < 0.35
    assert np.mean(shares) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.02)
    unchanged = sum(Erasing(0.25, (0.5,) * 3, (0.2,) * 3).augment_picture(image) is image for _ in range(400))
    assert unchanged == pytest.approx(300, abs=30)
