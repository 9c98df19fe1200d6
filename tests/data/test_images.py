"""What a user's data set gives is checked before the first batch."""

import pytest
import torch

from mdistiller_dfpt import DATASETS, build_data, load_cfg
from mdistiller_dfpt.data.build import ImageSource
from mdistiller_dfpt.data.in_memory import ImageSet, Recipe
from mdistiller_dfpt.errors import DataError


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(80, 3, 16, 16), r"float32 \(80, 3, 16, 16\)"),
        (torch.zeros(80, 3, 16, 16, dtype=torch.uint8), r"uint8 \(80, 3, 16, 16\)"),
        (torch.zeros(80, 16, 16, 1, dtype=torch.uint8), r"uint8 \(80, 16, 16, 1\)"),
    ],
    ids=["floats, channels first", "channels first", "grey"],
)
def test_images_of_another_type_or_layout_are_refused(images, words, registries):
    @DATASETS.register("mine")
    def mine(cfg):
        part = ImageSet(images, torch.arange(80) % 4, tuple("abcd"))
        return ImageSource(part, part, Recipe(pad=1, flip=True, mean=(0.5,) * 3, std=(0.5,) * 3))

    with pytest.raises(DataError, match=f"mine has images {words}; they must be uint8"):
        build_data(load_cfg(None, ["DATASET.TYPE", "mine", "EXPERIMENT.DEVICE", "cpu"]))
