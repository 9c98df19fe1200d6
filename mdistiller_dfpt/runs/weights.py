"""Network weights from files of any origin; no code in a file is ever run."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError

MAX_ENTRIES, MAX_PICKLE_BYTES = 100_000, 64 << 20  # far above those of any network
WEIGHTS = "student.safetensors"  # in the directory of a run and in a checkpoint


def load_pickled_tensors(path: Path) -> Any:
    """Load a `torch.save` file of tensors and plain containers. Nothing else is unpickled, and there is no fallback."""
    try:
        if zipfile.is_zipfile(path):
            _refuse_bombs(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as e:  # a damaged or malicious file can raise almost any exception
        found = re.search(r"GLOBAL (\S+)", str(e))
        reason = (
            f"it contains {found[1]}: save the state_dict alone" if found else "damaged, or not written by torch.save"
        )
        raise CheckpointError(f"{path}: not a checkpoint of tensors; no code in it was run ({reason})") from None


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


def load_weights(path: Path) -> dict[str, Tensor]:
    """A network's weights from a run directory, a checkpoint directory, a safetensors file or a `torch.save` file.

    From `torch.save` files, `{"model": state_dict}` and `{"state_dict": ...}` are unwrapped and `module.` is removed.
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
        raise CheckpointError(f"{path}: contains no state_dict; expected {{'model': state_dict}}")
    return {k.removeprefix("module."): v for k, v in state.items()}


def load_into(network: torch.nn.Module, path: Path, name: str) -> None:
    """Load a checkpoint's weights into `network`; CheckpointError listing the first keys that do not match exactly."""
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
