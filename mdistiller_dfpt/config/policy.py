"""What the literature does where a config does not say, and keys of mdistiller's that change nothing here."""

from yacs.config import CfgNode as CN

from .keys import default_cfg

NO_EFFECT = {
    "SOLVER.TRAINER": ("crd", "one loop serves all methods"),
    "LOG.TENSORBOARD_FREQ": (None, "every epoch is written"),
}
"""Keys of mdistiller's files that are accepted and change nothing here: the value meant (None: any), and why."""


def without_effect(cfg: CN) -> list[str]:
    """A line for each key that somebody set and that has no effect."""
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
"""DISTILLER.TEACHER_CKPT for the weights that torchvision publishes; `pretrained:TAG` for one of several."""

PUBLISHED_SIZE = 224
"""Height and width of the images that networks for large images are built for, unless DATASET.SIZE says another."""


def data_family(data: str) -> str:
    """The family of networks that the literature trains on a data set."""
    return {"imagenet": "imagenet", "tiny_imagenet": "imagenet", "folder": "imagenet", "cub200": "cub200"}.get(
        data, "cifar"
    )
