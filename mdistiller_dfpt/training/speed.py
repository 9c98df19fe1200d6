"""The faster settings of this machine: measured once before the first step, and kept with the run."""

import copy
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from yacs.config import CfgNode as CN

from ..config import load_yaml_text
from ..config.conditions import AUTO, FASTEST, is_measured
from ..data import Data
from ..distillers.build import AMP_DTYPES
from ..distributed import on_first_process, world_size
from ..errors import ConfigError
from ..models.bfloat16 import has_bfloat16
from ..models.output import autocast, memory_format
from ..regular_files import read_text
from ..runs.directory import CONFIG
from ..runs.log import duration
from .compiled import cpp_compiler

ROUNDS = 3
PAYS_FROM = 1800
"""Seconds of a run from which compilation, of a minute or two, pays where it gains a tenth."""
WORDS = {"none": "float32", "bf16": "bfloat16"}
_found: dict[tuple[object, ...], tuple[str, float]] = {}  # benchmark results of this process


class Settings(NamedTuple):
    """Values of SOLVER.AMP, SOLVER.AMP_STUDENT and SOLVER.COMPILE."""

    amp: str
    of_student: str | None
    compiled: bool


def fast_settings(
    cfg: CN, student: nn.Module, teacher: nn.Module | None, data: Data, *, before: Path | None = None,
    trains: bool = True,
) -> CN:  # fmt: skip
    """The config with what SOLVER.SPEED auto, or `fastest` in SOLVER.AMP and SOLVER.AMP_STUDENT, is on this machine.

    `before`: the directory of the run that is continued or evaluated, whose choice is kept; `trains`: a run follows.
    """
    if not is_measured(cfg):
        return cfg
    s = cfg.SOLVER
    choice = on_first_process(
        lambda: (before and _chosen_before(before)) or _measured(cfg, student, teacher, data, trains)
    )
    if s.SPEED == AUTO and choice.compiled and not _can_compile(data.train.device):
        print("SOLVER.SPEED auto: SOLVER.COMPILE False from here on, as this machine has no C++ compiler", flush=True)
        choice = choice._replace(compiled=False)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.SPEED = None
    cfg.SOLVER.AMP, cfg.SOLVER.AMP_STUDENT, cfg.SOLVER.COMPILE = choice
    cfg.freeze()
    return cfg


def faster_settings(device: torch.device) -> list[str]:
    """The settings, as `KEY VALUE`, with which a step on this machine is faster."""
    has_it = torch.cuda.is_bf16_supported() if device.type == "cuda" else has_bfloat16()
    return ["SOLVER.AMP bf16"] * has_it + ["SOLVER.COMPILE True"] * _can_compile(device)


def _can_compile(device: torch.device) -> bool:
    return device.type == "cuda" or cpp_compiler() is not None


def speed_line(cfg: CN, device: torch.device, *, measured: bool) -> str:
    """How a run computes and, unless its settings were measured, what would be faster on this machine."""
    s = cfg.SOLVER
    of_student = f" (student {WORDS[s.AMP_STUDENT]})" if s.AMP_STUDENT else ""
    threads = torch.get_num_threads()
    line = (
        f"speed: {WORDS[s.AMP]}{of_student}, {'compiled' if s.COMPILE else 'not compiled'},"
        f" {threads} thread{'s' * (threads > 1)}"
    )
    set_already = {"SOLVER.AMP bf16": s.AMP != "none" or bool(s.AMP_STUDENT), "SOLVER.COMPILE True": s.COMPILE}
    faster = [setting for setting in faster_settings(device) if not (measured or set_already[setting])]
    return f"{line}; faster here: {', '.join(faster)} (SOLVER.SPEED auto measures it)" if faster else line


def asked_for(asked: dict[str, object]) -> list[str]:
    """Keys and values, as in a command, of what a run was asked for, where its config has what was chosen."""
    if asked.get("SOLVER.SPEED") == AUTO:
        return ["SOLVER.SPEED", AUTO, "SOLVER.AMP", "none", "SOLVER.AMP_STUDENT", "", "SOLVER.COMPILE", "False"]
    amp, of_student = str(asked.get("SOLVER.AMP") or "none"), str(asked.get("SOLVER.AMP_STUDENT") or "")
    return ["SOLVER.AMP", amp, "SOLVER.AMP_STUDENT", of_student] if FASTEST in (amp, of_student) else []


