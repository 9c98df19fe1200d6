"""Two steps of every registered method, on the config of a pair of networks, and of every kind of teacher with KD."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mdistiller_dfpt.config.compose import CONFIGS, composed_runs
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.interop.plugins import load_cfg
from mdistiller_dfpt.launch.smoke import smoke
from mdistiller_dfpt.teachers import TEACHERS

from .plan import Plan

PAIR = "res56_res20"
SMALL = ("DISTILLER.STUDENT", "resnet20", "DISTILLER.TEACHER", "resnet56")
OTHER = "[resnet20]"


def pieces(plan: Plan) -> dict[str, Callable[[], dict[str, Any]]]:
    """{method or kind of teacher: its two steps}, every `smoke_every` of each."""
    configs: dict[Any, str] = {}
    for name in composed_runs(CONFIGS, f"cifar100/*/{PAIR}"):
        methods = load_cfg(name).DISTILLER.TYPE
        if isinstance(methods, str):
            configs.setdefault(methods, name)
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for method in sorted(DISTILLERS)[:: plan.smoke_every]:
        of_method = () if method in configs else (*SMALL, "DISTILLER.TYPE", method)
        found[f"method {method}"] = partial(_steps, plan, configs.get(method), of_method)
    for kind in sorted(TEACHERS)[:: plan.smoke_every]:
        key = TEACHERS[kind].others_key
        others = (f"DISTILLER.{key}", OTHER) if key else ()
        of_kind = (*SMALL, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_KIND", kind, *others)
        found[f"teacher {kind}"] = partial(_steps, plan, None, of_kind)
    return found


def _steps(plan: Plan, name: str | None, words: tuple[str, ...]) -> dict[str, Any]:
    averages = smoke(load_cfg(name, [*words, *plan.smoke_words]), device=plan.device)
    return {"config": name or "defaults", "loss": averages["loss"]}
