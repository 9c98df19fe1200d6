"""What a user's dataset gives is checked before the first batch."""

import numpy as np
import pytest
import torch

from mdistiller_dfpt import DATASETS, build_data, load_cfg
from mdistiller_dfpt.data.build import ImageSource
from mdistiller_dfpt.data.in_memory import ImageSet, Recipe
from mdistiller_dfpt.errors import DataError

IMAGES, LABELS = torch.zeros(80, 16, 16, 3, dtype=torch.uint8), torch.arange(80) % 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"images": torch.rand(80, 3, 16, 16)},
            r"images tensor float32 \(80, 3, 16, 16\); they must be a tensor uint8",
        ),
        ({"images": IMAGES.permute(0, 3, 1, 2)}, r"images tensor uint8 \(80, 3, 16, 16\); they must be a tensor uint8"),
        ({"images": IMAGES[..., :1]}, r"images tensor uint8 \(80, 16, 16, 1\); they must be a tensor uint8"),
        ({"images": IMAGES.numpy()}, r"images ndarray uint8 \(80, 16, 16, 3\); they must be a tensor uint8"),
        ({"labels": LABELS.int()}, r"labels tensor int32 \(80,\); they must be a tensor int64"),
        ({"labels": np.arange(80)}, r"labels ndarray int64 \(80,\); they must be a tensor int64"),
        ({"labels": LABELS[:79]}, "80 images and 79 labels in a split"),
        ({"classes": (0, 1, 2, 3)}, r"the classes \[0, 1, 2, 3\]; they must be names, as str"),
    ],
)
def test_a_split_of_another_type_or_layout_is_refused(change, words, registries):
    @DATASETS.register("mine")
    def mine(cfg):
        part = ImageSet(**{"images": IMAGES, "labels": LABELS, "classes": tuple("abcd"), **change})
        return ImageSource(part, part, Recipe(pad=1, flip=True, mean=(0.5,) * 3, std=(0.5,) * 3))

    with pytest.raises(DataError, match=f"mine has {words}"):
        build_data(load_cfg(None, ["DATASET.TYPE", "mine", "EXPERIMENT.DEVICE", "cpu"]))
