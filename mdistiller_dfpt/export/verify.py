"""Compares what was exported with the checkpoint, on real images, before it gets its place."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..atomic import flush, saving
from ..data.class_folders import images_in
from ..data.loader import Loader
from ..data.samples import Fault, read_image
from ..errors import DataError, ExportError
from ..launch.student import Student

Network = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) as `student.preprocess` returns them -> logits (B, classes), both on the CPU."""

IMAGES, BATCH = 256, 64
PIXELS = IMAGES * 512 * 512  # of all images together: they are in memory at once, and a file names their size


class Sample(NamedTuple):
    """Images (N, 3, H, W) as a student takes them, and where they are from."""

    images: Tensor
    source: str
    labels: Tensor | None = None  # (N,), of a folder whose folders are named as the student's classes


def of_folder(student: Student, folder: Path) -> Sample:
    """At most 256 images below a folder, evenly spaced; DataError if one cannot be read, or if there are none."""
    paths = images_in(folder)[0]
    if not paths:
        raise DataError(f"--images {folder}: {'no images in this folder' if folder.is_dir() else 'no such folder'}")
    chosen = [paths[i] for i in spaced(len(paths), student.record.image_shape).tolist()]
    images = []
    for path in chosen:
        image = read_image(path)
        if isinstance(image, Fault):
            raise DataError(f"{image.path}: cannot be read as an image ({image.reason}); replace or remove it")
        images.append(student.preprocess(image))
    number = {name: i for i, name in enumerate(student.classes)}
    labels = [number.get(Path(path).relative_to(folder).parts[0]) for path in chosen]
    known = None if None in labels else torch.tensor(labels)
    return Sample(torch.stack(images), str(folder), known)


def of_split(student: Student, loader: Loader, source: str) -> Sample:
    """At most 256 images of a split, evenly spaced, as the student takes them in testing."""
    batches = loader.as_test(spaced(loader.num_samples, student.record.image_shape)).epoch()
    return Sample(torch.cat([student.sized(batch.image) for batch in batches]).cpu().contiguous(), source)


def spaced(count: int, shape: tuple[int, int, int]) -> Tensor:
    """The numbers of at most 256 of `count` images, (N,) int64; of fewer where `shape` (3, H, W) is above 512 x 512."""
    return torch.linspace(0, count - 1, min(count, IMAGES, max(1, PIXELS // (shape[1] * shape[2])))).round().long()


def batches(images: Tensor) -> Iterator[Tensor]:
    """One image alone, three, and then all: the batch is not a fixed dimension of what was exported."""
    yield images[:1]
    yield images[:3]
    yield from images.split(BATCH)


@torch.no_grad()
def largest_difference(student: Network, exported: Network, images: Tensor) -> float:
    """The largest difference of the logits over all images; not a number if any is not; ExportError for a shape."""
    largest = torch.zeros(())
    for batch in batches(images):
        expected, found = student(batch), exported(batch)
        if found.shape != expected.shape:
            raise ExportError(f"the exported network returns {tuple(found.shape)} for {len(batch)} images; the"
                              f" checkpoint's returns {tuple(expected.shape)}")  # fmt: skip
        largest = torch.maximum(largest, (found - expected).abs().max())
    return largest.item()


def verified(student: Student, exported: Network, sample: Sample, bound: float) -> float:
    """`largest_difference`; ExportError if it is above the bound, or not a number."""
    found = largest_difference(student, exported, sample.images)
    if not found <= bound:
        raise ExportError(
            f"the logits differ from the checkpoint's by up to {found:.2e} on {len(sample.images)} images of"
            f" {sample.source}, which is above the bound of {bound:g}: nothing was written; another bound: --bound"
        )
    return found


@contextlib.contextmanager
def published(path: Path) -> Iterator[Path]:
    """A place to write a file or a folder to; it becomes `path` when the block ends, and vanishes if that fails.

    Other files in a folder that exists are kept.
    """
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            part = Path(folder) / path.name
            yield part
            if part.is_dir() and path.is_dir():
                for file in part.iterdir():
                    shutil.move(file, path / file.name)
            else:
                flush(part)
                part.replace(path)
