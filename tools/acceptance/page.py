"""The page of a record, in Markdown: what held, what did not and why, and the figures."""

from collections.abc import Iterator
from typing import Any

from .bench_rows import DEVICE
from .plan import MEANINGS, SHARES
from .record import HELD

MOST_NAMED = 5  # pieces of one state and reason


def page(record: dict[str, Any]) -> str:
    """The page of the contents of a record."""
    return "\n".join(
        [*_head(record), *_parts(record), *_not_held(record), *_bench(record), *_processes(record), *_training(record)]
    ) + "\n"  # fmt: skip


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    cells = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def _head(record: dict[str, Any]) -> Iterator[str]:
    yield "# Acceptance on a GPU"
    yield ""
    if record["plan"] != "gpu":
        yield f"**In {record['plan']}, on a CPU: this says that the plan runs, and nothing of a GPU.**"
        yield ""
    head = ("call", "started", "minutes", "GPU", "driver", "CUDA", "torch", "CPU", "commit")
    rows: list[tuple[str, ...]] = []
    for number, call in enumerate(record["calls"], 1):
        m = call["machine"]
        facts = (m.get("gpu") or "none", *(str(m.get(key, "")) for key in ("driver", "cuda", "torch", "cpu", "commit")))
        rows.append((str(number), call["started"], f"{call['minutes']:g}", *facts))
    yield from _table(head, rows)


def _parts(record: dict[str, Any]) -> Iterator[str]:
    yield ""
    rows: list[tuple[str, ...]] = []
    for name in SHARES:
        part = record["parts"][name]
        states = [one["state"] for one in part["pieces"].values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        rows.append((MEANINGS[name], part["state"], counts, f"{part['seconds']:.0f}", part["reason"]))
    yield from _table(("part", "state", "pieces", "seconds", "reason"), rows)


def _not_held(record: dict[str, Any]) -> Iterator[str]:
    for name in SHARES:
        left: dict[tuple[str, str], list[str]] = {}
        for piece, one in record["parts"][name]["pieces"].items():
            if one["state"] != HELD:
                left.setdefault((one["state"], one.get("reason", "")), []).append(piece)
        if left:
            yield ""
            yield f"## Not held: {MEANINGS[name]}"
            yield ""
        for (state, reason), pieces in left.items():
            more = f" and {len(pieces) - MOST_NAMED} more" if len(pieces) > MOST_NAMED else ""
            yield f"- {state}{reason and f', {reason}'}: " + ", ".join(f"`{one}`" for one in pieces[:MOST_NAMED]) + more


def _figures(record: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """{piece: its figures} of the pieces that have some."""
    return {name: one["figures"] for name, one in record["parts"][part]["pieces"].items() if one.get("figures")}


def _bench(record: dict[str, Any]) -> Iterator[str]:
    found = _figures(record, "bench")
    device = found.pop(DEVICE, None)
    if device is not None:
        yield ""
        yield "## Speed"
        yield ""
        yield (f"Products of {device['matrix']} x {device['matrix']} matrices in bfloat16: "
               f"{device['matmul_flop_per_second'] / 1e12:,.2f} TFLOP/s; copies: "
               f"{device['copy_bytes_per_second'] / 1e12:,.3f} TB/s, read and written.")  # fmt: skip
        yield ""
        peak = device["matmul_flop_per_second"]
        head = ("call", "config", "settings", "step, images/s", "of the products' FLOP/s", "with the loader, images/s",
                "waits of a step")  # fmt: skip
        of_call = {
            name: str(one["call"] + 1) for name, one in record["parts"]["bench"]["pieces"].items() if "call" in one
        }
        rows = [(of_call[name], *cells) for name, one in found.items() for cells in _sides(name, one["rows"], peak)]
        yield from _table(head, rows)


def _sides(name: str, rows: list[dict[str, Any]], peak: float) -> Iterator[tuple[str, ...]]:
    of = {(row["measure"], row["side"]): row for row in rows}
    # A compiled step does the work of the one that is not
    work = next((row["gflop_per_image"] * 1e9 for row in rows if row["measure"] == "work"), None)
    for side in dict.fromkeys(row["side"] for row in rows):
        step, both, waits = (of.get((measure, side)) for measure in ("step", "both", "waits"))
        rates = [
            "" if row is None else "{median:,.0f} ({low:,.0f} to {high:,.0f})".format(**row["images_per_second"])
            for row in (step, both)
        ]
        share = "" if step is None or not work else f"{step['images_per_second']['median'] * work / peak:.1%}"
        count = "not counted on a CPU" if waits is None else str(waits["waits_per_step"])
        yield name, "float32" if side == "this" else side, rates[0], share, rates[1], count


def _processes(record: dict[str, Any]) -> Iterator[str]:
    found = _figures(record, "processes")
    if not found:
        return
    yield ""
    yield "## Two processes"
    yield ""
    for name, one in found.items():
        if "images_per_second" in one:
            losses = ", ".join(f"{loss:.4f}" for loss in one["losses"])
            yield f"- {name}: {one['images_per_second']:,.0f} images/s, losses {losses}, top-1 {one['top1']:.2f}"
        else:
            yield f"- {name}: they differ by {one['largest_difference']:.2g} at most"


def _training(record: dict[str, Any]) -> Iterator[str]:
    for one in _figures(record, "training").values():
        yield ""
        yield "## Training"
        yield ""
        head = ("run", "state", "epochs", "images/s of the last", "best top-1")
        rows = [
            (name, run["state"], str(run["epochs"]), *(f"{run[key]:,.2f}" if key in run else "" for key in
                                                       ("images_per_second", "best_top1")))
            for name, run in one["runs"].items()
        ]  # fmt: skip
        yield from _table(head, rows)
