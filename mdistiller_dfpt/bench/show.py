"""Formats benchmark records as Markdown, so that the numbers in the docs are those of the record files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..regular_files import read_json

HEAD = ("config", "side", "images/s", "images/CPU-s", "times the first", "GFLOP/image", "operators", "peak memory")


def records_in(folder: Path) -> dict[str, dict[str, Any]]:
    """{name: record} of the JSON files in a folder; ConfigError if there are none or if one is not a record."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = read_json(path)
            found[path.stem]["rows"][0]["side"]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as e:
            raise ConfigError(f"{path}: not a record of `bench` ({type(e).__name__})") from None
    if not found:
        raise ConfigError(f"--show {folder}: contains no records; write some with --json")
    return found


def as_markdown(records: dict[str, dict[str, Any]], measure: str) -> str:
    """A table of one timed measure (loader, step, both), with the operations and memory of each variant."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for name, record in records.items():
        words = record.get("overrides", [])
        pairs = zip(words[::2], words[1::2], strict=True)
        common = "".join(f", {key} {value}" for key, value in pairs if not key.startswith("EXPERIMENT."))
        timed = [r for r in record["rows"] if r["measure"] == measure]
        for row in timed:
            beside = {r["measure"]: r for r in record["rows"] if r["side"] == row["side"]}
            variant = f"{row['side']}{common}" if row["side"] == "this" else row["side"]
            lines.append((name, variant, *_cells(row, beside if measure == "step" else {})))
    if len(lines) == 2:
        raise ConfigError(f"no record has the measure {measure}")
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: dict[str, Any], beside: dict[str, dict[str, Any]]) -> Iterable[str]:
    rate, times = row["images_per_second"], row["times_the_first"]
    yield f"{rate['median']:,.1f} ({rate['low']:,.1f} to {rate['high']:,.1f})"
    yield f"{row['images_per_cpu_second']['median']:,.1f}"
    yield f"{times['median']:.2f} ({times['low']:.2f} to {times['high']:.2f})"
    work, memory = beside.get("work"), beside.get("memory")
    yield f"{work['gflop_per_image']:.2f}" if work else ""
    yield f"{work['operators_per_step']}" if work else ""
    yield f"{memory['bytes'] / 2**20:,.0f} MiB" if memory else ""


def as_lines(record: dict[str, Any]) -> Iterable[str]:
    """A record in plain text: the machine, then one line per row."""
    m = record["machine"]
    yield (f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads, load {m['load']}; {m['gpu'] or 'no GPU'}; "
           f"torch {m['torch']}; commit {m['commit']}")  # fmt: skip
    for row in record["rows"]:
        head = f"{row['measure']:8} {row['side']:28}"
        if row["measure"] == "memory":
            yield f"{head} peak {row['bytes'] / 2**20:,.0f} MiB"
        elif row["measure"] == "waits":
            yield f"{head} a step waits {row['waits_per_step']} times for the GPU"
        elif row["measure"] == "work":
            yield (f"{head} {row['gflop_per_image']:.3f} GFLOP per image, {row['operators_per_step']} operators and "
                   f"{row['reads_per_step']} device-to-host reads per step")  # fmt: skip
        else:
            rate, cpu, times = (row[k] for k in ("images_per_second", "images_per_cpu_second", "times_the_first"))
            yield (f"{head} {rate['median']:10,.1f} images/s ({rate['low']:,.1f} to {rate['high']:,.1f}), "
                   f"{cpu['median']:10,.1f} per CPU-second, x{times['median']:.2f} ({times['low']:.2f} to "
                   f"{times['high']:.2f})")  # fmt: skip
