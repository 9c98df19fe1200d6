"""How well a student recognises corrupted images: its accuracy by corruption and severity."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..checksum import write_checked_json
from ..data.corruptions import OF_SEVERITY, SEVERITIES, constants_for, corrupted
from ..runs.directory import RESULTS
from .judge import Tested
from .student import Student

BATCH = 64
CORRUPTIONS = "corruptions.json"  # in the directory of a run


def robustness(
    student: Student, tested: Tested, names: Sequence[str], severities: Sequence[int], seed: int = 0
) -> dict[str, Any]:
    """The accuracies on the images of `tested`, in float32, as plain values: top-1 in per cent.

    `top1`: {corruption: {severity: accuracy}}, and their mean by corruption and over all. `error` is 100 less the mean:
    the mean corruption error, not divided by that of another network. `clean`: of the images as they are. They are
    corrupted after their resize and crop; the same for every student. ConfigError if its dataset has another test
    transform.
    """
    right = {name: dict.fromkeys(severities, 0) for name in names}
    clean, size, counted = 0, (0, 0), 0
    with torch.inference_mode():
        for first, images in _batches(student, tested):
            labels = tested.labels[first : first + len(images)]
            clean += _right(student, images, labels)
            size, counted = images[0].shape[:2], counted + len(images)
            for name in names:
                for severity in severities:
                    changed = [corrupted(x, name, severity, first + i, seed) for i, x in enumerate(images)]
                    right[name][severity] += _right(student, changed, labels)
    top1 = {name: {str(s): 100 * n / counted for s, n in of_name.items()} for name, of_name in right.items()}
    by_name = {name: mean(of_name.values()) for name, of_name in top1.items()}
    overall = mean(by_name.values())
    return {
        "constants": constants_for(size), "pixels": list(size), "seed": seed, "images": counted,
        "clean": 100 * clean / counted, "top1": top1, "mean_by_corruption": by_name, "mean": overall,
        "error": 100 - overall,
    }  # fmt: skip


def _batches(student: Student, tested: Tested) -> Iterator[tuple[int, list[Any]]]:
    """The number of the first image, and the images (H, W, 3) uint8, of each batch."""
    preprocess, count = student.preprocess, len(tested.labels)
    for first in tqdm(range(0, count, BATCH), unit="batch", leave=False, disable=None):
        pictures = [tested.picture(n) for n in range(first, min(first + BATCH, count))]
        assert None not in pictures, "an image that was tested can be read"
        yield first, [np.asarray(preprocess.cropped(picture)) for picture in pictures if picture is not None]


def _right(student: Student, images: Sequence[Any], labels: Tensor) -> int:
    inputs = torch.stack([student.preprocess.normalised(Image.fromarray(image)) for image in images])
    return int((student(inputs.to(student.device)).argmax(1).cpu() == labels).sum())


def robustness_lines(found: dict[str, Any]) -> list[str]:
    """The accuracies for a reader: one line for each corruption, and the mean."""
    severities = list(next(iter(found["top1"].values())))
    height, width = found["pixels"]
    where = f"constants of {found['constants']}, images of {height}x{width}, seed {found['seed']}"
    lines = [
        f"top-1 in % on corrupted images ({where}); as they are: {found['clean']:.2f}",
        f"{'severity':18}" + "".join(f"{s:>7}" for s in severities) + "   mean",
    ]
    for name, of_name in found["top1"].items():
        values = [*of_name.values(), found["mean_by_corruption"][name]]
        lines.append(f"{name:18}" + "".join(f"{value:7.2f}" for value in values))
    over = " at ".join(
        f"{count} {one if count == 1 else many}"
        for count, one, many in (
            (len(found["top1"]), "corruption", "corruptions"), (len(severities), "severity", "severities")
        )
    )  # fmt: skip
    lines.append(f"mean over {over}: {found['mean']:.2f}; mean corruption error, not normalised: {found['error']:.2f}")
    size = 32 if found["constants"] == "CIFAR-C" else 224
    if max(found["pixels"]) != size:
        lines.append(f"note: these constants were chosen for images of {size}x{size}; at another size, a severity is"
                     " another one")  # fmt: skip
    return lines


def keep_with_run(student: Student, found: dict[str, Any]) -> Path | None:
    """Write the accuracies beside the results of the student's run, for the page of `report`.

    None, and nothing is written, if the student is not given as a run, or if not all corruptions were tested.
    """
    counts = {len(of_name) for of_name in found["top1"].values()}
    is_whole = found["top1"].keys() == OF_SEVERITY.keys() and counts == {len(SEVERITIES)}
    if not is_whole or not (student.source / RESULTS).is_file():
        return None
    write_checked_json(student.source / CORRUPTIONS, found | {"sha256": student.record.sha256})
    return student.source / CORRUPTIONS
