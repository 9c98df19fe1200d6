"""Checkpoints: directories published by one rename, verified by a manifest of hashes, loaded without running code."""

import contextlib
import io
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import saving, write_bytes, write_file, write_folder, write_json
from ..checksum import hash_of
from ..errors import CheckpointError
from ..json_form import ENVIRONMENT, EPOCH, IDENTITY, fault_of
from ..regular_files import is_folder, read_json
from .hashing import file_hash
from .safe_load import load_pickled_tensors
from .weights import WEIGHTS

FORMAT = 2  # of the first, the manifest has no hash of its own
FORM = {
    "epoch": int,
    "epochs": [EPOCH],
    "step?": int,
    "prepared?": int,
    "factor?": (float, None),
    "seconds?": float,
    "counts?": {str: float},
    "counts_of_others?": [{str: float}],
    "config?": str,
    "identity?": (IDENTITY, None),  # of an earlier version
    "environments?": [ENVIRONMENT],
}
"""What a run relies on of a manifest."""
BRING_BACK = "bring back what was there, or remove it"
CHECKPOINTS = "checkpoints"  # the folder in the directory of a run
STATE, MANIFEST = "state.pt", "manifest.json"
NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?(?:-pass-(\d+))?")


class NewerFormat(CheckpointError):
    """A checkpoint written by a newer version of this package."""


def save_weights(state: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write weights to a safetensors file atomically."""
    tensors, seen = {}, set()
    for key, value in state.items():
        value = value.detach().cpu().contiguous()
        # The file format stores each tensor once; tied weights are stored under each of their names
        tensors[key] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    write_file(path, lambda part: save_file(tensors, part, metadata))


def _progress(header: Mapping[str, Any]) -> list[int]:
    """Epochs, steps of the next one, and passes before the first step if there is neither: what the name says."""
    epoch, step = header["epoch"], header.get("step", 0)
    return [epoch, step, 0 if epoch or step else header.get("prepared", 0)]


def checkpoint_name(header: Mapping[str, Any]) -> str:
    """The name of a checkpoint's folder; names are in the order of progress, a pass before the first step first."""
    epoch, step, prepared = _progress(header)
    name = f"epoch-{epoch:05d}"
    return f"{name}-step-{step:07d}" if step else name if epoch else f"{name}-pass-{prepared:05d}"


def save_checkpoint(folder: Path, weights: dict[str, Tensor], state: dict[str, Any], header: dict[str, Any]) -> None:
    """Publish `folder`: the student's weights, the state for resuming, and finally a manifest with their hashes."""

    def fill(part: Path) -> None:
        save_weights(weights, part / WEIGHTS, {"format": "pt"})
        buffer = io.BytesIO()  # PyTorch's own writer hides why a write failed
        torch.save({**state, "progress": _progress(header)}, buffer)
        write_bytes(part / STATE, buffer.getbuffer())
        files = {
            name: {"sha256": file_hash(part / name), "bytes": (part / name).stat().st_size} for name in (WEIGHTS, STATE)
        }
        manifest = {"format": FORMAT, **header, "tensors": len(_tensors(state)), "files": files}
        write_json(part / MANIFEST, {**manifest, "sha256": hash_of(manifest)})

    write_folder(folder, fill)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The verified manifest of a checkpoint whose files match it; CheckpointError stating what is wrong."""
    manifest = _whole_manifest(folder)
    named = NAME.fullmatch(folder.name)
    if named and [int(n or 0) for n in named.groups()] != _progress(manifest):
        raise CheckpointError(f"{folder}: was renamed: rename it to {checkpoint_name(manifest)}")
    try:
        for name, expected in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != expected["bytes"] or file_hash(path) != expected["sha256"]:
                raise CheckpointError(f"{path}: damaged; its hash differs from that in {MANIFEST}")
    except (OSError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{folder}: no readable checkpoint ({_in_words(e)})") from None
    return manifest


def newest_manifest(folder: Path) -> dict[str, Any]:
    """The newest whole manifest of the checkpoints in a folder, whose files may be damaged; empty if there is none."""
    for one in checkpoints(folder):
        with contextlib.suppress(CheckpointError):
            return _whole_manifest(one)
    return {}


def _whole_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_json(folder / MANIFEST)
        number, files, own = manifest["format"], dict(manifest["files"]), manifest.pop("sha256", None)
        is_whole = own == hash_of(manifest) if own is not None or number != 1 else set(files) == {WEIGHTS, STATE}
        if is_whole and number > FORMAT:
            raise NewerFormat(f"{folder}: written by a newer version (format {number}); update mdistiller_dfpt")
        if not is_whole:
            raise CheckpointError(f"{folder / MANIFEST}: damaged; it differs from its hash")
        if fault := fault_of(manifest, FORM):
            raise CheckpointError(f"{folder / MANIFEST}: damaged; {fault}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{folder}: no readable checkpoint ({_in_words(e)})") from None
    return manifest


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(manifest, state) of a checkpoint whose files are all intact; CheckpointError stating what is wrong."""
    manifest = read_manifest(folder)
    state = load_pickled_tensors(folder / STATE)
    count = len(_tensors(state))
    # A file can match its hash and still hold what no run saves, if something rewrote both
    if manifest.get("tensors", count) != count:
        raise CheckpointError(f"{folder / STATE}: has {count} tensors, not {manifest['tensors']}")
    if state.get("progress", _progress(manifest)) != _progress(manifest):  # earlier versions did not save it
        raise CheckpointError(f"{folder / STATE}: is of another checkpoint")
    return manifest, state


def check_like(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """ValueError unless the tensors of a state have the shapes and dtypes of another, and finite values."""
    found, expected = _tensors(found), _tensors(expected)
    for name in found.keys() & expected.keys():
        one, other = found[name], expected[name]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            raise ValueError(f"{name} is {tuple(one.shape)} {one.dtype}, not {tuple(other.shape)} {other.dtype}")
    for name, value in found.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} has values that are not finite")


def checkpoints(folder: Path) -> list[Path]:
    """The published checkpoints in `folder`, newest first: names in the order of progress.

    What has the name of one and cannot be one, as a link to nothing, is among them. CheckpointError if the folder is
    something else.
    """
    try:
        entries = list(folder.iterdir()) if is_folder(folder) else []  # unlike `glob`, it says if it may not look
    except FileNotFoundError:  # deleted since
        return []
    except NotADirectoryError as e:
        raise CheckpointError(f"{e.filename}: {e.strerror}: {BRING_BACK}") from None
    found = [(match, path) for path in entries if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda one: [int(n or 0) for n in one[0].groups()], reverse=True)]


def set_aside(folder: Path) -> Path:
    """Rename a checkpoint that cannot be used, so that neither loading nor pruning counts it; the new path."""
    for number in range(1, 1000):
        target = folder.with_name(f"damaged-{number}-{folder.name}")
        if not target.exists():
            break
    with saving(folder):
        folder.rename(target)
    return target


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints, and the remains of interrupted saves."""
    for path in [*checkpoints(folder)[keep:], *folder.glob(".epoch-*")]:
        shutil.rmtree(path, ignore_errors=True)


def _tensors(state: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors in nested dicts and lists, by their places."""
    if isinstance(state, Tensor):
        return {name: state}
    parts = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {key: value for at, part in parts for key, value in _tensors(part, f"{name}.{at}".strip(".")).items()}
