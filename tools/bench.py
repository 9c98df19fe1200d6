"""Time a config: python tools/bench.py --cfg FILE [KEY VALUE ...] [--versus "KEY VALUE ..."] [--against CHECKOUT].

Images and weights are made up, sizes are real, so no data set and no teacher is needed. Sides take turns (A B, B A,
...), and medians are printed with the smallest and the largest window.
"""

import argparse
import functools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mdistiller_dfpt.bench.memory import peak_memory
from mdistiller_dfpt.bench.peer import Peer
from mdistiller_dfpt.bench.reference import UsualLoader
from mdistiller_dfpt.bench.show import as_markdown, records_in
from mdistiller_dfpt.bench.side import Side
from mdistiller_dfpt.bench.timing import Spread, in_turns, ratio, window
from mdistiller_dfpt.bench.transcription import Transcription
from mdistiller_dfpt.bench.work import flops_per_image, operators_per_step, product_rate
from mdistiller_dfpt.cli import guarded
from mdistiller_dfpt.config import load_cfg
from mdistiller_dfpt.engine.results import commit
from mdistiller_dfpt.errors import ConfigError

MEASURES = ("loader", "step", "both", "memory")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__)
    parser.add_argument("--cfg", help="yaml file of the run")
    parser.add_argument("--show", type=Path, metavar="FOLDER", help="print the records in a folder, and time nothing")
    parser.add_argument(
        "--versus", action="append", default=[], metavar='"KEY VALUE ..."', help="another side; repeat it"
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="mdistiller's own code for the same step")
    parser.add_argument("--transcription", action="store_true", help="the dual-path teacher with nothing shared")
    parser.add_argument("--what", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--windows", type=int, default=5, help="windows of each side")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a window lasts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the record there")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of all sides")
    args = parser.parse_intermixed_args(argv)
    for option, value in (("--windows", args.windows), ("--seconds", args.seconds)):
        if value <= 0:
            raise ConfigError(f"{option} is {value}; it must be > 0")
    if (args.cfg is None) == (args.show is None):
        raise ConfigError("say what to time: --cfg FILE; or which records to show: --show FOLDER")
    return args


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "", "torch": torch.__version__,
        "commit": commit(),
    }  # fmt: skip


def _sized(work: Callable[[int], int], batch: int, seconds: float) -> Callable[[], int]:
    """A window's worth of it: as many batches as fill about so many seconds, after a warm-up."""
    work(2)
    tried = window(functools.partial(work, 2))
    return functools.partial(work, max(2, round(seconds * tried.rate / batch)))


def _rows(
    works: dict[str, Callable[[int], int]], batch: int, args: argparse.Namespace, what: str
) -> list[dict[str, Any]]:
    done = in_turns({name: _sized(work, batch, args.seconds) for name, work in works.items()}, args.windows)
    first = next(iter(done.values()))
    return [
        {
            "measure": what, "side": name,
            "images_per_second": Spread.of([w.rate for w in windows])._asdict(),
            "images_per_cpu_second": Spread.of([w.rate_per_cpu for w in windows])._asdict(),
            "times_the_first": ratio(first, windows)._asdict(),
        }
        for name, windows in done.items()
    ]  # fmt: skip


def _main(argv: list[str]) -> None:
    args = _arguments(argv)
    if args.show is not None:
        print(as_markdown(records_in(args.show), args.what[0] if len(args.what) == 1 else "step"))
        return
    with tempfile.TemporaryDirectory() as folder:
        record = _measured(args, Path(folder))
    _print(record)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    cfgs = {"this": load_cfg(args.cfg, args.opts)}
    cfgs |= {words: load_cfg(args.cfg, [*args.opts, *words.split()]) for words in args.versus}
    sides = {name: Side(cfg, folder / str(i)) for i, (name, cfg) in enumerate(cfgs.items())}
    record: dict[str, Any] = {"machine": machine(), "config": args.cfg, "overrides": args.opts, "rows": []}
    first = sides["this"]
    batch = first.cfg.SOLVER.BATCH_SIZE
    if "loader" in args.what:
        usual = UsualLoader(first.data, batch, first.cfg.DATASET.NUM_WORKERS)
        works = {"DataLoader of PIL images": usual.load, **{name: side.load for name, side in sides.items()}}
        record["rows"] += _rows(works, batch, args, "loader")
    if "step" in args.what:
        works = {name: side.step for name, side in sides.items()}
        if args.transcription:
            if not hasattr(first.trainer.distiller, "dual"):
                raise ConfigError(f"--transcription: {first.cfg.DISTILLER.TYPE} has no dual-path teacher")
            works = {"transcription": Transcription(cfgs["this"], folder / "transcription").step, **works}
        if args.against is not None:
            peer = Peer(args.against, first)
            peer.refuse_other_work()
            works = {"mdistiller": peer.step, **works}
        record["rows"] += [*_rows(works, batch, args, "step"), *(_work(name, side) for name, side in sides.items())]
    if "both" in args.what:
        record["rows"] += _rows({name: side.both for name, side in sides.items()}, batch, args, "both")
    if "memory" in args.what:
        record["rows"] += [
            {"measure": "memory", "side": name, "bytes": peak_memory(cfg, folder / "memory")}
            for name, cfg in cfgs.items()
        ]
    return record


def _work(name: str, side: Side) -> dict[str, Any]:
    trainer = side.trainer
    dtype = trainer.distiller.autocast_dtype or torch.float32
    operators, reads = operators_per_step(trainer, side.batch)
    return {
        "measure": "work", "side": name, "gflop_per_image": flops_per_image(trainer, side.batch) / 1e9,
        "operators_per_step": operators, "reads_per_step": reads,
        "product_gflop_per_second": product_rate(side.device, dtype) / 1e9,
    }  # fmt: skip


def _print(record: dict[str, Any]) -> None:
    m = record["machine"]
    print(f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads, load {m['load']}; {m['gpu'] or 'no GPU'}; "
          f"torch {m['torch']}; commit {m['commit']}")  # fmt: skip
    for row in record["rows"]:
        head = f"{row['measure']:7} {row['side']:28}"
        if row["measure"] == "memory":
            print(f"{head} peak {row['bytes'] / 2**20:,.0f} MiB")
        elif row["measure"] == "work":
            print(f"{head} {row['gflop_per_image']:.3f} GFLOP an image, {row['operators_per_step']} operators and "
                  f"{row['reads_per_step']} reads a step; a matrix product here: "
                  f"{row['product_gflop_per_second']:,.0f} GFLOP/s")  # fmt: skip
        else:
            rate, cpu, times = (row[k] for k in ("images_per_second", "images_per_cpu_second", "times_the_first"))
            print(f"{head} {rate['median']:10,.1f} images/s ({rate['low']:,.1f} to {rate['high']:,.1f}), "
                  f"{cpu['median']:10,.1f} a CPU-second, x{times['median']:.2f} ({times['low']:.2f} to "
                  f"{times['high']:.2f})")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    return guarded(_main, argv)


if __name__ == "__main__":
    sys.exit(main())
