"""Run mdistiller's own tools/train.py with this project's methods: `python -m mdistiller_dfpt.plugin CHECKOUT ...`.

Nothing in the checkout is edited: its `distiller_dict` and `CFG` are extended in memory before its script runs. Methods
and config sections that mdistiller already has are kept.
"""

import ast
import runpy
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..errors import USER_FILES, ConfigError
from ..regular_files import read_bytes
from .cuda_calls import cuda_calls_ignored
from .into_mdistiller import Exported, before_storing, extend

USAGE = "usage: python -m mdistiller_dfpt.plugin MDISTILLER_CHECKOUT --cfg FILE [--resume] [KEY VALUE ...]"


def run_checkout(argv: list[str]) -> None:
    """Run the script of the checkout `argv[0]` with the remaining arguments; ConfigError if it is none."""
    if argv[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return
    if not argv or argv[0].startswith("-"):
        raise ConfigError(USAGE)
    checkout = Path(argv[0]).resolve()
    script = checkout / "tools" / "train.py"
    if not script.is_file():
        raise ConfigError(f"{argv[0]} is not a checkout of mdistiller: it has no tools/train.py")
    USER_FILES.add(str(checkout))  # an error in the checkout is not an error of this package
    sys.path.insert(0, str(checkout))
    on_cpu = not torch.cuda.is_available()
    with cuda_calls_ignored(on_cpu):
        try:
            from mdistiller.distillers import distiller_dict
            from mdistiller.engine import trainer_dict
            from mdistiller.engine.cfg import CFG
        except ModuleNotFoundError as e:
            missing = sorted({*_missing_in(checkout), e.name or ""} - {""})
            raise ConfigError(
                f"{argv[0]} needs {', '.join(missing)}, not installed: pip install {' '.join(missing)}"
            ) from None
        print(f"mdistiller_dfpt adds {', '.join(extend(distiller_dict, CFG))}", flush=True)
        if CFG.LOG.get("WANDB") and find_spec("wandb") is None:
            CFG.LOG.WANDB = False  # the script would set it itself, in a config that is frozen by then
            print("wandb is not installed: LOG.WANDB is False", flush=True)
        if on_cpu:
            print(
                "there is no CUDA device: `.cuda()` in the checkout has no effect, and it trains on the CPU", flush=True
            )
        for trainer in set(trainer_dict.values()):
            trainer.train = _preparing(trainer.train)
        _clip_what_is_stored(trainer_dict.values())
        sys.argv = [str(script), *argv[1:]]
        runpy.run_path(str(script), run_name="__main__")


def _preparing(train: Callable[..., Any]) -> Callable[..., Any]:
    """A trainer's `train`, before which a method of this project passes over the training set if it needs to."""
    if getattr(train, "prepares", False):  # inherited
        return train

    def prepared(self: Any, resume: bool = False) -> Any:
        distiller = self.distiller.module
        if isinstance(distiller, Exported) and not resume:
            distiller.prepare(self.train_loader)
        return train(self, resume=resume)

    vars(prepared)["prepares"] = True
    return prepared


def _clip_what_is_stored(trainers: Any) -> None:
    """Let methods change the gradient that mdistiller's two-momenta optimiser stores, as before any other step."""
    for trainer in trainers:
        optimizers = [o for o in vars(sys.modules[trainer.__module__]).values() if hasattr(o, "step_kd")]
        for optimizer in optimizers:
            if not getattr(optimizer.step_kd, "clips", False):
                optimizer.step_kd = _clipping(optimizer.step_kd)


def _clipping(step_kd: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def clipped(self: Any) -> Any:
        before_storing(self)
        return step_kd(self)

    vars(clipped)["clips"] = True
    return clipped


def _missing_in(checkout: Path) -> set[str]:
    """Packages that the checkout's modules import at their top and that are not installed."""
    names: set[str] = set()
    for file in (checkout / "mdistiller").rglob("*.py"):
        for node in ast.parse(read_bytes(file)).body:
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").partition(".")[0])
    return {name for name in names - sys.stdlib_module_names if name and find_spec(name) is None}
