"""Time a config: mdistiller-dfpt bench --cfg FILE [KEY VALUE ...] [--versus "KEY VALUE ..."] [--against CHECKOUT].

Weights are random; images are generated at their real size, so no dataset is needed (`--real-images` uses it). Sides
alternate (A B, B A, ...); medians are printed with the range over the windows.
"""

import argparse
import tempfile
from dataclasses import fields
from pathlib import Path

from ..atomic import write_json
from ..bench.measure import MEASURES, BenchPlan, measured
from ..bench.show import as_lines, as_markdown, records_in
from ..errors import ConfigError
from ..launch.cli import Parser, guarded


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser("bench", __doc__)
    parser.add_argument("--cfg", help="yaml file of the run")
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="print the records in a folder, without timing")
    parser.add_argument(
        "--versus", action="append", default=[], metavar='"KEY VALUE ..."', help="another variant; may be repeated"
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="mdistiller's code for the same method")
    parser.add_argument("--real-images", action="store_true", help="use the dataset in DATASET.ROOT")
    parser.add_argument("--what", nargs="+", choices=MEASURES, default=list(MEASURES), help="default: all")
    parser.add_argument("--windows", type=int, default=5, help="windows per side")
    parser.add_argument("--seconds", type=float, default=2.0, help="approximate duration of a window")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the record to this file")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="overrides of all sides")
    args = parser.parse_intermixed_args(argv)
    for option, value in (("--windows", args.windows), ("--seconds", args.seconds)):
        if value <= 0:
            raise ConfigError(f"{option} is {value}; it must be > 0")
    if (args.cfg is None) == (args.show is None):
        raise ConfigError("nothing to do: give --cfg FILE to time a config, or --show FOLDER to print records")
    return args


def _main(argv: list[str]) -> None:
    args = _arguments(argv)
    if args.show is not None:
        print(as_markdown(records_in(args.show), args.what[0] if len(args.what) == 1 else "step"))
        return
    plan = BenchPlan(**{field.name: getattr(args, field.name) for field in fields(BenchPlan)})
    with tempfile.TemporaryDirectory() as folder:
        record = measured(plan, Path(folder))
    print("\n".join(as_lines(record)))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.json, record)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
