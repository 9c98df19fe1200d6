"""What a folder of images holds, for the choice of a recipe: classes, sizes, broken files, copies."""

import contextlib
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .build import FileSource
from .check import Look, faults_of, look_at

MANY_TIMES = 5
"""From this ratio of the largest to the smallest class on, classes are said to be unbalanced."""
TINY, SOME = 64, 0.1
FEW_TESTED = 50  # images


@dataclass(frozen=True)
class Survey:
    """A folder of images: `train` and `test` are the number of images of each class that can be read."""

    classes: tuple[str, ...]
    train: tuple[int, ...]
    test: tuple[int, ...]
    broken: list[str]  # one line for each file that is not an image
    twice: list[str]  # one line for each image that is in both sets or has two labels
    side: int  # the median of the shorter sides, in pixels
    tiny: int  # images with a side below TINY pixels
    grey: int
    rotated: int  # by their EXIF data
    copies: int  # images beyond the first of equal ones

    @property
    def images(self) -> int:
        """All that can be read."""
        return sum(self.train) + sum(self.test)

    def notes(self) -> list[str]:
        """What a user should know of these images before training, one line each."""
        each = [a + b for a, b in zip(self.train, self.test, strict=True)]
        least, most = min(each), max(each)
        small, large = self.classes[each.index(least)], self.classes[each.index(most)]
        lines = [f"{line}; it is skipped" for line in self.broken]
        lines += self.twice
        if self.copies:
            lines.append(f"{self.copies} of the {self.images} images are copies of others")
        if least * MANY_TIMES <= most:
            unbalanced = f"the classes are unbalanced: {small} has {least} images, {large} has {most}"
            lines.append(f"{unbalanced}; the accuracy over all images says little of the small ones")
        if least < 10:
            lines.append(f"{small} has only {least} images: its accuracy will be measured on very few")
        if (tested := sum(self.test)) < FEW_TESTED:
            lines.append(f"only {tested} images are for testing: each is {100 / tested:.1f} points of the accuracy")
        if self.tiny:
            lines.append(f"{self.tiny} of the {self.images} images have a side below {TINY} pixels, and are enlarged")
        if self.grey >= SOME * self.images:
            lines.append(f"{self.grey} of the {self.images} images are grey: predict on images of both kinds alike")
        if self.rotated:
            lines.append(f"{self.rotated} of the {self.images} images are turned by their EXIF data (DATASET.UPRIGHT)")
        return lines


def survey(source: FileSource, workers: int, seen: Callable[[int], None] = lambda count: None) -> Survey:
    """Read every image of a dataset; `seen` is called with the number of images read so far."""
    looks: list[Look] = []
    with contextlib.closing(look_at(source, workers)) as found:
        for look in found:
            looks.append(look)
            seen(len(looks))
    broken, twice = faults_of(source, looks)
    good = [look for look in looks if look.digest is not None]
    labels = [*source.train.labels.tolist(), *source.test.labels.tolist()]
    counts = Counter((look.split, label) for look, label in zip(looks, labels, strict=True) if look.digest is not None)
    classes = source.train.classes
    train, test = (tuple(counts[split, label] for label in range(len(classes))) for split in ("train", "test"))
    sides = [min(look.size) for look in good]
    return Survey(
        classes, train, test, broken, twice, round(statistics.median(sides)) if sides else 0,
        sum(side < TINY for side in sides), sum(look.is_grey for look in good), sum(look.is_rotated for look in good),
        len(good) - len({look.digest for look in good}),
    )  # fmt: skip