def _chosen_before(run: Path) -> Settings | None:
    """The choice in a run's config, if it can be read."""
    try:
        solver = load_yaml_text(read_text(run / CONFIG))["SOLVER"]
        choice = Settings(solver["AMP"], solver["AMP_STUDENT"] or None, solver.get("COMPILE", False))
    except (OSError, ConfigError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        return None
    return None if FASTEST in choice or solver.get("SPEED") == AUTO else choice


def _measured(cfg: CN, student: nn.Module, teacher: nn.Module | None, data: Data, trains: bool) -> Settings:
    s, d, auto = cfg.SOLVER, cfg.DISTILLER, cfg.SOLVER.SPEED == AUTO
    asked, asked_of_student = (FASTEST, FASTEST) if auto else (s.AMP, s.AMP_STUDENT)
    name = "SOLVER.SPEED auto" if auto else f"SOLVER.AMP {FASTEST}"
    networks, of_student, seconds = asked, asked_of_student, 0.0
    if networks == FASTEST and teacher is not None:
        networks, seconds = _faster(cfg, name, d.TEACHER, teacher, data, learns=False)
        of_student = of_student or FASTEST
    if FASTEST in (networks, of_student):
        if asked != FASTEST:
            name = f"SOLVER.AMP_STUDENT {FASTEST}"
        of_student, taken = _faster(cfg, name, d.STUDENT, student, data, learns=True)
        seconds += taken
    if networks == FASTEST:  # no teacher
        networks = of_student
    steps = s.EPOCHS * len(data.train) * s.ACCUMULATE
    compiled = _pays(seconds * steps, data.train.device) if auto and trains else s.COMPILE
    return Settings(networks, None if of_student == networks else of_student, compiled)


def _pays(seconds: float, device: torch.device) -> bool:
    """Whether a run, whose networks alone take so long, is compiled; prints the choice."""
    lower_bound = f"the steps of this run take {duration(seconds)} or more"
    if seconds < PAYS_FROM:
        why = f"{lower_bound}, too little for compilation to pay"
    elif not _can_compile(device):
        why = "there is no C++ compiler"
    else:
        print(f"SOLVER.SPEED auto: SOLVER.COMPILE True, as {lower_bound}", flush=True)
        return True
    print(f"SOLVER.SPEED auto: SOLVER.COMPILE False, as {why}", flush=True)
    return False


def _faster(cfg: CN, asked: str, name: str, network: nn.Module, data: Data, *, learns: bool) -> tuple[str, float]:
    """The precision in which a network processes a batch faster, and the seconds; prints the choice."""
    device = data.train.device
    candidates = list(WORDS) if device.type != "cpu" or has_bfloat16() else ["none"]
    layout = memory_format(cfg.SOLVER.CHANNELS_LAST)
    batch = -(-cfg.SOLVER.BATCH_SIZE // (world_size() * cfg.SOLVER.ACCUMULATE))
    case = (name, learns, batch, data.image_shape, str(device), str(layout), torch.get_num_threads())
    if case in _found:
        return _found[case]
    with torch.random.fork_rng():  # dropout and similar layers draw random numbers
        network = copy.deepcopy(network).to(device).to(memory_format=layout).train(learns)
        image = torch.rand((batch, *data.image_shape), device=device).contiguous(memory_format=layout)
        seconds: dict[str, list[float]] = {amp: [] for amp in candidates}
        for number in range(ROUNDS + 1):
            for amp, times in seconds.items():
                taken = _seconds(network, image, AMP_DTYPES[amp], learns)
                if number:  # the first round is a warm-up
                    times.append(taken)
    best = {amp: min(times) for amp, times in seconds.items()}
    winner = min(best, key=lambda amp: best[amp])
    why = ", ".join(f"{WORDS[amp]} {1000 * taken:.0f} ms" for amp, taken in best.items())
    if len(candidates) == 1:
        why += ", as this CPU has no bfloat16 instructions"
    print(f"{asked}: {name} in {WORDS[winner]} (a batch of {batch} here: {why})", flush=True)
    _found[case] = winner, best[winner]
    return _found[case]


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
