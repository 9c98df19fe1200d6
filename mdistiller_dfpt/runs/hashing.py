"""Content hashes of files, and of weights independently of how a file stores them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..regular_files import opened


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the name, dtype, shape and bytes of every entry, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with opened(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
