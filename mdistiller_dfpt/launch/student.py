"""A trained student, ready to predict: from the directory of a run, or from a file of weights with its record."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from yacs.config import CfgNode as CN

from ..config import load_yaml_text
from ..config.effect import deciding, differing, of_earlier_version
from ..config.importable import make_importable
from ..config.keys import KEYS
from ..data import Data
from ..data.normalisation import Normalisation
from ..data.own_loaders import OWN
from ..data.preprocessing import Preprocessing
from ..data.read_image import Fault, read_image
from ..distillers import Method
from ..distillers.choice import situation
from ..errors import CheckpointError, ConfigError, DataError
from ..interop.plugins import load_cfg, sources, sources_of_student
from ..models.build import OWN_NETWORK
from ..models.external.adapt import adapt
from ..models.output import as_output
from ..models.staged import resized
from ..regular_files import read_text
from ..runs.checkpoint import save_weights
from ..runs.continuing import EPOCHS
from ..runs.directory import CONFIG
from ..runs.record import PLACES, Record, as_metadata, check_hash, read_record, record_of
from ..runs.safe_load import EXPORTED
from ..runs.weights import load_into, weights_file
from ..training.evaluate import ranking
from ..training.own_parts import with_own_parts
from ..trusted_files import check_trust, named_code, trust_all, trust_as_before
from .evaluate_checkpoint import load_deployed

Picture = str | Path | Image.Image


class Shape(NamedTuple):
    """A `DataShape` without data, as of a record."""

    num_classes: int
    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    num_train: int


class Prediction(NamedTuple):
    """The most probable classes of an image, the most probable first."""

    image: str  # its path; empty for an image in memory
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class Student(nn.Module):
    """A trained student: `student(images)` returns logits; `predict` takes files or PIL images.

    `record` says what it is; `preprocess` is how an image becomes its input.
    """

    def __init__(self, network: nn.Module, record: Record, source: Path):
        super().__init__()
        self.network, self.record, self.source = network.eval(), record, source

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.record.classes

    @property
    def preprocess(self) -> Preprocessing:
        """An RGB image -> (3, H, W) float32; ConfigError if none is recorded."""
        if self.record.preprocessing is None:
            why = f"the test transform of its dataset {self.record.data} is not a resize and a centre crop"
            if self.record.data == OWN:
                why = "none was given; `data_from_loaders(..., preprocessing=...)` records it"
            raise ConfigError(f"{self.source} records no preprocessing of images: {why}; or prepare them yourself and"
                              " call the network")  # fmt: skip
        return self.record.preprocessing

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def sized(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) of its dataset's loaders, in its own size, DISTILLER.STUDENT_SIZE."""
        return resized(images, self.record.image_shape[1:])

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) as `preprocess` returns them -> logits (B, classes).

        ValueError for images of another size, for which nothing is known of its accuracy; `network` takes them.
        """
        if not isinstance(images, Tensor):
            raise TypeError(
                f"a student takes a batch of images as a tensor, not {type(images).__name__}: predict takes files"
            )
        if images.shape[1:] != (wanted := self.record.image_shape):
            raise ValueError(f"images {tuple(images.shape)}; this student takes (B, {', '.join(map(str, wanted))}):"
                             " its `sized` resizes them, its `network` takes others as they are")  # fmt: skip
        return as_output(self.network(images)).logits

    def predict(
        self, images: Picture | Sequence[Picture], top: int = 5, batch_size: int = 64,
        skip: Callable[[DataError], None] | None = None,
    ) -> list[Prediction]:  # fmt: skip
        """The `top` most probable classes of each image.

        DataError naming a file that is not an image; with `skip`, that gets the error, and the others are predicted.
        """
        return list(self.predictions([images] if isinstance(images, Picture) else images, top, batch_size, skip))

    def predictions(
        self, images: Sequence[Picture], top: int = 5, batch_size: int = 64,
        skip: Callable[[DataError], None] | None = None,
    ) -> Iterator[Prediction]:  # fmt: skip
        """`predict`, batch by batch."""
        for start in range(0, len(images), batch_size):
            some, inputs = [], []
            for image in images[start : start + batch_size]:
                try:
                    inputs.append(self.preprocess(_opened(image)))
                    some.append(image)
                except DataError as e:
                    if skip is None:
                        raise
                    skip(e)
            if not inputs:
                continue
            batch = torch.stack(inputs).to(self.device)
            with torch.inference_mode():
                logits = self(batch)
                best = ranking(logits, top)
                probabilities = logits.softmax(1).gather(1, best)
            for image, values, numbers in zip(some, probabilities.tolist(), best.tolist(), strict=True):
                name = "" if isinstance(image, Image.Image) else str(image)
                yield Prediction(name, tuple(self.classes[n] for n in numbers), tuple(values))


def _opened(image: Picture) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    found = read_image(str(image))
    if isinstance(found, Fault):
        raise DataError(f"{found.path}: cannot be read as an image ({found.reason})")
    return found


def save_student(
    path: str | Path, cfg: CN, method: Method, data: Data, *, epoch: int = 0,
    accuracy: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """Write the student of a program's own loop, with what else the method deploys, as a file for `load_student`.

    Its record says what was trained how: `cfg` as given to `build_distiller`, the classes and the preprocessing of
    `data`, and if given the epoch and the accuracies top1 and top5 on the test set, in per cent.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: the file of a student ends in .safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = method.deployed.state_dict()
    record = record_of(with_own_parts(cfg, method, data), data, epoch, accuracy or {}, sources(cfg))
    save_weights(weights, path, as_metadata(record, weights))


