"""Tables of image paths and labels: CSV, lines of JSON as of Hugging Face's imagefolder, and lists `path label`."""

import csv
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch

from ..distributed import rank
from ..errors import DataError
from ..regular_files import parse_json, read_text
from .class_folders import SUFFIXES
from .image_files import FileSet

PATHS = ("path", "file_name", "filename", "file", "filepath", "image", "image_path", "image_id", "id")
LABELS = ("label", "class", "labels", "target", "class_name")
"""Names of the two columns in the header of a table with more of them."""

MOST_DIGITS = 20  # of a label
MOST_SHOWN = 80  # characters of a row in a message
Row = tuple[str, str]


class _Images:
    """Finds the images of a table: beside it, or in a folder of its split; their ending may be left out."""

    def __init__(self, table: Path):
        split, root = table.stem, table.parent.parent if table.parent.name == "meta" else table.parent  # OpenMMLab's
        own = [root / split, root / f"{split}_images", root / "images"]
        if not any(folder.is_dir() for folder in own):  # a test set that was drawn from the training images
            own = [root / "train", root / "train_images"]
        self.folders = [table.parent, *(folder for folder in own if folder.is_dir())]
        self.endings = ["", *SUFFIXES]

    def find(self, name: str) -> Path | None:
        """The file of a row, also if its folders are separated as in Windows; None if there is none."""
        for ending in self.endings:
            for folder in self.folders:
                for spelling in (name, name.replace("\\", "/")):
                    path = folder / f"{spelling}{ending}"
                    if os.path.isfile(path):  # False also where the name is too long
                        self.endings.remove(ending)  # the next row most likely has the same
                        self.endings.insert(0, ending)
                        return path
        return None


def read_table(table: Path) -> list[Row]:
    """(path, label) of each row; DataError naming the line of an invalid row.

    A first row without an image is a header, which is said, unless it looks like the name of one.
    """
    try:
        text = read_text(table, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{table}: cannot be read ({e})") from None
    images = _Images(table)
    rows: list[Row] = []
    columns, width = (0, 1), 2
    for number, row in enumerate(_cells(table, text), start=1):
        if not row:
            continue
        if number == 1 and (named := _columns(row)) is not None:
            columns, width = named, len(row)
            _say_header(table, row)
            continue
        if len(row) != width or not row[columns[0]].strip() or not row[columns[1]].strip():
            expected = "path,label" if width == 2 else f"{width} values, as in its header"
            raise DataError(f"{table}:{number}: is {_shown(row)}; expected {expected}")
        name, label = row[columns[0]].strip(), row[columns[1]].strip()
        path = images.find(name)
        if path is None:
            if number == 1 and not name.lower().endswith(SUFFIXES):
                _say_header(table, row)
                continue
            raise DataError(f"{table}:{number}: no such file: {table.parent / name}")
        rows.append((str(path), re.sub(r"^([+-]?[0-9]+)\.0*$", r"\1", label)))  # 3.0 is the class 3
    if not rows:
        raise DataError(f"{table}: contains no images")
    return rows


def _cells(table: Path, text: str) -> list[list[str]]:
    lines = text.splitlines()
    if table.suffix == ".txt":
        return [line.rsplit(maxsplit=1) for line in lines]  # a path may contain spaces
    if table.suffix == ".jsonl":
        return [_of_json(table, number, line) for number, line in enumerate(lines, start=1)]
    first = lines[0] if lines else ""
    separator = next((one for one in ",;\t" if one in first), ",")
    reader = csv.reader(lines, delimiter=separator)
    try:
        return list(reader)
    except csv.Error as e:
        raise DataError(f"{table}:{reader.line_num}: is no line of a table ({e})") from None


def _of_json(table: Path, number: int, line: str) -> list[str]:
    if not line.strip():
        return []
    try:
        values = parse_json(line)
        row = [str(values[next(key for key in known if key in values)]) for known in (PATHS, LABELS)]
    except (ValueError, TypeError, StopIteration):
        raise DataError(
            f"{table}:{number}: is {line[:MOST_SHOWN]!r}; expected an object with file_name and label"
        ) from None
    return row


def _columns(row: Sequence[str]) -> tuple[int, int] | None:
    """The columns of paths and labels, if this is a header that names both."""
    names = [name.strip().lower() for name in row]
    found = [next((names.index(name) for name in known if name in names), None) for known in (PATHS, LABELS)]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _shown(row: Sequence[str]) -> str:
    return repr(",".join(row[:MOST_SHOWN])[:MOST_SHOWN])


def _say_header(table: Path, row: Sequence[str]) -> None:
    if rank() == 0:
        print(f"note: {table}:1: {_shown(row)} is taken as a header", flush=True)


def classes_of(labels: Sequence[str], table: Path) -> list[str]:
    """The classes in order: by number if all labels are whole numbers, else by name.

    DataError if all are numbers, but not whole, or if one is written in two ways.
    """
    names = set(labels)
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        if (digits := max(map(len, names))) > MOST_DIGITS:
            raise DataError(f"{table}: has a label of {digits} digits")
        ordered = sorted(names, key=lambda name: (int(name), name))
        if twice := next((pair for pair in pairwise(ordered) if int(pair[0]) == int(pair[1])), None):
            raise DataError(
                f"{table}: has the labels {twice[0]} and {twice[1]}, which are one number: write it one way"
            )
        return ordered
    if all(re.fullmatch(r"[+-]?[0-9]*\.?[0-9]+", name) for name in names):
        odd = next(name for name in sorted(names) if "." in name)
        raise DataError(f"{table}: has the label {odd}; labels must be names or whole numbers")
    return sorted(names)


def file_set(rows: Sequence[Row], classes: Sequence[str]) -> FileSet:
    """The images of a table, labelled by their places in `classes`."""
    number = {name: i for i, name in enumerate(classes)}
    return FileSet([p for p, _ in rows], torch.tensor([number[label] for _, label in rows]), tuple(classes))
