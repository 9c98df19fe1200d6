"""Check every image of a dataset and print all errors: mdistiller-dfpt check-data --cfg FILE [KEY VALUE ...]."""

from typing import Any

from tqdm import tqdm

from ..data import DATASETS
from ..data.check import check_source
from ..errors import DataError
from ..interop.plugins import load_cfg
from ..launch.cli import Parser, guarded


def _advance(bar: Any, seen: int) -> None:
    bar.update(seen - bar.n)


def _main(argv: list[str]) -> None:
    parser = Parser("check-data", __doc__)
    parser.add_argument("--cfg", help="yaml file; without it, all keys have their defaults")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="for example DATASET.TYPE folder DATASET.ROOT DIR")
    args = parser.parse_intermixed_args(argv)
    cfg = load_cfg(args.cfg, args.opts)
    source = DATASETS[cfg.DATASET.TYPE](cfg)
    count = len(source.train.labels) + len(source.test.labels)
    with tqdm(total=count, unit=" images", disable=None) as bar:
        faults, twice = check_source(source, cfg.DATASET.NUM_WORKERS, lambda seen: _advance(bar, seen))
    names = source.train.classes
    print(
        f"{cfg.DATASET.TYPE}: {len(source.train.labels)} training images, {len(source.test.labels)} test images, "
        + (f"{len(names)} classes" if len(names) > 1 else f"a single class, {names[0]}: there is nothing to tell apart")
    )
    for line in twice:  # published datasets contain some as well; published results include them
        print(f"note: {line}")
    if faults:
        raise DataError("\n".join(faults))
    print(f"all {count} images can be read")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
