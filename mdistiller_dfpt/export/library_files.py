"""Files of a student of timm or torchvision, as that library reads them, without this package."""

import json
from pathlib import Path
from typing import Any

from torch import nn

from ..atomic import write_json
from ..data.normalisation import Normalisation
from ..data.preprocessing import Preprocessing
from ..errors import ConfigError
from ..launch.networks import normalisation_of
from ..launch.student import Student, config_of_student
from ..models.external.adapt import AdaptedModel
from ..models.external.names import made_by_library, timm_arguments
from ..regular_files import read_tensors
from ..runs.checkpoint import save_weights
from ..runs.record import as_metadata
from ..runs.weights import HUB_CONFIG, HUB_WEIGHTS
from .verify import Network


def write_timm(student: Student, folder: Path) -> Network:
    """A folder with model.safetensors and config.json, which timm.create_model("local-dir:FOLDER") loads.

    Its images are normalised as timm's network takes them (`own_preprocessing`).
    """
    adapted, arguments = _of_library(student, "timm")
    folder.mkdir()
    weights = adapted.network.state_dict()
    save_weights(weights, folder / HUB_WEIGHTS, as_metadata(student.record, weights))
    config = timm_config(student, adapted.network, arguments)
    write_json(folder / HUB_CONFIG, config)
    images = student.preprocess
    if images.crop not in (None, images.size):
        height, width = images.size
        print(f"note: {folder.name}/{HUB_CONFIG}: timm resizes an image once, and this student's are resized again"
              f" after their crop, to {height}x{width}: by timm's own transform its accuracy is not that of its run;"
              " student.preprocess of load_student prepares them as in the run", flush=True)  # fmt: skip
    return _loaded(student, adapted, folder / HUB_WEIGHTS)


def write_torchvision(student: Student, path: Path) -> Network:
    """A state_dict for torchvision.models.get_model, whose name and arguments are in the metadata of the file."""
    adapted, arguments = _of_library(student, "torchvision")
    more = {
        "torchvision": json.dumps({"name": student.record.student.partition("/")[2], **arguments}),
        "preprocessing": json.dumps(own_preprocessing(student).as_json()),
    }
    weights = adapted.network.state_dict()
    save_weights(weights, path, as_metadata(student.record, weights) | more)
    return _loaded(student, adapted, path)


def own_preprocessing(student: Student) -> Preprocessing:
    """How an image becomes the input of the library's network, whose normalisation may not be the dataset's."""
    images, record = student.preprocess, student.record
    cfg = config_of_student(student.source, record)
    own = normalisation_of(cfg, "student", record.student, Normalisation(images.mean, images.std))
    return images._replace(mean=own.mean, std=own.std)


def timm_config(student: Student, network: nn.Module, arguments: dict[str, Any]) -> dict[str, Any]:
    """config.json as timm's own exports have it; `arguments`: with which timm makes the network."""
    own, record = own_preprocessing(student), student.record
    resize, crop = own.resize or own.size, own.crop or own.resize or own.size
    published: dict[str, Any] = getattr(network, "pretrained_cfg", {})
    return {
        "architecture": timm_arguments(record.student.partition("/")[2])[0],
        "num_classes": len(record.classes),
        "num_features": getattr(network, "num_features", None),
        "label_names": list(record.classes),
        "model_args": {key: value for key, value in arguments.items() if key != "num_classes"},
        "pretrained_cfg": {
            "input_size": [3, *own.size],
            "fixed_input_size": "img_size" in arguments,
            "interpolation": own.interpolation,
            "crop_pct": round(min(crop) / min(resize), 6),
            "crop_mode": "center" if len(resize) == 1 else "squash",
            "mean": list(own.mean),
            "std": list(own.std),
            "num_classes": len(record.classes),
            **{key: published[key] for key in ("first_conv", "classifier") if key in published},
        },
    }


def _of_library(student: Student, library: str) -> tuple[AdaptedModel, dict[str, Any]]:
    """The student's adapted network, and the arguments with which its library makes it."""
    record, network = student.record, student.network
    if not record.student.startswith(f"{library}/"):
        raise ConfigError(f"--to {library} is for networks of {library}; the student is {record.student}:"
                          " --to safetensors, onnx, torch-export or hub-folder")  # fmt: skip
    if not isinstance(network, AdaptedModel):
        raise ConfigError(f"--to {library}: the student of {record.method} predicts with modules beside those of"
                          f" {record.student}: --to safetensors, onnx, torch-export or hub-folder")  # fmt: skip
    return network, made_by_library(record.student, len(record.classes), record.image_shape[1])[1]


def _loaded(student: Student, adapted: AdaptedModel, path: Path) -> Network:
    """The library's own network with the weights of a file, given images as the student takes them."""
    record = student.record
    network = made_by_library(record.student, len(record.classes), record.image_shape[1])[0]
    network.load_state_dict(read_tensors(path), strict=True)
    network.eval()
    return lambda images: network(adapted.normalised(images))
