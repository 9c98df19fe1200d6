"""Defaults of the literature for values that a config leaves open."""


def student_lr(student: str) -> float:
    """The literature's learning rate for a student at batch 64 (RepDistiller's train_student.py)."""
    return 0.01 if student.startswith(("MobileNet", "Shuffle")) else 0.05


PRETRAINED = "pretrained"
"""Value of DISTILLER.TEACHER_CKPT for torchvision's published weights; `pretrained:TAG` selects one of several."""

NAMED_STARTS = ("file ", PRETRAINED)
"""How a run's record of initial weights begins that a config names: `file` and its hash, or published ones."""

OWN_IMAGES = "folder"
"""DATASET.TYPE of images of one's own, which have no networks of their own."""

WITH_TEST_SET = ("cifar100", "cub200", "digits", "imagenet", "tiny_imagenet")
"""DATASET.TYPE of published data, which have a test set of their own."""

NOT_SET = ("null", "None")
"""As text, on a command line, or in Python's way in a yaml file: that a key which needs no value has none."""

PUBLISHED_SIZE = 224
"""Default height and width of images for networks designed for large images; DATASET.SIZE overrides it."""


def published_size(data: str, recipe: str) -> int:
    """Height and width of the images of a dataset (DATASET.TYPE) by a recipe (DATASET.RECIPE), without DATASET.SIZE."""
    small = {"cifar100": 32, "digits": 16, "tiny_imagenet": 64}
    return PUBLISHED_SIZE if recipe == "imagenet" else small.get(data, PUBLISHED_SIZE)


def data_family(data: str) -> str:
    """The family of networks that the literature trains on a dataset."""
    return {"imagenet": "imagenet", "tiny_imagenet": "tiny_imagenet", "folder": "imagenet", "cub200": "cub200"}.get(
        data, "cifar"
    )
