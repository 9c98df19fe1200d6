"""Say what this machine can do and which settings suit it: mdistiller-dfpt doctor."""

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

import torch

from ..distributed import num_cores, pick_device
from ..environment import name_of_cpu
from ..launch.cli import Parser, guarded
from ..models.bfloat16 import has_bfloat16
from ..training.compiled import cpp_compiler
from ..training.speed import faster_settings

DISTRIBUTION = "mdistiller_dfpt"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _software() -> Iterator[str]:
    yield f"mdistiller-dfpt {_version(DISTRIBUTION) or '(not installed)'}, Python {platform.python_version()}"
    yield ", ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision", "numpy"))


def _cpu() -> Iterator[str]:
    yield f"CPU: {name_of_cpu()}, {num_cores()} cores for this process, threads: {torch.get_num_threads()}"
    yield f"bfloat16 instructions: {'yes' if has_bfloat16() else 'no'}"


def _gpus() -> Iterator[str]:
    if not torch.cuda.is_available():
        yield "GPU: none that this PyTorch can use"
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        yield f"GPU {index}: {p.name}, {p.total_memory / 2**30:.0f} GiB, compute capability {p.major}.{p.minor}"


def _compiler() -> Iterator[str]:
    yield f"C++ compiler: {cpp_compiler() or 'none (SOLVER.COMPILE needs one on a CPU)'}"


def _extras() -> Iterator[str]:
    """The optional packages by extra, and how to install those that are missing."""
    by_extra: dict[str, list[str]] = {}
    for requirement in requires(DISTRIBUTION) or () if _version(DISTRIBUTION) else ():
        package, _, marker = requirement.partition(";")
        extra = marker.partition("extra ==")[2].strip(" \"'")
        if extra and extra != "test":
            by_extra.setdefault(extra, []).append(package.strip())
    for extra, packages in by_extra.items():
        missing = [package for package in packages if not _version(re.split(r"[^\w.-]", package)[0])]
        how = f'{", ".join(missing)} missing: pip install "{DISTRIBUTION}[{extra}]"' if missing else "installed"
        yield f"extra {extra}: {how}"


def _advice() -> Iterator[str]:
    device = pick_device("auto")
    for setting in faster_settings(device):
        yield setting + (", for a run of hours" if "COMPILE" in setting else "")
    yield "SOLVER.SPEED auto, to measure what is faster for a run's networks and length, and to use it"
    if (number := torch.cuda.device_count()) > 1:
        yield f"one run on all GPUs: torchrun --nproc_per_node {number} -m mdistiller_dfpt train ..."
    if device.type == "cpu":
        yield "several runs at once, with EXPERIMENT.THREADS 1 each, rather than one run with all cores"


def _main(argv: list[str]) -> None:
    Parser("doctor", __doc__, reads_configs=False).parse_args(argv)
    for part in (_software, _cpu, _gpus, _compiler, _extras):
        print("\n".join(part()))
    print("\nsettings that suit this machine:")
    print("\n".join(f"  {line}" for line in _advice()))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(_main, argv)
