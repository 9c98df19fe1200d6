"""Judge a trained student: by its run's test set or by any class folders, with its cost on this machine."""

import base64
import io
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm
from yacs.config import CfgNode as CN

from ..checksum import write_checked_json
from ..config import load_yaml_text
from ..data import Data, build_data
from ..data.class_folders import class_folders, list_files
from ..data.loader import Loader
from ..data.read_image import Fault, read_image
from ..distillers.build import AMP_DTYPES
from ..environment import machine_of
from ..errors import CheckpointError, ConfigError, DataError
from ..models.complexity import macs_per_image
from ..models.output import as_output, autocast
from ..runs.record import read_record
from ..runs.weights import weights_file, weights_folder
from ..training.speed import fast_settings
from .build import Trained
from .evaluate_checkpoint import other_than_in_its_run, refuse_other_images
from .metrics import agreement, measures
from .networks import name_of, normalisation_of
from .student import Student, config_of_student
from .trained import trained_networks

BATCH, REPEATS = 64, 7
EVALUATION = "evaluation.json"  # in the directory of a run


class Tested(NamedTuple):
    """The logits (N, C) of a student, and of its teacher if asked for, the labels (N,), and what was tested on."""

    logits: Tensor
    labels: Tensor
    on: str
    teacher: Tensor | None
    names: Sequence[str]  # of the images: paths, or their numbers in the test set
    picture: Callable[[int], Image.Image | None]  # of the image with this position
    other_data: str = ""  # how the dataset differs from that of the student's run, if it does


Network = Callable[[Tensor], Tensor]


def data_of_student(student: Student, overrides: Sequence[str] = ()) -> tuple[CN, Data]:
    """The config of the student's run, and its data.

    `overrides`: of the config, such as DATASET.ROOT. ConfigError if the data have other classes than the student's, or
    are normalised otherwise.
    """
    cfg = config_of_student(student.source, student.record, overrides)
    data = build_data(cfg, student.device)
    if data.classes != student.classes:
        raise ConfigError(f"{student.source} tells {_few(student.classes)} apart; {cfg.DATASET.TYPE} in"
                          f" {cfg.DATASET.ROOT} has {_few(data.classes)}")  # fmt: skip
    refuse_other_images(student.source, normalisation_of(cfg, "student", name_of(cfg, "student"), data.normalisation))
    return cfg, data


def on_its_test_set(student: Student, cfg: CN, data: Data, with_teacher: bool = False) -> Tested:
    """The logits on the test set of the student's run, in the precision of its run.

    `cfg` and `data` are those of `data_of_student`. What the run has measured to be fast is kept.
    """
    teacher = _teacher_of(student, cfg, data) if with_teacher else None
    cfg = fast_settings(cfg, student.network, None, data, before=weights_folder(student.source), trains=False)
    return on_data(student, cfg, data, teacher)._replace(other_data=other_than_in_its_run(student.source, data))


