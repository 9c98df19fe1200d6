"""Students of timm and torchvision, as those libraries load what was exported."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import mdistiller_dfpt as md
from mdistiller_dfpt.data.preprocessing import Preprocessing
from mdistiller_dfpt.export.library_files import write_timm

from ..launch.test_student import trained
from .test_export import exported


def library_run(folder, name, *words):
    """A run of one epoch with a network of another library, whose normalisation is not the digits'."""
    return trained(folder, "DISTILLER.STUDENT", name, "DATASET.SIZE", "32", "SOLVER.EPOCHS", "1", *words)[1]


def test_a_student_of_timm_is_loaded_by_timm(tmp_path, capsys):
    timm = pytest.importorskip("timm")
    run = library_run(tmp_path, "timm/vit_tiny_patch16_224(depth=1, embed_dim=16, num_heads=2)")
    folder = tmp_path / "vit"
    code, _, err = exported(capsys, run, "--to", "timm", "-o", folder)
    assert code == 0, err
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    student, images = md.load_student(run), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(student.network.normalised(images)), student(images))
    said = timm.data.resolve_model_data_config(network)
    assert (said["input_size"], said["mean"], said["crop_pct"]) == ((3, 32, 32), [0.5] * 3, 1.0)
    assert network.pretrained_cfg["label_names"] == list("0123456789")
    assert md.load_student(folder).record == student.record
    # Its configs have one resize
    images = Preprocessing((46,), (40, 40), (0.5,) * 3, (0.5,) * 3, (32, 32))
    student.record = student.record._replace(preprocessing=images)
    capsys.readouterr()
    write_timm(student, tmp_path / "again")
    assert "again/config.json: timm resizes an image once, and this student's are" in capsys.readouterr().out


def test_a_student_of_torchvision_is_loaded_by_torchvision(tmp_path, capsys):
    from torchvision.models import get_model

    run = library_run(tmp_path, "torchvision/squeezenet1_1", "DATASET.SIZE", "64")
    file = tmp_path / "a.safetensors"
    code, _, err = exported(capsys, run, "--to", "torchvision", "-o", file)
    assert code == 0, err
    with safe_open(file, "pt") as opened:
        said = opened.metadata()
    network = get_model(**json.loads(said["torchvision"])).eval()
    network.load_state_dict(load_file(file), strict=True)
    student, images = md.load_student(run), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(student.network.normalised(images)), student(images))
    assert json.loads(said["preprocessing"])["mean"] == [0.485, 0.456, 0.406]
