"""A safetensors file of the weights with the record of the student, as `load_student` and `predict` take it."""

from pathlib import Path

from ..config import load_yaml_text
from ..errors import ConfigError
from ..launch.student import Student, load_student
from ..runs.checkpoint import save_weights
from ..runs.record import as_metadata
from .verify import Network

ENDING = ".safetensors"


def module_of(network: str) -> str:
    """The module of a user's network `module:function`; empty for those of this package and of other libraries."""
    return network.partition(":")[0] if ":" in network else ""


def write_weights(student: Student, path: Path) -> Network:
    """Write the weights and the record, and return the student that they are.

    ConfigError if its code is the user's, which no file of weights carries, or if the file's name is not of its kind.
    """
    if path.suffix != ENDING:
        raise ConfigError(f"-o {path.name}: a file of weights is known by its ending: name it {path.stem}{ENDING}")
    if plugins := load_yaml_text(student.record.config).get("PLUGINS"):
        raise ConfigError(f"{student.source}: its network or method is in {', '.join(plugins)}, which a file of weights"
                          " cannot carry: --to onnx or torch-export")  # fmt: skip
    if module := module_of(student.record.student):
        print(f"note: {path.name} has no code: who uses it needs the module {module} on the import path or beside the"
              " file, and load_student(..., trust=True)", flush=True)  # fmt: skip
    weights = student.network.state_dict()
    save_weights(weights, path, as_metadata(student.record, weights))
    return load_student(path)
