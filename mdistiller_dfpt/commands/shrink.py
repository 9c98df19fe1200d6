"""Copy a folder of images with the large ones made smaller: mdistiller-dfpt shrink SRC DST --size N [--quality Q].

The shorter side of every image in DST is at most N: larger ones are resized (bicubic, with antialiasing) and written in
their own format, others and files that are no images are copied as they are. Splits, class folders and names stay;
hidden files are left out. Of the EXIF data, the orientation stays. A command that was interrupted goes on if repeated.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from tqdm import tqdm

from ..atomic import remove_parts, write_json
from ..data.class_folders import is_image
from ..data.smaller_copy import File, Totals, Written, add_up, files_of, shrink
from ..distributed import num_cores
from ..errors import ConfigError, DataError
from ..launch.cli import Parser, guarded
from ..regular_files import read_json
from ..runs.locks import RunLock

RECORD, LOCK = ".shrink.json", ".shrink.lock"
SHOWN = 10  # faults


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser("shrink", __doc__, reads_configs=False)
    parser.add_argument("source", type=Path, metavar="SRC", help="the images")
    parser.add_argument("target", type=Path, metavar="DST", help="a new folder, or one that this command began")
    parser.add_argument("--size", type=int, required=True, metavar="N", help="pixels of the shorter side, at most")
    parser.add_argument("--quality", type=int, default=90, metavar="Q", help="of JPEG and WebP, 1 to 100; default: 90")
    parser.add_argument("--workers", type=int, default=num_cores(), help="processes; default: one for each core")
    args = parser.parse_args(argv)
    for option, value, most in (("--size", args.size, None), ("--quality", args.quality, 100),
                                ("--workers", args.workers, None)):  # fmt: skip
        if value < 1 or (most is not None and value > most):
            limit = f"1 to {most}" if most else ">= 1"
            raise ConfigError(f"{option} is {value}; it must be {limit}")
    source, target = (Path(os.path.realpath(path)) for path in (args.source, args.target))
    if not source.is_dir():
        raise DataError(f"SRC {args.source}: no such folder")
    if source in (target, *target.parents) or target in source.parents:
        raise ConfigError(f"DST {args.target}: lies in SRC {args.source}, or around it: give a folder of its own")
    return args


def _is_ours(name: str) -> bool:
    """Whether a file is there before the record: its lock, and what a killed write of the record left."""
    return name == LOCK or (name.startswith(f".{RECORD}.") and name.endswith(".part"))


@contextlib.contextmanager
def _begun(target: Path, settings: dict[str, int | str]) -> Iterator[None]:
    """Context in which the folder is this command's alone; ConfigError if it holds something else."""
    record = target / RECORD
    if not record.is_file() and target.exists() and (not target.is_dir() or not all(map(_is_ours, os.listdir(target)))):
        raise ConfigError(f"DST {target}: holds what this command did not write; give a new folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"DST {target}: cannot be created ({e.strerror})") from None
    lock = RunLock(target, LOCK, "writes")
    try:
        is_begun = record.is_file()
        if is_begun:
            _compare(record, settings)
        for place, _, _ in os.walk(target):
            remove_parts(Path(place))
        if not is_begun:
            write_json(record, settings)
        yield
    finally:
        lock.release()


def _compare(record: Path, settings: dict[str, int | str]) -> None:
    """ConfigError if a folder was begun with other settings."""
    try:
        found = dict(read_json(record))
    except (OSError, ValueError, TypeError):
        raise ConfigError(f"{record}: cannot be read; delete {record.parent} and repeat the command") from None
    for key, value in settings.items():
        if found.get(key) != value:
            raise ConfigError(f"{record.parent}: was begun with {key} {found.get(key)}, now {value}; give a new folder")


def _seen(files: Generator[Written], count: int) -> Generator[Written]:
    with tqdm(total=count, unit=" files", disable=None) as bar, contextlib.closing(files):
        for file in files:
            yield file
            bar.update()


def _summary(target: Path, size: int, found: Totals, seconds: float) -> str:
    kinds = found.files
    words = f"{kinds['shrunk']} images shrunk to a shorter side of {size}, {kinds['copied']} images copied"
    words += f", {kinds['other']} other files copied" if kinds["other"] else ""
    words += f", {kinds['there']} files there before" if kinds["there"] else ""
    return f"{target}: {words}; {found.before / 1e6:,.1f} MB -> {found.after / 1e6:,.1f} MB in {seconds:.1f} s"


def _main(argv: list[str]) -> None:
    args = _arguments(argv)
    files: list[File] = files_of(args.source, args.target, args.size, args.quality)
    if not any(is_image(Path(file.source).name) for file in files):
        raise DataError(f"SRC {args.source}: contains no images")
    settings: dict[str, int | str] = {
        "source": os.path.realpath(args.source), "size": args.size, "quality": args.quality,
    }  # fmt: skip
    begin = time.perf_counter()
    with _begun(args.target, settings):
        with contextlib.closing(_seen(shrink(files, args.workers), len(files))) as written:
            found = add_up(written)
        print(_summary(args.target, args.size, found, time.perf_counter() - begin))
        if found.faults:
            more = len(found.faults) - SHOWN
            lines = [*found.faults[:SHOWN], *([f"and {more} more"] if more > 0 else [])]
            raise DataError("\n".join([*lines, f"{len(found.faults)} files are not in {args.target}: replace or remove"
                                       " them, and repeat the command"]))  # fmt: skip
        write_json(args.target / RECORD, {
            **settings, "files": len(files), "bytes_before": found.before, "bytes_after": found.after,
        })  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
