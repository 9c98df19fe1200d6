"""What a finished run holds, less times and places: two runs of one config are to be equal to the last bit."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from mdistiller_dfpt.runs.checkpoint import CHECKPOINTS, checkpoints, load_checkpoint
from mdistiller_dfpt.runs.directory import is_finished
from mdistiller_dfpt.runs.hashing import state_hash

OF_TIME = {
    "seconds", "images_per_second", "milliseconds", "sha256", "checksum", "bytes", "files", "commit", "config", "file",
    "image",
}  # fmt: skip
"""Entries of result files and manifests that may differ, and hashes of what is compared itself."""


def runs_below(folder):
    """The directories of runs, in the order of their names."""
    return sorted(path.parent for path in folder.rglob("config.yaml"))


def finished_below(folder):
    """{(name, fingerprint): the finished runs}; the name is without the number of a repetition."""
    found = {}
    for run in filter(is_finished, runs_below(folder)):
        name = re.sub(r"-\d+$", "", str(run.relative_to(folder)))
        found.setdefault((name, json.loads((run / "results.json").read_text())["fingerprint"]), []).append(run)
    return found


def contents(run):
    """{file, tensor or entry: its value or its hash} of a finished run."""
    found = {path.name: state_hash(load_file(path)) for path in run.glob("*.safetensors")}
    written = [path for name in ("results.json", "evaluation.json") if (path := run / name).exists()]
    found |= {path.name: _timeless(json.loads(path.read_text())) for path in written}
    found["status.json"] = json.loads((run / "status.json").read_text())["state"]
    manifest, state = load_checkpoint(newest := checkpoints(run / CHECKPOINTS)[0])
    found |= {"newest checkpoint": newest.name, "manifest.json": _timeless(manifest)}
    return {**found, **{f"state.pt: {name}": value for name, value in _leaves(state)}}


def _timeless(value):
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in OF_TIME}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def _leaves(state, name=""):
    """(place, hash or value) of everything in nested dicts and lists."""
    if isinstance(state, torch.Tensor):
        yield name, state_hash({"": state})
    elif isinstance(state, dict | list | tuple):
        for key, entry in state.items() if isinstance(state, dict) else enumerate(state):
            yield from _leaves(entry, f"{name}.{key}".strip("."))
    else:
        yield name, state


def differences(expected, found):
    """The names of what differs between the contents of two runs."""
    return [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]


def leftovers(folder):
    """Temporary files below a folder of runs, less locks and what is in a directory where a run was killed for good."""
    finished = [run for run in runs_below(folder) if is_finished(run)]
    hidden = [path for path in folder.rglob(".*") if path.suffix != ".lock"]
    return [
        path for path in hidden
        if not any(place.name.startswith("seed") for place in path.parents) or any(r in path.parents for r in finished)
    ]  # fmt: skip


def newest_checkpoints(folder) -> list[Path]:
    """The checkpoints of the run that was saved last, newest first."""
    of_runs = [found for run in runs_below(folder) if (found := checkpoints(run / CHECKPOINTS))]
    return max(of_runs, key=lambda found: found[0].stat().st_mtime_ns, default=[])
