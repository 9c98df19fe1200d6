"""What a search is asked to do, checked before the first trial: configs, space, validation images, budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from ..config.compose import find_config
from ..config.effect import deciding_values, value_of
from ..config.limits import as_directory
from ..config.load import name_from
from ..data import build_data
from ..distillers.choice import situation
from ..errors import ConfigError
from ..interop.plugins import load_cfg
from .space import Dimension, check_space, load_space, own_values, with_effect
from .trial import Say, SearchedConfig

SHARE = "DATASET.VALIDATION"
SHARE_OF_SEARCH = 0.1
"""DATASET.VALIDATION of the trials of a config that has none."""
OF_SEARCH = {
    "SOLVER.SEED": "give --seeds",
    "EXPERIMENT.NAME": "each trial has its own",
    "EXPERIMENT.TAG": "each trial has its own",
}
"""Keys that a search sets itself."""


@dataclass(frozen=True)
class Budget:
    """What each config gets: a number of trials, minutes of trials, or the first of both."""

    trials: int | None
    minutes: float | None

    def is_spent(self, trials: int, seconds: float) -> bool:
        """Whether no further trial begins."""
        enough = self.trials is not None and trials >= self.trials
        return enough or (self.minutes is not None and seconds >= 60 * self.minutes)

    def __str__(self) -> str:
        parts = [] if self.trials is None else [f"{self.trials} trial{'s' if self.trials > 1 else ''}"]
        parts += [] if self.minutes is None else [f"{self.minutes:g} minutes of trials"]
        return " or ".join(parts)


@dataclass(frozen=True)
class Plan:
    """A search: its configs, what each gets, the seeds of a trial, its pruner, and its folder."""

    configs: Sequence[SearchedConfig]
    budget: Budget
    seeds: tuple[int, ...]
    pruner: str
    folder: Path

    def asked(self, one: SearchedConfig) -> dict[str, Any]:
        """What all trials of a config have in common; a search of anything else is another search."""
        config = deciding_values(situation(one.cfg, in_files=one.in_files))
        config = {key: value for key, value in config.items() if key != "SOLVER.SEED"}
        space = {d.key: d.words for d in one.space}
        return {"config": config, "space": space, "seeds": list(self.seeds), "pruner": self.pruner}


def plan_search(
    names: Sequence[str], space_file: Path, budget: Budget, seeds: Sequence[int], pruner: str, folder: Path | None,
    opts: Sequence[str], say: Say,
) -> Plan:  # fmt: skip
    """The search of these configs; ConfigError or DataError before anything is written. Says what is set or left out.

    `folder`: None for LOG.PREFIX/search/<name of the space>. `opts`: KEY VALUE pairs for all configs.
    """
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {' '.join(map(str, seeds))}: a seed is given twice")
    space = load_space(space_file)
    found = {}
    for path in (find_config(Path(name)) for name in names):
        if (title := name_from(path)) in found:
            raise ConfigError(f"--cfg names two configs called {title}: copy one to a file of another name")
        found[title] = (path, _given(path, opts))
    for path, given in found.values():
        check_space(space, path, given)
    configs = []
    judged: dict[str, tuple[bool, int]] = {}  # by section DATASET
    for title, (path, given) in found.items():
        of_config = load_cfg(path, {key: value for key, value in given.items() if key != SHARE}).DATASET.VALIDATION
        is_set = SHARE in given or of_config > 0
        if not is_set:
            given = {**given, SHARE: SHARE_OF_SEARCH}
        cfg = load_cfg(path, given)
        if (dataset := cfg.DATASET.dump()) not in judged:
            judged[dataset] = _judged_by(cfg)
        in_files, images = judged[dataset]
        if not is_set:
            say(f"{title}: {SHARE} is 0; the search sets it to {SHARE_OF_SEARCH}")
        folder = folder or Path(cfg.LOG.PREFIX) / "search" / space_file.stem
        kept, others = with_effect(space, path, given, in_files=in_files)
        if len(found) == 1 or not kept:
            _refuse(space, others, title)
        own, outside = own_values(kept, cfg)
        for why in dict.fromkeys(others.values()):
            keys = ", ".join(key for key in others if others[key] == why)
            say(f"{title}: the space also has {keys}, for the other configs: {why}")
        for line in outside:
            say(f"{title}: {line}")
        experiment = f"search/{as_directory(folder.resolve().name)}/{title.replace('/', '_')}"
        configs.append(SearchedConfig(path, title, cfg, given, kept, own, experiment, of_config, images, in_files))
    searched = {d.key for one in configs for d in one.space}
    _refuse(space, {d.key: "no effect in any of these configs" for d in space if d.key not in searched}, "")
    assert folder is not None
    return Plan(configs, budget, tuple(seeds), pruner, folder)


def _given(path: Path, opts: Sequence[str]) -> dict[str, Any]:
    """The keys given for all trials of a config, as the config has them."""
    cfg = load_cfg(path, opts)
    given = {key: value_of(cfg, key) for key in opts[::2]}
    for key, why in OF_SEARCH.items():
        if key in given:
            raise ConfigError(f"{key} is {given[key]}; a search sets it itself: {why}")
    if given.get(SHARE) == 0:
        raise ConfigError(f"{SHARE} is {given[SHARE]}; trials are judged by validation images, never by the test set:"
                          " give a share of the training images, or leave it out")  # fmt: skip
    return given


def _judged_by(cfg: CN) -> tuple[bool, int]:
    """Whether the images of a dataset are decoded from files, and how many judge the trials."""
    data = build_data(cfg, torch.device("cpu"))
    assert data.validation is not None, "it was split off"
    return data.in_files, data.validation.num_samples


def _refuse(space: Sequence[Dimension], others: Mapping[str, str], title: str) -> None:
    """ConfigError for keys of the space that are not searched, with the reason for each."""
    whose = f"{title}: " if title else ""
    lines = [f"{d.where}: {whose}{d.key} has {others[d.key]}" for d in space if d.key in others]
    if lines:
        raise ConfigError("\n".join(lines))
