"""Export a trained student: one file a format; each writes it and returns what was written, to be verified."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..launch.student import Student
from .hub_folder import write_hub_folder
from .library_files import write_timm, write_torchvision
from .onnx_file import write_onnx
from .torch_program import write_program
from .verify import Network
from .weights_file import write_weights

__all__ = ["FORMATS", "Format"]


class Format(NamedTuple):
    """`write(student, path)` writes a file or folder and returns the network in it; `ending`: of its default name."""

    write: Callable[[Student, Path], Network]
    ending: str


FORMATS = {
    "safetensors": Format(write_weights, ".safetensors"),
    "onnx": Format(write_onnx, ".onnx"),
    "torch-export": Format(write_program, ".pt2"),
    "timm": Format(write_timm, "-timm"),
    "torchvision": Format(write_torchvision, "-torchvision.safetensors"),
    "hub-folder": Format(write_hub_folder, "-hub"),
}
