"""Defaults of the literature for values that a config leaves open, and mdistiller keys that have no effect here."""

from yacs.config import CfgNode as CN

from .keys import default_cfg

NO_EFFECT = {
    "SOLVER.TRAINER": ("crd", "one loop serves all methods"),
    "LOG.TENSORBOARD_FREQ": (None, "every epoch is written"),
}
"""Keys of mdistiller's files that are accepted without effect: the value concerned (None: any), and the reason."""


def without_effect(cfg: CN) -> list[str]:
    """One line for each key that was set but has no effect."""
    lines = []
    for key, (meant, why) in NO_EFFECT.items():
        section, name = key.split(".")
        value = cfg[section][name]
        if value != default_cfg()[section][name] and meant in (None, value):
            lines.append(f"{key} {value} has no effect here: {why}")
    return lines


def student_lr(student: str) -> float:
    """The literature's learning rate for a student at batch 64 (RepDistiller's train_student.py)."""
    return 0.01 if student.startswith(("MobileNet", "Shuffle")) else 0.05


PRETRAINED = "pretrained"
"""Value of DISTILLER.TEACHER_CKPT for torchvision's published weights; `pretrained:TAG` selects one of several."""

PUBLISHED_SIZE = 224
"""Default height and width of images for networks designed for large images; DATASET.SIZE overrides it."""


def data_family(data: str) -> str:
    """The family of networks that the literature trains on a dataset."""
    return {"imagenet": "imagenet", "tiny_imagenet": "imagenet", "folder": "imagenet", "cub200": "cub200"}.get(
        data, "cifar"
    )
