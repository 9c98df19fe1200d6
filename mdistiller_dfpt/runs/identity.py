"""The identity of a run: what it computed. Runs are found, resumed and compared by it, never by their names.

It holds the keys that decide a result and differ from their defaults, the content of the dataset, and the hashes of the
networks that teach; its hash is the run's fingerprint.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from yacs.config import CfgNode as CN

from ..atomic import write_json
from ..checksum import hash_of
from ..config.effect import deciding_values, differing
from ..data import Data
from ..data.content import Content, Images
from ..distillers.choice import situation
from ..json_form import IDENTITY as FORM
from ..json_form import fault_of
from ..regular_files import read_json
from .checkpoint import CHECKPOINTS, newest_manifest

IDENTITY = "identity.json"


class Identity(TypedDict):
    """What a run computes; None for what an earlier version did not record."""

    config: dict[str, Any]
    data: Content | None
    teachers: list[dict[str, str]] | None  # name and sha256 of each frozen network, the teacher first
    code: NotRequired[dict[str, str]]  # sha256 of the files of the user's code in it, by name, if there are any
    earlier_code: NotRequired[list[str]]  # hashes of what that was before, if the run was begun with other code
    continued: NotRequired[list[int]]  # the values of SOLVER.EPOCHS before it, under a schedule that depends on them
    normalisation: NotRequired[dict[str, str]]  # of networks with one of their own, by role or name
    extra: NotRequired[Images]  # the unlabelled images beside the dataset, if there are any
    start: NotRequired[str]  # of the initial weights, if they are given and not a function of the seed


def identity_of(
    cfg: CN, data: Data, teachers: Sequence[tuple[str, str]], code: Mapping[str, str] | None = None
) -> Identity:
    """The identity of a run of `cfg` on this dataset; `teachers`: (name, hash) of networks; `code`: of plugins."""
    identity: Identity = {
        "config": deciding_values(situation(cfg, in_files=data.in_files)),
        "data": data.content,
        "teachers": [{"name": name, "sha256": sha256} for name, sha256 in teachers],
    }
    if code:
        identity["code"] = dict(code)
    if data.extra is not None and data.extra.content is not None:
        identity["extra"] = data.extra.content
    return identity


def fingerprint(identity: Identity) -> str:
    """SHA-256 of an identity, as 64 hexadecimal digits."""
    return hash_of(identity)


HERE, THERE = "in this command", "in that run"


def differences(mine: Identity, other: Identity, of_mine: str = HERE, of_other: str = THERE) -> list[str]:
    """One phrase for each way in which two runs differ; empty if they computed the same.

    What is unknown of either is a difference.
    """
    found = differing(mine["config"], other["config"], of_mine, of_other)
    found += other_data(mine, other, of_mine, of_other) + other_teachers(mine, other) + changed_code(mine, other)
    found += plugins_of_one(mine, other, of_mine, of_other)
    if mine.get("continued") != other.get("continued"):
        epochs = other.get("continued") or mine.get("continued") or []
        found.append(f"one was continued after a schedule for {', '.join(map(str, epochs))} epochs")
    if mine.get("earlier_code") != other.get("earlier_code"):
        found.append("one was begun with other code of its plugins")
    found += other_normalisation(mine, other)
    if mine.get("extra") != other.get("extra"):
        found.append("the unlabelled images are others")
    if mine.get("start") != other.get("start"):
        found.append("they started from other weights")
    return found


def other_data(mine: Identity, other: Identity, of_mine: str, of_other: str) -> list[str]:
    """The phrases for what differs in the datasets."""
    a, b = mine["data"], other["data"]
    if a is None or b is None:
        return ["the content of a dataset is unknown"]
    if a == b:
        return []
    sizes = [
        f"the dataset has {dict(a)[key]} {key.replace('_', ' ')} {of_mine}, {dict(b)[key]} {of_other}"
        for key in ("classes", "train_images", "test_images") if dict(a)[key] != dict(b)[key]
    ]  # fmt: skip
    return sizes or ["the dataset has other images or labels"]


def other_normalisation(mine: Identity, other: Identity) -> list[str]:
    """One phrase for each network whose images are normalised otherwise."""
    a, b = mine.get("normalisation", {}), other.get("normalisation", {})
    return [f"the images of the {network} are normalised otherwise" for network in sorted(set(a) | set(b))
            if a.get(network) != b.get(network)]  # fmt: skip


def changed_code(mine: Identity, other: Identity) -> list[str]:
    """One phrase for each file of a plugin that both runs have and that is not the same in both."""
    a, b = mine.get("code", {}), other.get("code", {})
    return [f"the plugin {name} has other code" for name in sorted(a.keys() & b.keys()) if a[name] != b[name]]


def plugins_of_one(mine: Identity, other: Identity, of_mine: str, of_other: str) -> list[str]:
    """One phrase for each of the two that has files of plugins which the other one does not have."""
    a, b = mine.get("code", {}), other.get("code", {})
    sides = ((a.keys() - b.keys(), of_mine), (b.keys() - a.keys(), of_other))
    return [f"the plugin {', '.join(sorted(names))} only {side}" for names, side in sides if names]


def other_teachers(mine: Identity, other: Identity) -> list[str]:
    """The phrases for networks that teach and have other weights."""
    a, b = mine["teachers"], other["teachers"]
    if a is None or b is None:
        return ["the weights of a teacher are unknown"]
    if [t["name"] for t in a] != [t["name"] for t in b]:
        return []  # keys of the config say so
    return [
        f"{'the teacher' if number == 0 else 'the network'} {here['name']} has other weights"
        for number, (here, there) in enumerate(zip(a, b, strict=True)) if here["sha256"] != there["sha256"]
    ]  # fmt: skip


def write_identity(run: Path, identity: Identity) -> None:
    """Record the identity of a run in its directory."""
    write_json(run / IDENTITY, {"fingerprint": fingerprint(identity), **identity})


def read_identity(run: Path) -> Identity | None:
    """The identity of the run in a directory; None if an earlier version wrote it or it cannot be read.

    If its own file is missing or damaged, it is that of the newest checkpoint.
    """
    try:
        record = read_json(run / IDENTITY)
    except (OSError, ValueError):
        record = None
    found = as_identity(record)
    if found is not None and record.get("fingerprint") == fingerprint(found):
        return found
    return as_identity(newest_manifest(run / CHECKPOINTS).get("identity")) or found


def as_identity(record: Any) -> Identity | None:
    """The identity in a record of a run; None if there is none, or another thing in its place."""
    if fault_of(record, FORM):
        return None
    identity: Identity = {
        "config": dict(record["config"]), "data": record.get("data"), "teachers": record.get("teachers"),
    }  # fmt: skip
    if record.get("code"):
        identity["code"] = dict(record["code"])
    if record.get("earlier_code"):
        identity["earlier_code"] = list(record["earlier_code"])
    if record.get("continued"):
        identity["continued"] = list(record["continued"])
    if record.get("normalisation"):
        identity["normalisation"] = dict(record["normalisation"])
    if record.get("extra"):
        identity["extra"] = record["extra"]
    if record.get("start"):
        identity["start"] = record["start"]
    return identity
