"""Reads `torch.save` files of any origin; no code in a file is ever run."""

import argparse
import collections
import os
import pathlib
import pickle
import re
import tarfile
import types
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import torch

from ..archives import START, entries_of, unpacked_size
from ..errors import CheckpointError
from ..regular_files import opened
from . import numpy_values
from .stand_ins import StandIn, as_states, is_replaceable

MAX_ENTRIES, MAX_PICKLE_BYTES = 100_000, 64 << 20  # far above those of any network
EXPORTED = (".onnx", ".pt2")
MAX_CLASSES = 300  # that are read without their code; each takes another pass over the file

_ALLOWED: list[Any] = [
    # What training scripts save beside the weights: their arguments and measured values; all only hold values
    argparse.Namespace, types.SimpleNamespace, collections.defaultdict, pathlib.PosixPath,
    *numpy_values.ALLOWED,
]  # fmt: skip


def load_pickled_tensors(path: Path, *, objects: bool = False) -> Any:
    """Load a `torch.save` file of tensors, plain containers, argument namespaces and NumPy values.

    With `objects`, those of other classes are read as what they hold, networks as their state_dicts. No other name is
    ever looked up, and there is no fallback: CheckpointError names what else the file contains.
    """
    replaced: list[str] = []
    try:
        with opened(path) as file:
            longest = _refuse_bombs(path, file) if file.read(4) == START else 0  # PyTorch looks at these as well
        while True:
            try:
                allowed = [*_ALLOWED, *((StandIn, name) for name in replaced)]
                with opened(path) as file, torch.serialization.safe_globals(allowed):
                    content = torch.load(file, map_location="cpu", weights_only=True)
                return as_states(content) if replaced else content
            except pickle.UnpicklingError as e:
                name = _refused(e)
                name = f"builtins.{name}" if name and "." not in name else name  # PyTorch leaves it out
                is_new = is_replaceable(name) and name not in replaced
                if not (objects and is_new and len(replaced) < MAX_CLASSES):
                    raise
                if longest * len(replaced) > MAX_PICKLE_BYTES:  # each pass reads all of it
                    raise
                replaced.append(name)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as e:  # a damaged or malicious file can raise almost any exception
        if isinstance(e, OSError) and e.filename is not None:  # it was not opened
            raise CheckpointError(f"{path}: {e.strerror}") from None
        raise CheckpointError(
            f"{path}: not a checkpoint of tensors; no code in it was run ({_reason(path, e, replaced)})"
        ) from None


def _refused(error: Exception) -> str:
    """The name in a file that PyTorch refuses; empty if that is not the reason."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else ""


def _reason(path: Path, error: Exception, replaced: list[str]) -> str:
    """What a file contains that is not loaded, by its name, or what it is instead."""
    if name := _refused(error) or next(iter(replaced), ""):
        return f"it contains {name}: where it was written, save the network's state_dict() instead"
    if "TorchScript" in str(error):
        return "it is a TorchScript archive: where it was written, save the network's state_dict() instead"
    if path.suffix in EXPORTED:
        return "it is an exported network: give the directory of its run, or the student.safetensors in it"
    with opened(path) as f:
        start = f.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: `git lfs pull` fetches the file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page: download the file itself"
    with opened(path) as f:
        is_tar = tarfile.is_tarfile(f)
    if is_tar:
        return "it is a tar archive: unpack it and name a file of it"
    return "damaged, or not written by torch.save"


def _refuse_bombs(path: Path, file: BufferedIOBase) -> int:
    """CheckpointError if the archive would unpack to more than its own size: PyTorch stores tensors uncompressed.

    Returns the bytes of its pickle.
    """
    entries = entries_of(file)
    inflated, size = unpacked_size(entries), file.seek(0, os.SEEK_END)
    named = max((e.file_size for e in entries if e.filename.endswith(".pkl")), default=0)
    if inflated > size or len(entries) > MAX_ENTRIES or named > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"{path}: {len(entries):,} entries that unpack to {inflated / 1e6:,.1f} MB, from a file of"
            f" {size / 1e6:,.1f} MB: not a valid checkpoint; rejected"
        )
    return named
