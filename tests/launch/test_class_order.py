"""A network that was trained on classes in another order is refused wherever its logits would be taken for others."""

import pytest
import torch
from safetensors.torch import save_file

from mdistiller_dfpt import load_cfg, run
from mdistiller_dfpt.commands import evaluate
from mdistiller_dfpt.data import build_data
from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.runs.record import as_metadata, record_of

NAMED = ("cat", "cow", "dog", "owl")


def folder_cfg(folder, *words):
    """Four classes called NAMED, and a student."""
    if not (folder / "data").exists():
        write_data_set("folder", folder / "data")
        for split in ("train", "val"):
            for place, name in zip(sorted((folder / "data" / split).iterdir()), NAMED, strict=True):
                place.rename(place.with_name(name))
    return load_cfg(None, ["DATASET.TYPE", "folder", "DATASET.ROOT", str(folder / "data"), "DATASET.SIZE", "32",
                           "DATASET.NUM_WORKERS", "0", "SOLVER.BATCH_SIZE", "4", "EXPERIMENT.DEVICE", "cpu",
                           "LOG.PREFIX", str(folder / "out"), "LOG.TENSORBOARD", "False", "SOLVER.EPOCHS", "1",
                           "SOLVER.LR_DECAY_STAGES", "[]", "MODEL.FAMILY", "cifar", "DISTILLER.STUDENT", "resnet8",
                           *words])  # fmt: skip


def teacher(folder, classes):
    """A file of weights of a student that was trained on these classes."""
    cfg = folder_cfg(folder)
    torch.manual_seed(0)
    weights = build_model("resnet8", num_classes=4).state_dict()
    record = record_of(cfg, build_data(cfg), 1, {})._replace(classes=classes)
    save_file(weights, folder / "t.safetensors", as_metadata(record, weights))
    return str(folder / "t.safetensors")


def taught(folder, classes):
    return run(folder_cfg(folder, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet8", "DISTILLER.TEACHER_CKPT",
                          teacher(folder, classes)))  # fmt: skip


def test_another_order_is_refused(tmp_path, capsys):
    swapped = ("cow", "cat", "dog", "owl")
    said = "these classes in another order, class 0 is 'cow' there and 'cat' here: order them as there"
    with pytest.raises(ConfigError, match=f"DISTILLER.TEACHER_CKPT is .*t.safetensors, which was trained with {said}"):
        taught(tmp_path, swapped)
    words = ["DATASET.ROOT", str(tmp_path / "data"), "DATASET.SIZE", "32", "MODEL.FAMILY", "cifar",
             "SOLVER.BATCH_SIZE", "4"]  # fmt: skip
    path = teacher(tmp_path, swapped)
    assert evaluate.main(["--cfg", "digits/vanilla/res8", "-c", path, "DATASET.TYPE", "folder", *words]) == 2
    assert f"{path} was trained with {said}" in capsys.readouterr().err


@pytest.mark.parametrize(("classes", "said"), [
    (NAMED, ""), (("0", "1", "2", "3"), ""),
    (("cat", "cow", "hen", "owl"), "with classes of other names, class 2 is 'hen' there and 'dog' here"),
])  # fmt: skip
def test_other_names_are_said_and_numbers_are_no_names(classes, said, tmp_path, capsys):
    taught(tmp_path, classes)
    err = capsys.readouterr().err
    assert said in err
    assert ("classes of other names" in err) == bool(said)