def _teacher_of(student: Student, cfg: CN, data: Data) -> nn.Module:
    """The teacher of a student's run; CheckpointError with what to add to the command if it is not there any more."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DISTILLER.TEACHER_AUTO_TRAIN = False
    cfg.freeze()
    try:
        trained = trained_networks(cfg, data, _refuse_to_train)
    except (ConfigError, CheckpointError) as e:
        reason = re.split(r": run `|; `|\n", str(e))[0]
        raise CheckpointError(f"--with-teacher: the teacher of this run is not found ({reason}): add"
                              " `DISTILLER.TEACHER_CKPT PATH` to your command") from None  # fmt: skip
    if not trained:
        raise ConfigError(f"--with-teacher: no trained network teaches in the run of {student.source}")
    return trained[0].network


def on_data(student: Student, cfg: CN, data: Data, teacher: nn.Module | None = None) -> Tested:
    """The logits of a student and of a teacher, if there is one, on the test set, in the precision of `cfg`."""
    networks: list[tuple[Network, Any]] = [
        (lambda images: student(student.sized(images)), AMP_DTYPES[cfg.SOLVER.AMP_STUDENT or cfg.SOLVER.AMP])
    ]
    if teacher is not None:
        networks.append((_logits_of(teacher.to(student.device).eval()), AMP_DTYPES[cfg.SOLVER.AMP]))
    found: list[list[Tensor]] = [[] for _ in networks]
    labels, indices = [], []
    with torch.inference_mode():
        for batch in tqdm(data.test.epoch(), total=len(data.test), unit="batch", leave=False, disable=None):
            labels.append(batch.target.cpu())
            indices.append(batch.index.cpu())
            for logits, (network, dtype) in zip(found, networks, strict=True):
                with autocast(dtype, batch.image):
                    logits.append(network(batch.image).float().cpu())
    each = [torch.cat(logits) for logits in found]
    on = f"the test set of {cfg.DATASET.TYPE} {data.folder}".rstrip()
    on += "" if networks[0][1] is None else ", in bfloat16"
    numbers = torch.cat(indices).tolist()
    pictures = partial(_picture, data.test, numbers)
    names = [data.test.name(i) for i in numbers]
    return Tested(each[0], torch.cat(labels), on, None if teacher is None else each[1], names, pictures)


def on_folders(student: Student, folder: Path) -> Tested:
    """The logits, in float32, on images in class folders, whose names are classes of the student, or some of them."""
    names = class_folders(folder)
    if unknown := [name for name in names if name not in student.classes]:
        inside = next((n for n in unknown if any((folder / n / one).is_dir() for one in student.classes)), None)
        raise DataError(f"{folder}: no classes of the student: {_few(unknown)}; "
                        + (f"they are in --images {folder / inside}" if inside else
                           f"name the folders as its classes: {_few(student.classes)}"))  # fmt: skip
    files = list_files(folder, names)
    numbers = torch.tensor([student.classes.index(name) for name in names])
    count = -(-len(files.paths) // BATCH)
    with torch.inference_mode():
        batches = tqdm(_batches(student, files.paths), total=count, unit="batch", leave=False, disable=None)
        logits = [student(batch).cpu() for batch in batches]
    solver = load_yaml_text(student.record.config).get("SOLVER", {})
    other = (solver.get("AMP_STUDENT") or solver.get("AMP", "none")) != "none"
    on = f"{folder}" + (", in float32; its run evaluates in bfloat16" if other else "")
    return Tested(torch.cat(logits), numbers[files.labels], on, None, files.paths, partial(_opened, files.paths))


def _picture(loader: Loader, numbers: Sequence[int], position: int) -> Image.Image | None:
    return loader.picture(numbers[position])


def _opened(paths: Sequence[str], position: int) -> Image.Image | None:
    image = read_image(paths[position])
    return None if isinstance(image, Fault) else image


def _batches(student: Student, paths: Sequence[str]) -> Iterator[Tensor]:
    for start in range(0, len(paths), BATCH):
        images = []
        for path in paths[start : start + BATCH]:
            image = read_image(path)
            if isinstance(image, Fault):
                raise DataError(f"{image.path}: cannot be read as an image ({image.reason}); replace or remove it")
            images.append(student.preprocess(image))
        yield torch.stack(images).to(student.device)


def judgement(student: Student, tested: Tested, costs: bool = True) -> dict[str, Any]:
    """Everything that is measured, as plain values."""
    found = measures(tested.logits, tested.labels, student.classes)
    if tested.teacher is not None:
        found["teacher"] = agreement(tested.logits, tested.teacher)
    for one in found["worst"]:
        position = one.pop("index")
        one["image"] = tested.names[position]
        if (picture := tested.picture(position)) is not None:
            one["thumbnail"] = _thumbnail(picture)
    record = student.record
    what = {"student": record.student, "method": record.method, "file": str(student.source), "on": tested.on}
    what |= {"other_data": tested.other_data} if tested.other_data else {}
    return what | found | (cost(student) if costs else {})


def _thumbnail(picture: Image.Image) -> str:
    """A picture of at most 64 x 64 pixels as a data URL."""
    picture.thumbnail((64, 64))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def judge_run(cfg: CN, data: Data, folder: Path, deployed: nn.Module, teacher: nn.Module | None) -> None:
    """Write what is measured of the student of a finished run to a file beside its results."""
    record = read_record(folder)
    assert record is not None
    student = Student(deployed, record, folder)
    found = judgement(student, on_data(student, cfg, data, teacher))
    write_checked_json(folder / EVALUATION, found | {"sha256": record.sha256})


def cost(student: Student) -> dict[str, Any]:
    """Parameters, MACs per image, bytes of the file, and median milliseconds for a batch of 1 and of 64, in float32.

    The times are of this machine, which is named beside them.
    """
    image = torch.zeros(1, *student.record.image_shape, device=student.device)
    return {
        "parameters": sum(p.numel() for p in student.parameters()),
        "macs": macs_per_image(student, student.record.image_shape),
        "bytes": weights_file(student.source).stat().st_size,
        "milliseconds": {str(size): _milliseconds(student, image.expand(size, -1, -1, -1)) for size in (1, BATCH)},
        **machine_of(student.device),
    }


def _milliseconds(student: Student, images: Tensor) -> float:
    images = images.contiguous()
    times = []
    with torch.inference_mode():
        for _ in range(REPEATS + 2):  # the first two warm up
            start = time.perf_counter()
            student(images)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[2:])


def _logits_of(network: nn.Module) -> Network:
    return lambda images: as_output(network(images)).logits


def _refuse_to_train(cfg: CN, data: Data, trained: Sequence[Trained], resume: Any) -> None:
    raise CheckpointError(f"the network {cfg.DISTILLER.STUDENT} that teaches in this run is not trained")


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
