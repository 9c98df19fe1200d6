"""Whether a checkpoint is of the run that is to be continued, and what that run computes from now on."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from ..checksum import hash_of
from ..config.effect import deciding, differing, of_earlier_version, value_of
from ..config.keys import KEYS
from ..config.load import load_yaml_text
from ..distillers.choice import choice, situation
from ..errors import CheckpointError
from .identity import (
    Identity,
    as_identity,
    changed_code,
    other_data,
    other_normalisation,
    other_teachers,
    plugins_of_one,
)

EPOCHS = "SOLVER.EPOCHS"
REMEDY = "a run goes on with the values that it began with; leave these out, or start another run without --resume"


def continued(
    folder: Path, manifest: Mapping[str, Any], identity: Identity, cfg: CN, *, trains: bool = True
) -> Identity:
    """What a run computes that goes on from the checkpoint in `folder`; CheckpointError if that is of another run.

    A run may go on for more epochs, or end after fewer. With a schedule or a method that depends on their number it is
    then not the run of that length, and its identity says so; the same if the user's code was changed, and steps are
    taken by it, which `trains` says.
    """
    written = as_identity(manifest.get("identity"))
    if written is None:
        _refuse_other_of_earlier_version(folder, manifest, identity, cfg)
        return {**identity, "data": None}
    now, then = (i["config"].get(EPOCHS, KEYS[EPOCHS].default) for i in (identity, written))
    # Epochs and code may differ; what is unknown is not compared
    mine, old = ({key: value for key, value in i["config"].items() if key != EPOCHS} for i in (identity, written))
    other = differing(mine, old, "now", "then") + other_teachers(identity, written)
    other += other_normalisation(identity, written)
    if identity.get("extra") != written.get("extra"):
        other.append("the unlabelled images are others")
    if identity.get("start") not in (None, written.get("start")):  # a program's is in the checkpoint alone
        other.append("it started from other weights")
    if identity["data"] is not None and written["data"] is not None:
        other += other_data(identity, written, "now", "then")
    if other:
        raise CheckpointError(f"{folder}: belongs to another run: {'; '.join(other)}; {REMEDY}")
    identity = {**identity}
    identity["data"] = written["data"]
    for key in ("continued", "start", "earlier_code"):
        if key in written:
            identity[key] = written[key]
    before = written.get("code", {})
    if not trains:
        identity["code"] = before
    elif identity.get("code", {}) != before:
        identity["earlier_code"] = [*written.get("earlier_code", []), hash_of(before)]
    if not identity.get("code"):
        identity.pop("code", None)
    if now != then and _depending_on_epochs(cfg):
        identity["continued"] = [*written.get("continued", []), then]
    return identity


def _depending_on_epochs(cfg: CN) -> str:
    """What the number of epochs decides before the last one; empty if a longer run begins as a shorter one."""
    if cfg.SOLVER.SCHEDULE != "step":
        return f"the {cfg.SOLVER.SCHEDULE} schedule"
    chosen = choice(cfg)
    return f"what {chosen.label} computes" if chosen.depends_on_epochs else ""


def warn_of_changes(
    folder: Path, manifest: Mapping[str, Any], identity: Identity, cfg: CN, *, trains: bool = True
) -> None:
    """Say what differs from a checkpoint that a run goes on from, and does not end it; `trains`: if steps are left."""
    written = as_identity(manifest.get("identity"))
    if written is None and not trains:
        return
    if written is None:
        print(f"{folder}: of an earlier version, which did not record the content of the dataset: not compared",
              file=sys.stderr)  # fmt: skip
        return
    if written["data"] is None:
        print(f"warning: the content of the dataset of {folder} is unknown: not compared", file=sys.stderr)
    now, then = (i["config"].get(EPOCHS, KEYS[EPOCHS].default) for i in (identity, written))
    if now != then and (what := _depending_on_epochs(cfg)):
        differs = "differs from here on" if trains else "was that of the former"
        print(f"warning: {EPOCHS} was {then}, is now {now}: {what} {differs}, and the run is not that of {now} epochs",
              file=sys.stderr)  # fmt: skip
    if not trains:
        return
    for phrase in changed_code(identity, written):
        print(f"warning: {phrase} than when {folder} was written; the run goes on with it", file=sys.stderr)
    for phrase in plugins_of_one(identity, written, "now", f"when {folder} was written"):
        print(f"warning: {phrase}; the run goes on as it is now", file=sys.stderr)


def _refuse_other_of_earlier_version(folder: Path, manifest: Mapping[str, Any], identity: Identity, cfg: CN) -> None:
    """The same for a checkpoint that holds the whole config, the dataset's sizes and one teacher's hash."""
    then = of_earlier_version(load_yaml_text(manifest["config"]))
    now = {key: deciding(key, value_of(cfg, key)) for key in KEYS}
    before = {key: deciding(key, then.get(key, KEYS[key].default)) for key in KEYS}  # then, a new key had no effect
    here = situation(cfg, in_files=True)
    other = [
        f"{key} {now[key]} now, {before[key]} then" for key in sorted(KEYS)
        if KEYS[key].decides and KEYS[key].when.test(here) and key != EPOCHS and now[key] != before[key]
    ]  # fmt: skip
    other += [f"{name} computes something else in this version" for name in here.revisions]
    other += [f"the images of the {network} were normalised otherwise" for network in identity.get("normalisation", ())]
    data, teachers = identity["data"], identity["teachers"] or []
    for key, was in (("classes", manifest.get("classes")), ("train_images", manifest.get("images"))):
        if data is not None and was is not None and was != dict(data)[key]:
            other.append(f"the dataset has {dict(data)[key]} {key.replace('_', ' ')} now, {was} then")
    if manifest.get("teacher_sha256") != (teachers[0]["sha256"] if teachers else None):
        other.append("the teacher has other weights")
    if other:
        raise CheckpointError(f"{folder}: belongs to another run: {'; '.join(other)}; {REMEDY}")
