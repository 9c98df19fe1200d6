"""The weights that a student starts from, if not random ones: of a file, or published for another set of classes."""

from collections.abc import Iterable
from pathlib import Path

from yacs.config import CfgNode as CN

from ..config.policy import NAMED_STARTS, PRETRAINED
from ..data import Data
from ..distillers.choice import choice
from ..distributed import on_first_process
from ..errors import CheckpointError, ConfigError
from ..models import StagedModel, build_model
from ..models.pretrained import pretrained_weights, put_by_hand, timm_weights
from ..runs.directory import existing_runs, is_begun
from ..runs.hashing import file_hash
from ..runs.identity import read_identity
from ..runs.weights import WEIGHTS, class_counts, load_into
from .networks import refuse_other_normalisation, size_of
from .recorded import recorded_normalisation

PUBLISHED_CLASSES = 1000


def check_start(cfg: CN) -> None:
    """ConfigError or CheckpointError if a new run cannot start from DISTILLER.STUDENT_CKPT."""
    given = cfg.DISTILLER.STUDENT_CKPT
    of_teacher = [name for name, cls in choice(cfg).methods.items() if getattr(cls, "starts_from_teacher", False)]
    if given and of_teacher:
        raise ConfigError(f"DISTILLER.STUDENT_CKPT is {given}; with {of_teacher[0]} the student starts from the weights"
                          " of the teacher: remove this key")  # fmt: skip
    if _is_file(given) and not _file_of(given).is_file():
        raise CheckpointError(f"DISTILLER.STUDENT_CKPT is {given}; there is no such file")


def start_of(cfg: CN, run: Path | None = None) -> str | None:
    """What identifies the initial weights of DISTILLER.STUDENT_CKPT; None if they are a function of the seed.

    If the file is gone, that of `run`, or of the newest run of this name that a file began: its checkpoints have the
    weights.
    """
    given = cfg.DISTILLER.STUDENT_CKPT
    if _is_file(given) and not _file_of(given).is_file():
        begun = reversed([*existing_runs(cfg), *([run] if run else [])])
        if recorded := _recorded_start(begun):
            return recorded
    check_start(cfg)
    if _is_file(given):
        return NAMED_STARTS[0] + file_hash(_file_of(given))
    if given and cfg.DISTILLER.STUDENT.startswith("timm/") and (file := put_by_hand(cfg.DISTILLER.STUDENT)):
        return f"{given}, {NAMED_STARTS[0]}{file_hash(file)}"  # nobody else checks what it holds
    return given or None


def _is_file(given: str | None) -> bool:
    return bool(given) and str(given).partition(":")[0] != PRETRAINED


def _file_of(given: str) -> Path:
    return Path(given) / WEIGHTS if Path(given).is_dir() else Path(given)


def _recorded_start(runs: Iterable[Path]) -> str | None:
    """The initial weights of the first of these runs that has a checkpoint and started from a file."""
    for run in runs:
        identity = read_identity(run)
        start = "" if identity is None else identity.get("start", "")
        if start.startswith(NAMED_STARTS[0]) and is_begun(run):
            return start
    return None


def start_from(cfg: CN, student: StagedModel, data: Data) -> None:
    """Load DISTILLER.STUDENT_CKPT into a new student; layers for other classes than the data's stay as they are.

    ConfigError if they were trained with images of another normalisation, CheckpointError if they are of another
    network.
    """
    check_start(cfg)
    given, name = cfg.DISTILLER.STUDENT_CKPT, cfg.DISTILLER.STUDENT
    if not given:
        return
    found = _of_file(cfg, student, data) if _is_file(given) else (_published(cfg, data), PUBLISHED_CLASSES)
    if found is None:
        return
    other, classes = found
    own, its = student.state_dict(), other.state_dict()
    fitting = {key: value for key, value in its.items() if key in own and own[key].shape == value.shape}
    student.load_state_dict({**own, **fitting})
    if anew := sorted(own.keys() - fitting.keys()):
        print(f"note: {name} starts from {given}, which has {classes} classes; new for {data.num_classes}:"
              f" {', '.join(anew)}", flush=True)  # fmt: skip


def _of_file(cfg: CN, student: StagedModel, data: Data) -> tuple[StagedModel, int] | None:
    """The network of the file and its number of classes; None if these are the data's, and the student has it."""
    given, name = Path(cfg.DISTILLER.STUDENT_CKPT), cfg.DISTILLER.STUDENT
    is_set = cfg.DISTILLER.STUDENT_MEAN or cfg.DISTILLER.STUDENT_STD
    if not is_set and (there := recorded_normalisation(given)):
        what = f"DISTILLER.STUDENT_CKPT is {given}, which was trained"
        refuse_other_normalisation(cfg, "student", name, data.normalisation, there, what)
    try:
        load_into(student, given, f"{name} with {data.num_classes} classes")
    except CheckpointError as fault:
        for count in class_counts(student, given):
            other = _with_classes(cfg, data, count)
            try:
                load_into(other, given, f"{name} with {count} classes")
            except CheckpointError:
                continue
            return other, count
        raise fault
    return None


def _published(cfg: CN, data: Data) -> StagedModel:
    """The student with the weights that timm or torchvision publishes."""
    name, tag = cfg.DISTILLER.STUDENT, cfg.DISTILLER.STUDENT_CKPT.partition(":")[2]
    size, download = size_of(cfg, "student") or data.image_shape[1], cfg.DATASET.DOWNLOAD
    other = _with_classes(cfg, data, PUBLISHED_CLASSES)
    if name.startswith("timm/"):
        other.load_state_dict(on_first_process(lambda: timm_weights(name, size, download)))
    else:
        key, family = "DISTILLER.STUDENT_CKPT", cfg.MODEL.FAMILY
        load_into(other, on_first_process(lambda: pretrained_weights(name, family, tag, download, key)), name)
    return other


def fetch_start(cfg: CN, data: Data) -> None:
    """Published weights of the student, downloaded if need be; CheckpointError if they are not to be had."""
    if (given := cfg.DISTILLER.STUDENT_CKPT) and not _is_file(given):
        _published(cfg, data)


def _with_classes(cfg: CN, data: Data, count: int) -> StagedModel:
    d, size = cfg.DISTILLER, size_of(cfg, "student") or data.image_shape[1]
    return build_model(d.STUDENT, cfg.MODEL.FAMILY, count, stages=d.STUDENT_STAGES, image_size=size)
