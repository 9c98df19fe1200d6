"""The weights that a student starts from, if not random ones: of a file, or published for another set of classes."""

from hashlib import file_digest
from pathlib import Path

from yacs.config import CfgNode as CN

from ..config.policy import PRETRAINED
from ..data import Data
from ..distillers.choice import choice
from ..distributed import on_first_process
from ..errors import CheckpointError, ConfigError
from ..models import StagedModel, build_model
from ..models.pretrained import pretrained_weights, timm_weights
from ..runs.weights import WEIGHTS, load_into

PUBLISHED_CLASSES = 1000


def start_of(cfg: CN) -> str | None:
    """What identifies the initial weights of DISTILLER.STUDENT_CKPT; None if they are a function of the seed."""
    given = cfg.DISTILLER.STUDENT_CKPT
    of_teacher = [name for name, cls in choice(cfg).methods.items() if getattr(cls, "starts_from_teacher", False)]
    if given and of_teacher:
        raise ConfigError(f"DISTILLER.STUDENT_CKPT is {given}; with {of_teacher[0]} the student starts from the weights"
                          " of the teacher: remove this key")  # fmt: skip
    if not given or given.partition(":")[0] == PRETRAINED:
        return given or None
    path = Path(given) / WEIGHTS if Path(given).is_dir() else Path(given)
    if not path.is_file():
        raise CheckpointError(f"DISTILLER.STUDENT_CKPT is {given}; there is no such file")
    with open(path, "rb") as f:
        return f"file {file_digest(f, 'sha256').hexdigest()}"


def start_from(cfg: CN, student: StagedModel, data: Data) -> None:
    """Load DISTILLER.STUDENT_CKPT into a new student; layers for other classes than the data's stay as they are."""
    given, name = cfg.DISTILLER.STUDENT_CKPT, cfg.DISTILLER.STUDENT
    if not given:
        return
    word, _, tag = given.partition(":")
    if word != PRETRAINED:
        try:
            return load_into(student, Path(given), f"{name} with {data.num_classes} classes")
        except CheckpointError as fault:
            first = fault
    stages, size = cfg.DISTILLER.STUDENT_STAGES, data.image_shape[1]
    other = build_model(name, cfg.MODEL.FAMILY, PUBLISHED_CLASSES, stages=stages, image_size=size)
    if word != PRETRAINED:
        try:
            load_into(other, Path(given), f"{name} with {PUBLISHED_CLASSES} classes")
        except CheckpointError:
            raise first from None
    elif name.startswith("timm/"):
        other.load_state_dict(on_first_process(lambda: timm_weights(name, size, cfg.DATASET.DOWNLOAD)))
    else:
        path = on_first_process(lambda: pretrained_weights(name, cfg.MODEL.FAMILY, tag, cfg.DATASET.DOWNLOAD))
        load_into(other, path, name)
    own, published = student.state_dict(), other.state_dict()
    fitting = {key: value for key, value in published.items() if key in own and own[key].shape == value.shape}
    student.load_state_dict({**own, **fitting})
    if anew := sorted(own.keys() - fitting.keys()):
        print(f"note: {name} starts from {given}; new: {', '.join(anew)}", flush=True)
