"""A finished run, as its results.json describes it: a run is known by what it computed, not by its folder."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from ..config.effect import of_earlier_version
from ..config.keys import KEYS
from ..config.policy import NAMED_STARTS
from ..environment import facts_over
from ..json_form import ANY, ENVIRONMENT, EPOCH, IDENTITY

SEED = "SOLVER.SEED"
_METRIC = {"last": float, "best?": float, "best_epoch?": int, "mean_last_5?": (float, None)}
_FACTS = ("augmentation", "data", "folder", "device", "optimizer", "precision", "schedule", "commit", "batch_norm")
FORM = {
    "method?": str,
    "student?": str,
    "protocol": {
        "seed": int,
        "world_size?": int,
        "threads?": (int, str),
        "teacher?": ({"name": str, "sha256?": (str, None), "top1": float}, None),
        "settings?": {str: ANY},
        "versions?": {str: ANY},
        "normalisation?": {str: str},
        **{f"{name}?": float for name in ("lr", "warmup_epochs", "epochs", "batch")},
        **{f"{name}?": int for name in ("train_images", "test_images", "classes")},
        **{f"{name}?": str for name in _FACTS},
    },
    "final": {"top1": _METRIC, "top5?": _METRIC},
    "epochs": [EPOCH],
    "student_sha256?": str,
    "seconds?": float,
    "config?": {str: ANY},
    "identity?": IDENTITY,
    "environments?": [ENVIRONMENT],
}
"""What every reader of results relies on; files of earlier versions have less."""

COMMON_SECTIONS = ("DATASET", "MODEL", "DISTILLER", "SOLVER")


@dataclass(frozen=True)
class Result:
    """A finished run: its path below the searched folder without the seed's directory, and its results.json."""

    name: str
    path: Path
    data: dict[str, Any]

    @property
    def seed(self) -> int:
        """SOLVER.SEED of the run."""
        return self.data["protocol"]["seed"]

    @property
    def config(self) -> dict[str, Any]:
        """The keys that decide the result and differ from their defaults, without the seed."""
        if "identity" in self.data:
            values = dict(self.data["identity"]["config"])
        else:  # an earlier version recorded all keys, also those of other methods
            sections = (*COMMON_SECTIONS, *self.data.get("method", "").split("+"))
            written = of_earlier_version(self.data.get("config", {}))
            known = {full: value for full, value in written.items() if full in KEYS and KEYS[full].decides}
            values = {
                full: value for full, value in known.items()
                if value != KEYS[full].default and full.partition(".")[0] in sections
            }  # fmt: skip
        values.pop(SEED, None)
        if set(self.processes) == {1}:
            values.pop("SOLVER.SYNC_BN", None)  # it had no effect
        return values

    @property
    def environments(self) -> list[dict[str, Any]]:
        """Those that the run was computed in; an earlier version recorded the last alone, in its protocol."""
        return self.data.get("environments") or [self.data["protocol"]]

    @property
    def environment(self) -> dict[str, str]:
        """What of these can change bits, in words: `1, then 2 after epoch 3` if the run went on in another one."""
        return facts_over(self.environments)

    @property
    def processes(self) -> list[int]:
        """The numbers of processes that the run had, in its order."""
        return list(dict.fromkeys(one.get("world_size", 1) for one in self.environments))

    @property
    def content(self) -> dict[str, Any] | None:
        """The content of the dataset; None if an earlier version did not record it."""
        return self.data["identity"]["data"] if "identity" in self.data else None

    @property
    def teachers(self) -> list[dict[str, str]]:
        """Name and hash of each network that taught; an earlier version recorded the first alone."""
        if "identity" in self.data:
            return self.data["identity"]["teachers"] or []
        teacher = self.data["protocol"].get("teacher")
        return [{"name": teacher["name"], "sha256": teacher["sha256"]}] if teacher else []

    @property
    def code(self) -> dict[str, str]:
        """The hashes of the files of the run's plugins, by name."""
        return self.data.get("identity", {}).get("code", {})

    def at_start(self, name: str) -> float | None:
        """A value that a run measures in its first step only; None if an earlier version did not."""
        return self.data["epochs"][0].get("train", {}).get(name)

    @property
    def trained_paths(self) -> dict[str, dict[str, float]]:
        """By path that is trained beside the student: top-1 in the last epoch, and the divergences known of it."""
        test = self.data["epochs"][-1].get(self.judged_on, {})
        divergences = test.get("kl", {})
        found = {}
        for path in test:
            if path in ("teacher", "student", "kl"):
                continue
            pairs = {"KL from teacher": f"teacher||{path}", "KL to student": f"{path}||student"}
            found[path] = {"top-1": test[path]["top1"]}
            found[path] |= {words: divergences[pair] for words, pair in pairs.items() if pair in divergences}
        return found

    @property
    def evaluations(self) -> list[int]:
        """The epochs that were evaluated: the best of more is better, and a mean is of the last of these."""
        return [one["epoch"] for one in self.evaluated]

    @property
    def judged_on(self) -> str:
        """The set that epochs were evaluated on: validation, or test."""
        return "validation" if "validation" in self.data["final"] else "test"

    @property
    def evaluated(self) -> list[dict[str, Any]]:
        """The evaluations of its epochs, each with the number of its epoch."""
        return [{**e[self.judged_on], "epoch": e["epoch"]} for e in self.data["epochs"] if self.judged_on in e]

    @property
    def continued(self) -> list[int]:
        """The numbers of epochs for which the run was scheduled before, if it was continued."""
        return self.data.get("identity", {}).get("continued", [])

    @property
    def earlier_code(self) -> list[str]:
        """Hashes of the user's code with which the run was begun, if that was other code than it ended with."""
        return self.data.get("identity", {}).get("earlier_code", [])

    @property
    def start(self) -> str:
        """What the run started from, if its initial weights do not follow from the seed; empty if they do.

        Those of a program differ by seed, and are not told apart.
        """
        start = self.data.get("identity", {}).get("start", "")
        return start if start.startswith(NAMED_STARTS) else start and "a program"

    @property
    def extra(self) -> dict[str, Any] | None:
        """The content of the unlabelled images, if there are any."""
        return self.data.get("identity", {}).get("extra")

    @property
    def normalisation(self) -> dict[str, str]:
        """Of the networks whose images are not normalised as the dataset's, in words."""
        return self.data.get("identity", {}).get("normalisation", {})

    @property
    def what(self) -> str:
        """What the run computed, apart from its seed, as a key for comparisons; runs of one value are repetitions."""
        facts: list[Any] = [self.processes, self.code, self.continued, self.start, self.earlier_code]
        facts += [self.data["protocol"].get("precision"), self.evaluations, self.normalisation, self.extra]
        return json.dumps([self.config, self.content, self.teachers, facts], sort_keys=True)


def mean_at_start(runs: Iterable[Result], name: str) -> float | None:
    """The mean of a value that runs measure in their first step; None if one of them did not, or there are none."""
    values = [run.at_start(name) for run in runs]
    known = [value for value in values if value is not None]
    return mean(known) if known and len(known) == len(values) else None