def load_student(
    path: str | Path, device: str = "cpu", network: nn.Module | None = None, *, trust: bool = False
) -> Student:  # fmt: skip
    """The student of a finished run, given its directory or one of its .safetensors files, as on its test set.

    `network`: of a student that a program gave and no config can build, another network of the same kind. `trust`: run
    the code that the file names, as a network `module:function`; else ConfigError unless it is in a trusted folder.
    CheckpointError if there is none, or if the file says nothing of its student.
    """
    with trust_as_before():
        if trust:
            trust_all()
        return _load(Path(path), device, network)


def _load(path: Path, device: str, network: nn.Module | None) -> Student:
    record = read_record(path)
    if record is None and path.suffix in EXPORTED:
        raise CheckpointError(f"{path}: an exported file is run without this package, as in docs/use_a_student.md; give"
                              " the directory of the run, or its student.safetensors")  # fmt: skip
    if record is None:
        raise CheckpointError(f"{path}: has no record of a student (classes, preprocessing): it is no file of a run, or"
                              " one of an earlier version; `eval -m NETWORK -c FILE` evaluates it")  # fmt: skip
    check_hash(path, record)
    if (network is not None) != (is_own := record.student.startswith(OWN_NETWORK)):
        what = "is a program's: give it as `network`" if is_own else "is built by its name: leave out `network`"
        raise ConfigError(f"{path}: its network {record.student} {what}")
    if network is not None:
        own = adapt(network, record.image_shape[1])
        load_into(own, path, f"{record.student} with {len(record.classes)} classes")
        return Student(own, record, path).to(device)
    images = record.preprocessing
    normalisation = Normalisation((0.0,) * 3, (1.0,) * 3) if images is None else Normalisation(images.mean, images.std)
    shape = Shape(len(record.classes), record.image_shape, normalisation, record.num_train)
    cfg = config_of_student(path, record)
    _check_code(path, record, cfg)
    return Student(load_deployed(cfg, path, shape), record, path).to(device)


def _check_code(path: Path, record: Record, cfg: CN) -> None:
    """CheckpointError if the user's code of its network is not that of its run: it may compute something else."""
    if not record.code:  # none of the user's, or a record of an earlier version
        return

    # Among more files of a run, one may have been named by its folder too
    def then(name: str, sha256: str) -> str:
        named = [value for other, value in record.code.items() if Path(other).name == Path(name).name]
        return sha256 if sha256 in named else record.code.get(name) or next(iter(named), "unknown")

    now = sources_of_student(cfg)
    if changed := sorted(name for name, sha256 in now.items() if then(name, sha256) != sha256):
        before = ", ".join(f"{name} had SHA-256 {then(name, now[name])[:12]}" for name in changed)
        raise CheckpointError(f"{path}: the code of its network has changed since it was trained ({before}): put that"
                              f" version back; `eval -m {record.student} -c {weights_file(path)}` evaluates the weights"
                              " with the present one")  # fmt: skip


def _check_config(beside: Path, cfg: CN, of_record: Mapping[str, Any], file: Path) -> None:
    """CheckpointError if the config beside a file decides something else than that in its record.

    `cfg`: the first of these, with what is overridden. A run may have gone on for more epochs.
    """
    values = load_yaml_text(read_text(beside))
    if "_BASE_" in values:  # written by hand
        return
    now, then, here = of_earlier_version(values), of_earlier_version(of_record), situation(cfg, in_files=True)
    one, other = ({
        key: deciding(key, value.get(key, KEYS[key].default)) for key in KEYS
        if KEYS[key].decides and KEYS[key].when.test(here) and key not in (EPOCHS, *PLACES)
    } for value in (now, then))  # fmt: skip
    if found := differing(one, other, "there", "in the file"):
        raise CheckpointError(f"{beside}: damaged, edited, or not of the run of {file.name}: {'; '.join(found)}: bring"
                              " back the config of that run")  # fmt: skip


def config_of_student(path: Path, record: Record, overrides: Sequence[str] = ()) -> CN:
    """The config of a student's run; that beside the file names the user's code, and other files, by their places."""
    file = weights_file(path)
    beside = file.parent / CONFIG
    values = load_yaml_text(record.config)
    if values.get("PLUGINS") and not beside.is_file():
        raise ConfigError(f"{path}: its network or method is in {', '.join(values['PLUGINS'])}: give the directory of"
                          " its run, or put the file beside the config.yaml of that run")  # fmt: skip
    if beside.is_file():
        cfg = load_cfg(beside, overrides)
        _check_config(beside, cfg, values, file)
        return cfg
    check_trust(file, values)
    make_importable((name.partition(":")[0] for _, name in named_code(values)), [file.parent])
    try:
        cfg = load_cfg(None, values)
    except ConfigError as e:
        faults = str(e).replace("overrides: ", "").splitlines()
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise CheckpointError(f"{path}: the config in its record cannot be used ({faults[0]}{more})") from None
    if not overrides:
        return cfg
    if len(overrides) % 2:
        raise ConfigError(f"overrides are pairs KEY VALUE; {overrides[-1]!r} has no value")
    given = zip(overrides[::2], overrides[1::2], strict=True)
    return load_cfg(None, values | {key: load_yaml_text(f"value: {text}")["value"] for key, text in given})
