"""Reads `torch.save` files of any origin; no code in a file is ever run."""

import argparse
import collections
import pathlib
import re
import tarfile
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError

MAX_ENTRIES, MAX_PICKLE_BYTES = 100_000, 64 << 20  # far above those of any network

_NUMPY_DTYPES = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"]
_scalar, _reconstruct = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
_ALLOWED: list[Any] = [
    # What training scripts save beside the weights: their arguments and measured values; all only hold values
    argparse.Namespace, types.SimpleNamespace, collections.defaultdict, pathlib.PosixPath,
    np.ndarray, np.dtype, *_NUMPY_DTYPES,
    *((function, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")  # before and since NumPy 2
      for name, function in (("scalar", _scalar), ("_reconstruct", _reconstruct))),
]  # fmt: skip


def load_pickled_tensors(path: Path) -> Any:
    """Load a `torch.save` file of tensors, plain containers, argument namespaces and NumPy values.

    Nothing else is unpickled, and there is no fallback: CheckpointError names what else the file contains.
    """
    try:
        if zipfile.is_zipfile(path):
            _refuse_bombs(path)
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as e:  # a damaged or malicious file can raise almost any exception
        raise CheckpointError(
            f"{path}: not a checkpoint of tensors; no code in it was run ({_reason(path, e)})"
        ) from None


def _reason(path: Path, error: Exception) -> str:
    """What a file contains that is not loaded, by its name, or what it is instead."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it contains {found[1]}: where it was written, save the network's state_dict() instead"
    if "TorchScript" in str(error):
        return "it is a TorchScript archive: where it was written, save the network's state_dict() instead"
    with open(path, "rb") as f:
        start = f.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: `git lfs pull` fetches the file"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page: download the file itself"
    if tarfile.is_tarfile(path):
        return "it is a tar archive: unpack it and name a file of it"
    return "damaged, or not written by torch.save"


def _refuse_bombs(path: Path) -> None:
    """CheckpointError if the archive would unpack to more than its own size: PyTorch stores tensors uncompressed."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    inflated, size = sum(e.file_size for e in entries), path.stat().st_size
    named = max((e.file_size for e in entries if e.filename.endswith(".pkl")), default=0)
    if inflated > size or len(entries) > MAX_ENTRIES or named > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"{path}: {len(entries):,} entries that unpack to {inflated / 1e6:,.1f} MB, from a file of"
            f" {size / 1e6:,.1f} MB: not a valid checkpoint; rejected"
        )
