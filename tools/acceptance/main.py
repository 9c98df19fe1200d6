"""The command: within a given time, every part in a process of its own, then one record and one page."""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mdistiller_dfpt.atomic import write_text
from mdistiller_dfpt.errors import ConfigError, UserError
from mdistiller_dfpt.interop.plugins import load_cfg
from mdistiller_dfpt.launch.cli import Parser, guarded
from mdistiller_dfpt.launch.jobs import Interrupted, Job, Start, say, watched_jobs
from mdistiller_dfpt.launch.launchers import Local
from mdistiller_dfpt.parent import stop_with_launcher

from .page import page
from .plan import GPU, MEANINGS, MINIATURE, PLANS, SHARES, Plan
from .record import FAILED, HELD, NOT_BEGUN, SKIPPED, UNFINISHED, Record, last_error

TOOL = str(Path(__file__).parents[1] / "gpu_acceptance.py")
PAGE = "acceptance.md"
GRACE = 20.0  # seconds in which a part whose time is over saves and ends, before it is killed
AT_MOST = 0.1  # of the whole time


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = Parser("gpu_acceptance", __doc__)
    parser.prog = "python tools/gpu_acceptance.py"
    parser.add_argument("--minutes", type=float, default=None, metavar="N", help="the time that all parts have")
    parser.add_argument("--output", type=Path, default=Path("output/acceptance"), metavar="FOLDER",
                        help="of the record and the page; a further call does what is missing in it")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="DATASET.ROOT of CIFAR-100, for the training run")
    parser.add_argument(
        "--miniature", action="store_true", help="the same parts, small, on a CPU; without a GPU, always"
    )
    parser.add_argument("--part", choices=tuple(SHARES), help=argparse.SUPPRESS)  # of a process that this one starts
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings of the training run")
    args = parser.parse_intermixed_args(argv)
    if args.data is not None and not args.data.is_dir():
        raise ConfigError(f"--data {args.data}: no such folder: name the one that has CIFAR-100, as DATASET.ROOT")
    if args.part is None and (args.minutes is None or not 0 < args.minutes < 1e6):
        raise ConfigError("--minutes N is missing, or no number of minutes > 0: say how long it may take")
    return args


def _main(argv: list[str]) -> None:
    args = _arguments(argv)
    folder = args.output.resolve()
    data = None if args.data is None else args.data.resolve()
    if args.part is not None:
        stop_with_launcher()
        # Imported where it is needed: the process that starts the parts does without networks and pytest
        from .parts import Settings, run_part

        plan = PLANS[Record(folder).data["plan"]]
        run_part(args.part, Settings(plan, folder, args.seconds, data, args.opts))
        return
    plan = MINIATURE if args.miniature or not torch.cuda.is_available() else GPU
    if plan is MINIATURE and not args.miniature:
        say("no GPU that this PyTorch can use: the plan in miniature, on the CPU")
    load_cfg(plan.train_cfg, args.opts)  # ConfigError if a setting is wrong, which is used last
    more = ["--output", str(folder), *(() if data is None else ("--data", str(data))), *args.opts]
    record = accept(plan, folder, args.minutes, more)
    print(f"record {record.path}, page {folder / PAGE}")
    failed = [name for name in SHARES if record.part(name)["state"] == FAILED]
    if failed:
        raise PartsFailed(failed, folder / PAGE)


class PartsFailed(UserError):
    """Parts of an acceptance that failed."""

    exit_code = 1

    def __init__(self, parts: list[str], page: Path):
        super().__init__(f"failed: {', '.join(parts)}; see {page}")


def accept(
    plan: Plan, folder: Path, minutes: float, more: list[str], start: Start | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Record:  # fmt: skip
    """Run all parts within so many minutes and return the record; `more`: words of the command of every part.

    A part gets its share of the time that is left. `start` runs one job, as of `watched_jobs`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(folder)
    record.begin_call(plan.name, minutes)
    grace = min(GRACE, AT_MOST * 60 * minutes)
    end = clock() + 60 * minutes - grace
    with watched_jobs(Local(), grace) if start is None else contextlib.nullcontext(start) as begin:
        missing = [name for name in SHARES if record.part(name)["state"] != HELD]
        for number, name in enumerate(missing):
            began = clock()
            budget = (end - began) * SHARES[name] / sum(SHARES[other] for other in missing[number:])
            try:
                if budget > 0:
                    say(f"{name}: {MEANINGS[name]}, at most {budget:.0f} s")
                    _run_part(record, name, more, began + budget, begin, clock)
                    record.part(name)["budget_seconds"] = round(budget, 1)
                elif record.part(name)["state"] == NOT_BEGUN:
                    record.part(name)["reason"] = "no time was left"
            except Interrupted:
                record.reload()
                _conclude(record, name, "interrupted")
                raise
            finally:
                part = record.part(name)
                part["seconds"] = round(part["seconds"] + clock() - began, 1)
                record.save()
                write_text(folder / PAGE, page(record.data))
            part = record.part(name)
            say(f"{name}: {part['state']}" + (f": {part['reason']}" if part["reason"] else ""))
    return record


def _run_part(
    record: Record, name: str, more: list[str], end: float, begin: Start, clock: Callable[[], float]
) -> None:  # fmt: skip
    """Run the process of a part, again after each piece that failed, until nothing is missing or its time is over."""
    log = record.path.parent / "logs" / f"{name}.txt"
    while True:
        words = ("--part", name, "--seconds", f"{end - clock():.1f}", *more)
        settled = record.settled(name)
        code = begin(Job(name, words, log, log.parent, (sys.executable, TOOL)), lambda pid: clock() >= end)
        record.reload()
        if code == 0 or clock() >= end:
            return _conclude(record, name, "its time was over")
        for piece in record.running(name):  # it ended the process with it
            record.settle(name, piece, FAILED, f"its process ended with {code}: {_said(log)}")
        if record.settled(name) == settled:
            return _conclude(record, name, f"its process ended with {code}: {_said(log)}", failed=True)


def _said(log: Path) -> str:
    """What a process that failed has said."""
    return last_error(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else ""


def _conclude(record: Record, name: str, over: str, failed: bool = False) -> None:
    """The state of a part, and why it is not `held`; `over`: why pieces are missing, if they are."""
    part = record.part(name)
    for piece in record.running(name):
        part["pieces"][piece] = part["pieces"][piece]["before"]
    counts = record.counts(name)
    reasons = list(dict.fromkeys(one["reason"] for one in part["pieces"].values() if one.get("reason")))
    if counts.get(FAILED) or failed:
        part["state"] = FAILED
    elif counts.get(NOT_BEGUN) or counts.get(UNFINISHED) or not counts:
        part["state"] = UNFINISHED
    else:
        part["state"] = SKIPPED if counts.get(SKIPPED) else HELD
    missing = counts.get(NOT_BEGUN, 0)
    reasons += [over] if failed or not counts else []
    reasons += [f"{over}: {missing} of {len(part['pieces'])} pieces are missing"] if missing else []
    part["reason"] = "; ".join(reasons[:1] + ([f"{len(reasons) - 1} more reasons"] if len(reasons) > 1 else []))
    record.save()


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
