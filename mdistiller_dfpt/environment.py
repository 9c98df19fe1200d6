"""The environment of a run: what beside its config and its data can change the bits that it computes.

A run may go on in another one. Its checkpoints and results list all of them, each with the progress at which it began.
"""

import functools
import hashlib
import inspect
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch.nn import functional as F

from .distributed import of_all_processes, world_size

PROGRESS = ("epoch", "step", "prepared")
"""What was completed where an environment began; `prepared`: passes over the training set before the first step."""
NOT_COMPARED = ("python",)
"""Versions that change no number by themselves, as the commit does not: what this package changes is in an identity."""
CHANGED = ", then "
"""Between the values of a fact that changed within a run."""
OURS = __name__.partition(".")[0]
DISTRIBUTIONS = {"PIL": "pillow"}
"""Of packages that are installed under another name than they are imported by."""


def capabilities_of_cpu() -> dict[str, Any]:
    """PyTorch's description of this CPU; empty if it has none."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def name_of_cpu() -> str:
    """The model of this CPU, or its architecture where PyTorch does not know it."""
    return str(capabilities_of_cpu().get("cpu_name") or platform.processor() or platform.machine())


def machine_of(device: torch.device) -> dict[str, Any]:
    """What a time measured on a device depends on: a GPU, or `cpu` with its number of threads; and the CPU's model."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": name_of_cpu(),
        "threads": torch.get_num_threads(),
    }


def packages_of(parts: Iterable[Any]) -> set[str]:
    """The packages that classes and functions are of, less PyTorch and this one, and what they name as `packages`."""
    owners = [part.__self__ if inspect.ismethod(part) else part for part in parts]
    modules = {str(getattr(one, "__module__", "")) for one in owners}
    named = {name for one in owners if isinstance(names := getattr(one, "packages", ()), tuple) for name in names}
    return {name.partition(".")[0] for name in modules | named} - {"", "__main__", "builtins", "torch", OURS}


def environment(device: torch.device, packages: Iterable[str], commit: str) -> dict[str, Any]:
    """The environment of this run; all of its processes take part. `packages`: whose code computes in it."""
    used = {DISTRIBUTIONS.get(package, package): _version(package) for package in sorted(packages)}
    libraries = {name: number for name, number in used.items() if number is not None}
    own = {
        **machine_of(device),
        "arithmetic": arithmetic(),
        "versions": {"torch": torch.__version__, "python": platform.python_version(), **libraries},
        "commit": commit,
    }
    return {"world_size": world_size(), **_common(of_all_processes(own))}


def _common(values: Sequence[Any]) -> Any:
    """The value of all processes; where they differ, all values in words."""
    first = values[0]
    if isinstance(first, dict):
        return {key: _common([value.get(key) for value in values]) for key in first}
    return first if all(value == first for value in values) else " and ".join(dict.fromkeys(map(str, values)))


def _version(package: str) -> str | None:
    """The version of a package; None if it has none, as a module of the user's."""
    try:
        return version(DISTRIBUTIONS.get(package, package))
    except PackageNotFoundError:
        found = getattr(sys.modules.get(package), "__version__", None)
        return found if isinstance(found, str) else None


def arithmetic() -> str:
    """The CPU instructions that PyTorch uses, and a hash of a small calculation by them and by its libraries.

    Other CPUs, libraries, or environment variables, as ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA and MKL_CBWR, are
    another hash if they change a bit of it.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    draw = functools.partial(torch.randn, generator=generator, device="cpu", dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        matrix, image = draw(192, 192), draw(4, 64, 9, 9)
        kernel = draw(48, 64, 3, 3)
        found = [matrix, matrix.softmax(1), matrix.sum(1), image.var((0, 2, 3))]
        for dtype in (torch.float32, torch.bfloat16):
            a, x, k = (value.to(dtype) for value in (matrix, image, kernel))
            found += [a @ a, F.conv2d(x, k, padding=1)]
    digest = hashlib.sha256(b"".join(value.float().contiguous().numpy().tobytes() for value in found))
    return f"{torch.backends.cpu.get_cpu_capability()} {digest.hexdigest()[:8]}"


def begun_in(environment: Mapping[str, Any], progress: Mapping[str, Any]) -> dict[str, Any]:
    """An environment with the progress at which it begins."""
    return {**{key: progress.get(key, 0) for key in PROGRESS}, **environment}


def continued_in(
    environment: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]], progress: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The environments of a run that goes on in this one: those that computed something, and it if it is another."""
    now = begun_in(environment, progress)
    before = [dict(one) for one in earlier if _place(one) < _place(now)]
    return before if before and _measured(before[-1]) == _measured(now) else [*before, now]


def _place(one: Mapping[str, Any]) -> list[int]:
    return [one.get(key, 0) for key in PROGRESS]


def _measured(one: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in PROGRESS}


def words_of(progress: Mapping[str, Any]) -> str:
    """`epoch 3, step 2`: what was completed."""
    epoch, step, prepared = _place(progress)
    if not epoch and not step:
        return f"pass {prepared}" if prepared else "the start"
    return f"epoch {epoch}" + (f", step {step}" if step else "")


def facts_of(one: Mapping[str, Any]) -> dict[str, str]:
    """What two environments are compared by, in words; what an earlier version did not record is left out.

    On a GPU, threads and arithmetic of the CPU change no bit of what is trained.
    """
    of_cpu = ("threads", "arithmetic") if one.get("device", "cpu") == "cpu" else ()
    facts = {key: str(one[key]) for key in ("world_size", "device", *of_cpu) if key in one}
    return facts | {key: str(value) for key, value in one.get("versions", {}).items() if key not in NOT_COMPARED}


def facts_over(environments: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The facts of a run that had these environments: `1, then 2 after epoch 3` of what changed."""
    found: dict[str, str] = {}
    newest: dict[str, str] = {}
    for one in environments:
        for key, value in facts_of(one).items():
            if key not in newest:
                found[key] = value
            elif newest[key] != value:
                found[key] += f"{CHANGED}{value} after {words_of(one)}"
            newest[key] = value
    return found


def for_reader(results: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol in the results of a run, with all values that what it was computed in had."""
    found, facts = dict(results["protocol"]), facts_over(results.get("environments", []))
    found |= {key: value for key, value in facts.items() if key in found}
    if "versions" in found:
        found["versions"] = {key: facts.get(key, value) for key, value in found["versions"].items()}
    return found


def changes(environments: Sequence[Mapping[str, Any]], progress: Mapping[str, Any]) -> list[str]:
    """One phrase for each fact that the last of these, if it begins here, does not share with the one before it."""
    if len(environments) < 2 or _place(environments[-1]) != _place(progress):
        return []
    then, now = map(facts_of, environments[-2:])
    return [f"{key} {now[key]} now, {then[key]} before" for key in now if then.get(key, now[key]) != now[key]]
