"""Predict the classes of images: mdistiller-dfpt predict RUN_OR_FILE IMAGE ... [--top K] [--json | --csv].

RUN_OR_FILE is the directory of a run or a .safetensors file of one. IMAGE is a file, a folder (with all images below
it, less hidden ones) or a pattern with wildcards; files that cannot be read are named at the end. Nothing but the
student's file is needed: no teacher, dataset or config.
"""

import csv
import glob
import json
import sys
from pathlib import Path

from ..data.class_folders import SUFFIXES, folders_below, is_image, no_images, unread
from ..distributed import pick_device
from ..errors import ConfigError, DataError
from ..escape import csv_cell, one_name
from ..launch.cli import Parser, guarded
from ..launch.student import Prediction, load_student
from ..runs.weights import weights_file


def images_of(words: list[str]) -> list[Path]:
    """The files that words name: files, all images below folders, patterns; DataError for a word without any."""
    found: list[Path] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            below = [Path(place, name) for place, _, names in folders_below(path, links=False) for name in names]
            some = sorted(p for p in below if is_image(p.name) and p.is_file())
            others = [str(p) for p in below if not is_image(p.name)]
            if not some:
                raise DataError(no_images(path, others, "name another folder, or files"))
            if others:
                print(f"note: {one_name(unread(path, others))}", file=sys.stderr)  # stdout may be JSON
        elif path.exists():
            some = [path]
        else:
            some = [Path(p) for p in sorted(glob.glob(word, recursive=True))]
        if not some:
            raise DataError(f"{word}: no such image")
        found += some
    return found


def _is_student(path: Path) -> bool:
    return (path.is_dir() or path.suffix == ".safetensors") and weights_file(path).is_file()


def _refuse_swapped(student: Path, words: list[str]) -> None:
    """ConfigError if an image is given where the student is to be, or a student among the images."""
    if _is_student(student):
        return
    is_image = student.suffix.lower() in SUFFIXES
    if is_image or (behind := next((word for word in words if _is_student(Path(word))), None)):
        what = "is an image" if is_image else f"is no student, and {behind} is one"
        raise ConfigError(f"{student} {what}: write RUN_OR_FILE first, then the images")


def _as_lines(predictions: list[Prediction]) -> None:
    for p in predictions:
        best = ", ".join(
            f"{one_name(name)} {100 * value:.1f} %" for name, value in zip(p.classes, p.probabilities, strict=True)
        )
        print(f"{one_name(p.image)}: {best}")


def _as_csv(predictions: list[Prediction]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "rank", "class", "probability"])
    for p in predictions:
        for rank, (name, value) in enumerate(zip(p.classes, p.probabilities, strict=True), start=1):
            writer.writerow(map(csv_cell, [one_name(p.image), rank, one_name(name), f"{value:.6f}"]))


def _main(argv: list[str]) -> None:
    parser = Parser("predict", __doc__)
    parser.add_argument("student", metavar="RUN_OR_FILE", type=Path)
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes per image, default 5")
    parser.add_argument("--batch-size", type=int, default=64, help="images at a time, default 64")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--json", action="store_true", help="a list of {image, classes, probabilities}")
    layout.add_argument("--csv", action="store_true", help="a line for each image and class")
    args = parser.parse_args(argv)
    for option, value in (("--top", args.top), ("--batch-size", args.batch_size)):
        if value < 1:
            raise ConfigError(f"{option} is {value}; it must be at least 1")
    _refuse_swapped(args.student, args.images)
    images = images_of(args.images)
    student = load_student(args.student, str(pick_device(args.device)))
    faults: list[DataError] = []
    predictions = student.predict(images, args.top, args.batch_size, faults.append)
    if args.json:
        print(json.dumps([p._asdict() for p in predictions], indent=1))
    elif args.csv:
        _as_csv(predictions)
    else:
        _as_lines(predictions)
    if faults:
        raise DataError("\n".join(one_name(str(fault)) for fault in faults))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
