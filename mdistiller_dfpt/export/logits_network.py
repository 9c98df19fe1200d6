"""The network that is exported: a student's, with its logits as the only output, and what is said of it in a file."""

import json

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..data.own_loaders import OWN
from ..data.preprocessing import Preprocessing
from ..errors import ConfigError
from ..launch.student import Student
from ..models.output import as_output
from ..runs.record import KEY, Record, as_json

INPUT, OUTPUT = "images", "logits"


class LogitsNetwork(nn.Module):
    """Images (B, 3, H, W) as `student.preprocess` returns them -> logits (B, classes), float32; no other output."""

    def __init__(self, student: Student):
        super().__init__()
        self.network = student.network

    def forward(self, images: Tensor) -> Tensor:
        return as_output(self.network(images)).logits


def program_of(student: Student) -> ExportedProgram:
    """The student as a graph of PyTorch's operators, for any number of images of its size.

    ConfigError if its code cannot be captured, as where it depends on the values of a tensor.
    """
    images = torch.zeros(2, *student.record.image_shape)  # a dimension of 1 would be taken as fixed
    try:
        with torch.no_grad():
            return torch.export.export(LogitsNetwork(student).eval(), (images,), dynamic_shapes=({0: Dim("batch")},))
    except Exception as e:  # the exporter has many types of its own
        raise ConfigError(f"{student.record.student} cannot be exported by torch.export ({_first_line(e)}):"
                          " --to safetensors or hub-folder keeps its weights") from None  # fmt: skip


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def metadata_of(student: Student) -> dict[str, str]:
    """What a file with its network says of it: classes, preprocessing, accuracy, and its record."""
    record = student.record
    return {
        "description": f"{record.student}, trained by mdistiller_dfpt on {data_in_words(record)}, method"
                       f" {record.method}; epoch {record.epoch}",
        INPUT: input_in_words(student),
        OUTPUT: f"(batch, {len(record.classes)}) float32, one for each class, before the softmax",
        "classes": json.dumps(record.classes),
        "preprocessing": json.dumps(as_json(record)["preprocessing"]),
        "accuracy": json.dumps(dict(record.accuracy)),
        KEY: json.dumps(as_json(record)),
    }  # fmt: skip


def input_in_words(student: Student) -> str:
    """The input of the network, and how an image becomes it."""
    _, height, width = student.record.image_shape
    steps = preprocessing_in_words(student.record.preprocessing)
    return f"(batch, 3, {height}, {width}) float32, as `student.preprocess` returns images: {steps}"


def data_in_words(record: Record) -> str:
    """What a student was trained on; images of one's own are known by the name of their folder."""
    if record.folder:
        return f"the folder {record.folder}"
    return {"folder": "a folder of images", OWN: "images of a program"}.get(record.data, record.data)


def preprocessing_in_words(p: Preprocessing | None) -> str:
    """The steps from an image to the input of a network."""
    if p is None:
        return "the test transform of its dataset, which is one of its own"
    steps = ["an RGB image", *(["turned as its EXIF data say"] if p.upright else [])]
    if p.resize is not None:
        how = f"the shorter side {p.resize[0]}" if len(p.resize) == 1 else f"{p.resize[0]}x{p.resize[1]}"
        steps.append(f"resized to {how} (height x width, {p.interpolation}, antialiased)")
    if p.crop is not None:
        steps.append(f"its centre of {p.crop[0]}x{p.crop[1]}")
    steps.append(f"(image / 255 - mean) / std with mean {_numbers(p.mean)} and std {_numbers(p.std)}")
    if p.size != (p.crop or p.resize):
        steps.append(f"resized to {p.size[0]}x{p.size[1]} (bilinear, antialiased)")
    return ", ".join(steps)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
