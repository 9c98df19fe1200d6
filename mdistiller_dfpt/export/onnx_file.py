"""ONNX, for onnxruntime and other runtimes.

Written by torch.onnx's exporter on top of torch.export (`dynamo=True`), which takes all networks of this package.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..handlers import signals_later
from ..launch.student import Student
from ..regular_files import read_bytes
from .logits_network import INPUT, OUTPUT, metadata_of, program_of
from .verify import Network


def write_onnx(student: Student, path: Path) -> Network:
    """Write the student's network with its metadata, and return it as onnxruntime runs it; ConfigError without them."""
    onnx = needed_for_onnx()
    with signals_later():
        exported = torch.onnx.export(
            program_of(student), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
        )
    assert exported is not None, "it is None only if the exporter is given a file"
    exported.save(str(path))
    _name_batch(path, onnx)
    add_metadata(path, onnx, metadata_of(student))
    return session(path)


def needed_for_onnx() -> Any:
    """The package onnx; ConfigError if one of those that ONNX needs is not installed."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as e:
        raise ConfigError(f'--to onnx needs {e.name}: pip install "mdistiller_dfpt[export]"') from None
    return onnx


def _name_batch(path: Path, onnx: Any) -> None:
    """Call the free dimension of the input and the output `batch`; the exporter calls it as PyTorch's graph does."""
    model = onnx.load(path, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # shapes in between, which runtimes infer, in the old name
    onnx.save(model, path)


def add_metadata(path: Path, onnx: Any, values: dict[str, str]) -> None:
    """Write these properties into the model, beside those that it has."""
    model = onnx.load(path, load_external_data=False)
    model.producer_name = "mdistiller_dfpt"
    model.doc_string = values.get("description", model.doc_string)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, kept | values)
    onnx.save(model, path)


def session(path: Path) -> Network:
    """The network in an ONNX file, on the CPU, with as many threads as PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    runtime = onnxruntime.InferenceSession(read_bytes(path), options, providers=["CPUExecutionProvider"])

    def logits_of(images: Tensor) -> Tensor:
        return torch.from_numpy(runtime.run([OUTPUT], {INPUT: images.numpy()})[0])

    return logits_of
