"""Whether a checkpoint is of the run that is to be continued."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from ..config.effect import deciding, of_earlier_version, value_of
from ..config.keys import KEYS
from ..config.load import load_yaml_text
from ..errors import CheckpointError
from .identity import Identity, as_identity, changed_code, differences

EPOCHS = "SOLVER.EPOCHS"


def refuse_other_run(folder: Path, manifest: Mapping[str, Any], identity: Identity, cfg: CN) -> None:
    """CheckpointError unless the checkpoint in `folder` is of a run that computes the same; it may go on for longer."""
    written = as_identity(manifest.get("identity"))
    if written is None:
        _refuse_other_of_earlier_version(folder, manifest, identity, cfg)
        return
    epochs = [i["config"].get(EPOCHS, KEYS[EPOCHS].default) for i in (written, identity)]
    if epochs[0] != epochs[1] and identity["config"].get("SOLVER.SCHEDULE") == "cosine":
        print(f"warning: {EPOCHS} was {epochs[0]}, is now {epochs[1]}: the cosine schedule differs from here on",
              file=sys.stderr)  # fmt: skip
    written["config"] = {**written["config"], EPOCHS: epochs[1]}
    # A plugin that was mended in the meantime may go on: the run's identity becomes that of the new code
    for phrase in changed_code(identity, written):
        print(f"warning: {phrase} since {folder} was written: the run goes on with what it is now", file=sys.stderr)
    written.pop("code", None)
    if "code" in identity:
        written["code"] = identity["code"]
    if other := differences(identity, written, "now", "then"):
        raise CheckpointError(f"{folder}: is of another run: {'; '.join(other)}")


def _refuse_other_of_earlier_version(folder: Path, manifest: Mapping[str, Any], identity: Identity, cfg: CN) -> None:
    """The same for a checkpoint that holds the whole config, the dataset's sizes and one teacher's hash."""
    then = of_earlier_version(load_yaml_text(manifest["config"]))
    other = [
        f"{key} {value_of(cfg, key)} now, {then[key]} then" for key in sorted(then.keys() & KEYS.keys())
        if KEYS[key].decides and key != EPOCHS and deciding(key, then[key]) != deciding(key, value_of(cfg, key))
    ]  # fmt: skip
    data, teachers = identity["data"], identity["teachers"] or []
    for key, was in (("classes", manifest.get("classes")), ("train_images", manifest.get("images"))):
        if data is not None and was is not None and was != dict(data)[key]:
            other.append(f"the dataset has {dict(data)[key]} {key.replace('_', ' ')} now, {was} then")
    if manifest.get("teacher_sha256") != (teachers[0]["sha256"] if teachers else None):
        other.append("the teacher has other weights")
    if other:
        raise CheckpointError(f"{folder}: is of another run: {'; '.join(other)}")
    print(f"{folder}: of an earlier version, which did not record the content of the dataset: not compared",
          file=sys.stderr)  # fmt: skip
