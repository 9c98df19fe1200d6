"""What a file of weights says of its student: how to build it, its classes, how images become its input, its accuracy.

The record is in the metadata of the safetensors file, as JSON.
"""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor
from yacs.config import CfgNode as CN

from ..checksum import hash_of
from ..config.keys import KEYS
from ..config.load import dump_cfg, load_yaml_text
from ..config.sections import put
from ..data import Data
from ..data.preprocessing import Preprocessing
from ..distillers.choice import choice
from ..errors import CheckpointError, ConfigError, reason
from ..json_form import RECORD, fault_of
from ..regular_files import parse_json, regular
from .directory import STATUS
from .hashing import state_hash
from .weights import WEIGHTS, load_weights, weights_file

KEY, KEY_HASH, FORMAT = "mdistiller_dfpt", "mdistiller_dfpt_sha256", 1
PLACES = ("DISTILLER.STUDENT_CKPT", "DISTILLER.LOGITS_CACHE", "DATASET.EXTRA.ROOT")


class Record(NamedTuple):
    """A trained student, without its weights."""

    config: str  # of its run, as yaml, without paths
    classes: tuple[str, ...]
    num_train: int
    image_shape: tuple[int, int, int]
    preprocessing: Preprocessing | None  # None: its dataset has a test transform of its own
    method: str
    student: str
    teacher: str  # empty if there is none
    data: str
    epoch: int
    accuracy: Mapping[str, float]  # top1, top5 on the test set at this epoch; empty if it was not evaluated
    version: str
    sha256: str = ""  # of the tensors in its file
    folder: str = ""  # the name of that of its images, if `data` does not say which dataset it is
    code: Mapping[str, str] = MappingProxyType({})  # SHA-256 of the files of the user's code in its run, by name


def _without_places(cfg: CN) -> str:
    """A config as yaml, with the defaults of all keys that change no result and of those that are places."""
    cfg = cfg.clone()
    cfg.defrost()
    for full, key in KEYS.items():
        if (not key.decides and full != "PLUGINS") or full in PLACES:
            put(cfg, full, list(key.default) if isinstance(key.default, list) else key.default)
    cfg.PLUGINS = [Path(name).name if name.endswith(".py") else name for name in cfg.PLUGINS]
    return dump_cfg(cfg)


def record_of(
    cfg: CN, data: Data, epoch: int, accuracy: Mapping[str, float], code: Mapping[str, str] | None = None
) -> Record:  # fmt: skip
    """The record of the student of a run, after an epoch; `code`: hashes of the user's files, as in its identity."""
    chosen = choice(cfg)
    try:
        ours = version("mdistiller_dfpt")
    except PackageNotFoundError:
        ours = ""
    accuracy = {key: accuracy[key] for key in ("top1", "top5") if key in accuracy}
    shape, preprocessing = data.image_shape, data.test.preprocessing()
    if size := cfg.DISTILLER.STUDENT_SIZE:
        shape = (3, size, size)
        preprocessing = None if preprocessing is None else preprocessing._replace(size=(size, size))
    return Record(
        _without_places(cfg), data.classes, data.num_train, shape, preprocessing,
        chosen.label, cfg.DISTILLER.STUDENT, chosen.teacher or "", cfg.DATASET.TYPE, epoch, accuracy, ours,
        folder=data.folder, code=dict(code or {}),
    )  # fmt: skip


def as_metadata(record: Record, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """A record as metadata of a safetensors file with these weights."""
    text = json.dumps(as_json(record._replace(sha256=state_hash(weights))))
    return {"format": "pt", KEY: text, KEY_HASH: hash_of(text)}


def as_json(record: Record) -> dict[str, Any]:
    """A record as plain values."""
    preprocessing = None if record.preprocessing is None else record.preprocessing.as_json()
    return record._asdict() | {"format": FORMAT, "preprocessing": preprocessing, "code": dict(record.code)}


def _instead(folder: Path) -> str:
    """The end of an error message: why a folder has no weights, or the runs below it."""
    if (folder / STATUS).is_file():
        return ": the run has not finished; --resume continues it"
    below = sorted(str(path.parent) for path in folder.glob(f"*/{WEIGHTS}")) if folder.is_dir() else []
    return f"; there are {', '.join(below[:5])}" if below else ""


def check_hash(path: Path, record: Record) -> None:
    """CheckpointError unless the tensors in a file are those that were saved with its record."""
    if state_hash(load_weights(path)) != record.sha256:
        raise CheckpointError(
            f"{path}: damaged; its tensors are not those that were saved: use another file of the run"
        )


def _check(record: Record) -> None:
    """ValueError where one part of a record contradicts another."""
    images = record.preprocessing
    if not record.classes:
        raise ValueError("classes is empty")
    if images is not None and images.size != record.image_shape[1:]:
        raise ValueError(f"image_shape is {record.image_shape}, preprocessing.size {images.size}")
    of_config = load_yaml_text(record.config).get("DISTILLER", {}).get("STUDENT")
    if of_config != record.student:
        raise ValueError(f"student is {record.student!r}, DISTILLER.STUDENT of its config {of_config!r}")


def read_record(path: Path) -> Record | None:
    """The record in a safetensors file, or in that of a run's or an exported folder; None if there is none.

    CheckpointError if it is damaged, or of a newer version.
    """
    path = weights_file(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint{_instead(path.parent)}")
    try:
        with safe_open(regular(path), "pt") as file:
            metadata = file.metadata() or {}
            text, written_hash = metadata.get(KEY), metadata.get(KEY_HASH)
    except (SafetensorError, OSError, RuntimeError) as e:
        if path.suffix == ".safetensors":
            raise CheckpointError(f"{path}: cut off or damaged ({e})") from None
        return None  # a file of another kind
    if text is None:
        return None
    if written_hash not in (None, hash_of(text)):  # an earlier version wrote none
        raise CheckpointError(f"{path}: damaged; its record of the student is not as it was saved: use another file of"
                              " the run")  # fmt: skip
    try:
        values = parse_json(text)
        if isinstance(values, dict) and isinstance(written := values.get("format"), int) and written > FORMAT:
            raise CheckpointError("written by a newer version; update mdistiller_dfpt")
        if fault := fault_of(values, RECORD):
            raise ValueError(fault)
        del values["format"]
        found = values["preprocessing"]
        values["preprocessing"] = None if found is None else Preprocessing.from_json(found)
        values["classes"], values["image_shape"] = tuple(values["classes"]), tuple(values["image_shape"])
        record = Record(**values)
        _check(record)
        return record
    except (ConfigError, CheckpointError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{path}: its record of the student cannot be read ({reason(e)})") from None
