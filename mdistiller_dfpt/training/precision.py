"""The faster precision of each network on this machine: benchmarked once before the first step, kept with the run."""

import copy
import time
from pathlib import Path

import torch
from torch import nn
from yacs.config import CfgNode as CN

from ..config import load_yaml_text
from ..data import Data
from ..distillers.build import AMP_DTYPES
from ..distributed import on_first_process, world_size
from ..errors import ConfigError
from ..models.bfloat16 import has_bfloat16
from ..models.output import autocast, memory_format
from ..regular_files import read_text
from ..runs.directory import CONFIG

FASTEST = "fastest"
ROUNDS = 3
_found: dict[tuple[object, ...], str] = {}  # benchmark results of this process
WORDS = {"none": "float32", "bf16": "bfloat16"}


def measured_precision(
    cfg: CN, student: nn.Module, teacher: nn.Module | None, data: Data, *, before: Path | None = None
) -> CN:
    """The config with `fastest` in SOLVER.AMP and SOLVER.AMP_STUDENT replaced by the precision chosen.

    `before`: the directory of the run that is continued or evaluated, whose choice is kept.
    """
    s = cfg.SOLVER
    if FASTEST not in (s.AMP, s.AMP_STUDENT):
        return cfg
    choice = on_first_process(lambda: (before and _chosen_before(before)) or _measured(cfg, student, teacher, data))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP, cfg.SOLVER.AMP_STUDENT = choice
    cfg.freeze()
    return cfg


def _chosen_before(run: Path) -> tuple[str, str | None] | None:
    """The choice in a run's config, if it can be read."""
    try:
        solver = load_yaml_text(read_text(run / CONFIG))["SOLVER"]
        choice = solver["AMP"], solver["AMP_STUDENT"] or None
    except (OSError, ConfigError, KeyError, TypeError, UnicodeDecodeError):
        return None
    return choice if FASTEST not in choice else None


def _measured(cfg: CN, student: nn.Module, teacher: nn.Module | None, data: Data) -> tuple[str, str | None]:
    s, d = cfg.SOLVER, cfg.DISTILLER
    networks, of_student = s.AMP, s.AMP_STUDENT
    if networks == FASTEST and teacher is not None:
        networks = _faster(cfg, "SOLVER.AMP", d.TEACHER, teacher, data, learns=False)
        of_student = of_student or FASTEST
    if FASTEST in (networks, of_student):
        key = "SOLVER.AMP" if networks == FASTEST else "SOLVER.AMP_STUDENT"
        of_student = _faster(cfg, key, d.STUDENT, student, data, learns=True)
    if networks == FASTEST:  # no teacher
        networks = of_student
    return networks, None if of_student == networks else of_student


def _faster(cfg: CN, key: str, name: str, network: nn.Module, data: Data, *, learns: bool) -> str:
    """The precision in which a network processes a batch faster; prints the choice."""
    device = data.train.device
    if device.type == "cpu" and not has_bfloat16():
        print(f"{key} {FASTEST}: {name} in float32, as this CPU has no bfloat16 instructions", flush=True)
        return "none"
    layout = memory_format(cfg.SOLVER.CHANNELS_LAST)
    batch = -(-cfg.SOLVER.BATCH_SIZE // world_size())
    case = (name, learns, batch, data.image_shape, str(device), str(layout), torch.get_num_threads())
    if case in _found:
        return _found[case]
    with torch.random.fork_rng():  # dropout and similar layers draw random numbers
        network = copy.deepcopy(network).to(device).to(memory_format=layout).train(learns)
        image = torch.rand((batch, *data.image_shape), device=device).contiguous(memory_format=layout)
        seconds: dict[str, list[float]] = {amp: [] for amp in WORDS}
        for number in range(ROUNDS + 1):
            for amp, times in seconds.items():
                taken = _seconds(network, image, AMP_DTYPES[amp], learns)
                if number:  # the first round is a warm-up
                    times.append(taken)
    best = {amp: min(times) for amp, times in seconds.items()}
    winner = min(best, key=lambda amp: best[amp])
    taken_by = ", ".join(f"{WORDS[amp]} {1000 * taken:.0f} ms" for amp, taken in best.items())
    print(f"{key} {FASTEST}: {name} in {WORDS[winner]} (a batch of {batch} here: {taken_by})", flush=True)
    _found[case] = winner
    return winner


def _seconds(network: nn.Module, image: torch.Tensor, dtype: torch.dtype | None, learns: bool) -> float:
    _wait(image.device)
    start = time.perf_counter()
    with torch.set_grad_enabled(learns):
        with autocast(dtype, image):
            logits, _ = network(image)
        if learns:
            logits.float().mean().backward()
            network.zero_grad()
    _wait(image.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
