"""scikit-learn's handwritten digits (UCI, 1797 images of 8x8): real data included in the installation."""

import numpy as np
import torch
from yacs.config import CfgNode as CN

from ..build import DATASETS, ImageSource
from ..in_memory import ImageSet, Recipe


@DATASETS.register("digits")
def digits(cfg: CN) -> ImageSource:
    """Ten classes at 16x16 (each pixel doubled); every fifth image of a class is a test image."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    images = torch.from_numpy(images)[..., None].expand(-1, -1, -1, 3).contiguous()
    labels = torch.from_numpy(data.target.astype(np.int64))
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for c in range(10):
        is_test[torch.nonzero(labels == c)[::5]] = True
    classes = tuple(str(c) for c in range(10))
    train, test = (ImageSet(images[m], labels[m], classes) for m in (~is_test, is_test))
    # No flips: a mirrored digit is not the same digit
    return ImageSource(train, test, Recipe(pad=1, flip=False, mean=(0.305,) * 3, std=(0.376,) * 3))
