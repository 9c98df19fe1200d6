"""Checkpoints: directories published by one rename, verified by a manifest of hashes, loaded without running code."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from ..regular_files import read_json
from .atomic import saving, write_json
from .hashing import file_hash
from .safe_load import load_pickled_tensors
from .weights import WEIGHTS

FORMAT = 1
STATE, MANIFEST = "state.pt", "manifest.json"


class NewerFormat(CheckpointError):
    """A checkpoint written by a newer version of this package."""


def save_weights(state: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write weights to a safetensors file atomically."""
    part = path.with_name(f".{path.name}.part")
    tensors, seen = {}, set()
    for key, value in state.items():
        value = value.detach().cpu().contiguous()
        # The file format stores each tensor once; tied weights are stored under each of their names
        tensors[key] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(value.untyped_storage().data_ptr())
    try:
        with saving(path):
            save_file(tensors, part, metadata)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_checkpoint(folder: Path, weights: dict[str, Tensor], state: dict[str, Any], header: dict[str, Any]) -> None:
    """Publish `folder`: the student's weights, the state for resuming, and finally a manifest with their hashes."""
    with saving(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_weights(weights, part / WEIGHTS, {"format": "pt"})
        with saving(folder), open(part / STATE, "wb") as f:  # given a path, PyTorch hides why a write failed
            torch.save(state, f)
        files = {
            name: {"sha256": file_hash(part / name), "bytes": (part / name).stat().st_size} for name in (WEIGHTS, STATE)
        }
        write_json(part / MANIFEST, {"format": FORMAT, **header, "files": files})
        for name in (WEIGHTS, STATE, MANIFEST):
            with open(part / name, "rb") as f:
                os.fsync(f.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The verified manifest of a checkpoint; CheckpointError stating what is wrong."""
    try:
        manifest = read_json(folder / MANIFEST)
        files = manifest["files"]
        number = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{folder}: no readable manifest ({type(e).__name__})") from None
    if number > FORMAT:
        raise NewerFormat(f"{folder}: written by a newer version (format {number}); update mdistiller_dfpt")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"] or file_hash(path) != expected["sha256"]:
            raise CheckpointError(f"{path}: damaged; its hash differs from that in {MANIFEST}")
    return manifest


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(manifest, state) of a checkpoint whose files are all intact."""
    manifest = read_manifest(folder)
    return manifest, load_pickled_tensors(folder / STATE)


def checkpoints(folder: Path) -> list[Path]:
    """The published checkpoints in `folder`, newest first."""
    return sorted((p for p in folder.glob("epoch-*") if p.is_dir()), reverse=True)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints, and the remains of interrupted saves."""
    for path in [*checkpoints(folder)[keep:], *folder.glob(".epoch-*")]:
        shutil.rmtree(path, ignore_errors=True)
