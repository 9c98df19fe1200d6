"""Static quantisation of an ONNX file to int8, by onnxruntime's quantizer."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.loader import Loader
from ..launch.student import Student
from ..training.evaluate import accuracy, evaluate
from .logits_network import INPUT
from .onnx_file import add_metadata, needed_for_onnx, session
from .verify import BATCH, Network, Sample


class Compared(NamedTuple):
    """An int8 network beside its float32 one, in per cent; accuracies (top1, top5) need labels."""

    agreement: float  # images for which both predict the same class
    images: int
    float32: Mapping[str, float]
    int8: Mapping[str, float]


class Calibration:
    """Hands the quantizer one batch after another, as its CalibrationDataReader does."""

    def __init__(self, images: Tensor):
        self.batches = iter(images.split(BATCH))

    def get_next(self) -> Mapping[str, Any] | None:
        """The next batch by the name of the input; None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


def write_int8(model: Path, path: Path, sample: Sample) -> Network:
    """Write the int8 form of the ONNX file `model`, calibrated on a sample, and return it as onnxruntime runs it.

    Weights of convolutions and linear layers have a scale for each output channel.
    """
    onnx = needed_for_onnx()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_suffix(".prepared.onnx")
    logging.disable(logging.WARNING)  # it advises the preparation that is done here
    try:
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(path), Calibration(sample.images), quant_format=QuantFormat.QDQ, per_channel=True,
            weight_type=QuantType.QInt8, activation_type=QuantType.QInt8,
        )  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
        prepared.unlink(missing_ok=True)
    quantised = {"type": "int8", "calibrated": f"{len(sample.images)} images of {sample.source}"}
    kept = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    of_float32 = {"accuracy_float32": kept.get("accuracy", "{}"), "accuracy": "{}"}
    add_metadata(path, onnx, kept | of_float32 | {"quantisation": json.dumps(quantised)})
    return session(path)


def write_accuracy(path: Path, found: Compared) -> None:
    """Write the accuracy that was measured of an int8 file into its metadata."""
    add_metadata(path, needed_for_onnx(), {"accuracy": json.dumps(found.int8)})


@torch.no_grad()
def compare_on_sample(float32: Network, int8: Network, sample: Sample) -> Compared:
    """The agreement of both on a sample, with their accuracies if its labels are known."""
    logits = [torch.cat([network(batch) for batch in sample.images.split(BATCH)]) for network in (float32, int8)]
    same = (logits[0].argmax(1) == logits[1].argmax(1)).double().mean().item()
    known = [] if sample.labels is None else [accuracy(one, sample.labels) for one in logits]
    of_float32, of_int8 = ({key: value.item() for key, value in one.items()} for one in known or ({}, {}))
    return Compared(100 * same, len(sample.images), of_float32, of_int8)


@torch.no_grad()
def compare_on_test_set(student: Student, float32: Network, int8: Network, test: Loader) -> Compared:
    """The agreement of both on the test set, with their accuracies."""
    same = 0

    def both(image: Tensor) -> dict[str, Tensor]:
        nonlocal same
        image = student.sized(image).cpu().contiguous()
        found = {"float32": float32(image), "int8": int8(image)}
        same += int((found["float32"].argmax(1) == found["int8"].argmax(1)).sum())
        return found

    measured = evaluate(both, test)
    count = test.num_per_epoch
    of_float32, of_int8 = ({key: measured[name][key] for key in ("top1", "top5")} for name in ("float32", "int8"))
    return Compared(100 * same / count, count, of_float32, of_int8)
