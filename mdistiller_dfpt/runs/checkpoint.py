"""Checkpoints: directories published by one rename, verified by a manifest of hashes, loaded without running code."""

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CheckpointError
from .hashing import file_hash

FORMAT = 1
WEIGHTS, STATE, MANIFEST = "student.safetensors", "state.pt", "manifest.json"
MAX_ENTRIES, MAX_PICKLE_BYTES = 100_000, 64 << 20  # tensors of a checkpoint, and what names them; far above any network


class NewerFormat(CheckpointError):
    """A checkpoint of a version of this package that is to come."""


def save_weights(state: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Weights as a safetensors file that appears at `path` complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    try:
        with _saving(path):
            save_file(tensors, part, metadata)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """JSON that appears at `path` complete or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Text that appears at `path` complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    with _saving(path):
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)


@contextlib.contextmanager
def _saving(path: Path) -> Iterator[None]:
    """A write that fails, as on a full disk, as one line; what was published before stays."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
        raise CheckpointError(
            f"{path}: cannot be written ({getattr(e, 'strerror', None) or e}; {free / 1e6:,.0f} MB free); "
            "what was saved before is untouched: make room and continue with --resume"
        ) from None


def save_checkpoint(folder: Path, weights: dict[str, Tensor], state: dict[str, Any], header: dict[str, Any]) -> None:
    """Publish `folder`: the student's weights, what resuming needs, and last a manifest with their hashes."""
    with _saving(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_weights(weights, part / WEIGHTS, {"format": "pt"})
        with _saving(folder), open(part / STATE, "wb") as f:  # by its path, PyTorch hides why a write failed
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
    """The verified manifest of a checkpoint; CheckpointError naming what is wrong with it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        number = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{folder}: no readable manifest ({type(e).__name__})") from None
    if number > FORMAT:
        raise NewerFormat(f"{folder}: written by a newer version (format {number}); update mdistiller_dfpt")
    for name, expected in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["bytes"] or file_hash(path) != expected["sha256"]:
            raise CheckpointError(f"{path}: damaged; its hash is not the one in {MANIFEST}")
    return manifest


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(manifest, state) of a checkpoint whose files are all intact."""
    manifest = read_manifest(folder)
    return manifest, load_pickled_tensors(folder / STATE)


def checkpoints(folder: Path) -> list[Path]:
    """The published checkpoints in `folder`, the newest first."""
    return sorted((p for p in folder.glob("epoch-*") if p.is_dir()), reverse=True)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints, and what an interrupted save left behind."""
    for path in [*checkpoints(folder)[keep:], *folder.glob(".epoch-*")]:
        shutil.rmtree(path, ignore_errors=True)


def load_pickled_tensors(path: Path) -> Any:
    """A `torch.save` file of tensors and plain containers. Nothing else is ever unpickled, there is no fallback."""
    try:
        if zipfile.is_zipfile(path):
            _refuse_bombs(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as e:  # a damaged or hostile file can raise nearly anything
        reason = " ".join(str(e).split())[:200]
        raise CheckpointError(f"{path}: not a checkpoint of tensors; nothing in it was run ({reason})") from None


def _refuse_bombs(path: Path) -> None:
    """CheckpointError where the archive unpacks to more than itself: PyTorch stores its tensors as they are."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    inflated, size = sum(e.file_size for e in entries), path.stat().st_size
    named = max((e.file_size for e in entries if e.filename.endswith(".pkl")), default=0)
    if inflated > size or len(entries) > MAX_ENTRIES or named > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"{path}: {len(entries):,} entries that unpack to {inflated / 1e6:,.1f} MB, from a file of"
            f" {size / 1e6:,.1f} MB: no checkpoint is like that; refused"
        )


def load_weights(path: Path) -> dict[str, Tensor]:
    """A network's weights from a run directory, a checkpoint directory, a safetensors file or a `torch.save` file.

    In the last, `{"model": state_dict}` and `{"state_dict": ...}` are opened, and DataParallel's `module.` is dropped.
    """
    path = Path(path)
    if path.is_dir():
        path = path / WEIGHTS
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as e:
            raise CheckpointError(f"{path}: not a safetensors file ({e})") from None
    state = load_pickled_tensors(path)
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: holds no state_dict; expected {{'model': state_dict}}")
    return {k.removeprefix("module."): v for k, v in state.items()}


def load_into(network: torch.nn.Module, path: Path, name: str) -> None:
    """Load a checkpoint's weights into `network`, exactly; CheckpointError listing the first keys that do not fit."""
    state, own = load_weights(path), network.state_dict()
    faults = [f"{k} is missing" for k in own if k not in state]
    faults += [f"{k} is unexpected" for k in state if k not in own]
    faults += [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(f"{path}: not a checkpoint of {name}: {'; '.join(faults[:3])}{more}")
    network.load_state_dict(state)
