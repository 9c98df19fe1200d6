"""A .pt2 file of torch.export, which PyTorch runs and compiles without this package."""

import io
import json
from pathlib import Path

import torch

from ..atomic import write_bytes
from ..handlers import signals_later
from ..launch.student import Student
from .logits_network import metadata_of, program_of
from .verify import Network

METADATA = "student.json"  # among the extra files in the .pt2 file


def write_program(student: Student, path: Path) -> Network:
    """Write the student's graph with its metadata, and return what was written."""
    with signals_later():
        program = program_of(student)
    buffer = io.BytesIO()  # PyTorch's own writer ends the process on a full disk
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata_of(student), indent=1)})
    write_bytes(path, buffer.getbuffer())
    return torch.export.load(path).module()
