"""A file of weights that says nothing of its student: the network is named, the classes are the folders of images."""

from pathlib import Path

from yacs.config import CfgNode as CN

from ..data.build import recipe_of
from ..data.class_folders import class_folders, list_files
from ..data.image_files import FileLoader, FileRecipe, imagenet_recipe
from ..data.normalisation import Normalisation
from ..data.sets.folder import SIZE
from ..distributed import pick_device
from ..errors import ConfigError
from ..runs.record import Record, read_record
from .build import load_network
from .student import Shape, Student


def unrecorded_student(cfg: CN, network: str, weights: Path, folder: Path) -> Student:
    """These weights in that network, for the classes whose folders are in `folder`, in alphabetical order.

    Images are prepared as DATASET in `cfg` says of class folders: by SIZE, INTERPOLATION, UPRIGHT, MEAN and STD.
    ConfigError if the file says itself what it is, CheckpointError if it is of another network or number of classes.
    """
    if read_record(weights) is not None:
        raise ConfigError(f"{weights} says itself which student it is: leave out -m and -c, and give it first")
    classes = class_folders(folder)
    recipe = recipe_of(cfg, imagenet_recipe(cfg.DATASET.SIZE or SIZE))
    assert isinstance(recipe, FileRecipe)
    preprocessing = FileLoader(list_files(folder, classes), recipe, 1, train=False).preprocessing()
    assert preprocessing is not None, "class folders are resized and cropped"
    shape = Shape(len(classes), (3, *preprocessing.size), Normalisation(preprocessing.mean, preprocessing.std), 0)
    built = load_network(cfg, "other", weights, shape, network)
    record = Record(
        config="", classes=tuple(classes), num_train=0, image_shape=shape.image_shape, preprocessing=preprocessing,
        method="", student=network, teacher="", data=cfg.DATASET.TYPE, epoch=0, accuracy={}, version="",
    )  # fmt: skip
    return Student(built, record, weights).to(pick_device(cfg.EXPERIMENT.DEVICE))
