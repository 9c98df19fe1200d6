"""The tuned configs of a search: best.yaml of each, a table of them over seeds, and the command that trains it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as CN

from ..atomic import write_text
from ..config.effect import value_of
from ..config.paths import make_relative
from ..distillers.choice import choice
from ..interop.plugins import load_cfg
from ..invocation import command_line
from ..runs.directory import make_folder
from .plan import SHARE, Plan
from .storage import values_of
from .summary import best_of, spread_of
from .trial import SearchedConfig
from .tune import Studies, spent

BEST, TABLE = "best.yaml", "tuned.yaml"
SEEDS = 3


def write_tuned(plan: Plan, studies: Studies) -> str:
    """Write best.yaml of each config that has a complete trial, and the table of them; returns the command to run it.

    Empty if no config has one. The seeds are others than those of the search.
    """
    tuned = [one for one in plan.configs if _write_best(one, plan, studies)]
    if not tuned:
        return ""
    first = tuned[0]
    pairs = {_pair(one) for one in tuned}
    seeds = [seed for seed in range(1, SEEDS + len(plan.seeds) + 1) if seed not in plan.seeds][:SEEDS]
    table = {
        "title": f"Tuned by {plan.budget} each; top-1 of the last epoch on the test set",
        "configs": ".",
        "metric": "last",
        "seeds": seeds,
        "reference": first.label,
        "columns": {"tuned": {"title": pairs.pop() if len(pairs) == 1 else "all pairs"}},
        "rows": {
            one.label: {"title": f"{choice(one.cfg).label} ({one.name})", "config": f"{one.label}/best"}
            for one in tuned
        },
    }  # fmt: skip
    file = plan.folder / TABLE
    write_text(file, yaml.safe_dump(table, sort_keys=False, width=120))
    # All epochs but the last are not evaluated, as the test set is what they would be evaluated on
    words = ["--table", str(file), "--run", "LOG.EVAL_FREQ", str(max(one.cfg.SOLVER.EPOCHS for one in tuned))]
    if str(first.prefix) != "output":
        words[2:2] = ["--prefix", str(first.prefix)]
    if any(one.validation for one in tuned):
        words += [SHARE, "0"]
    return f"{command_line('table')} {shlex.join(words)}"


def _pair(one: SearchedConfig) -> str:
    chosen = choice(one.cfg)
    return f"{chosen.teacher} -> {chosen.student}" if chosen.teacher else chosen.student


def _write_best(one: SearchedConfig, plan: Plan, studies: Studies) -> bool:
    """Write the config of the best trial, with the validation split of the config itself; False if there is none."""
    best = best_of(studies[one.name])
    if best is None:
        return False
    folder = plan.folder / one.label
    with_best = load_cfg(one.path, {**one.given, **values_of(best, one.space)})
    keys = [key for key in one.given if key != SHARE] + [d.key for d in one.space]
    share = f"was {one.cfg.DATASET.VALIDATION:g} in the search, and is {one.validation:g} here, as in the config"
    seeds = ", ".join(map(str, plan.seeds))
    lines = [
        f"# {one.name}, trial {best.number} of {spent(studies[one.name])[0]}: top-1 {spread_of(best)} on {one.images}"
        f" validation images, seeds {seeds}",
        f"# {SHARE} {share}",
        f"_BASE_: {one.path_from(folder)}",
    ]
    make_folder(folder, empty=False)
    write_text(folder / BEST, "\n".join(lines) + "\n" + _as_yaml(with_best, keys, folder))
    return True


def _as_yaml(cfg: CN, keys: Sequence[str], folder: Path) -> str:
    """These keys of a config as a file in `folder` has them, by section."""
    tree: dict[str, Any] = {"PLUGINS": []}
    for key in keys:
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        value = value_of(cfg, key)
        node[last] = list(value) if isinstance(value, tuple) else value
    make_relative(tree, folder)
    if not tree["PLUGINS"]:
        del tree["PLUGINS"]
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=120)
