"""The command `export`: every format is what its checkpoint is, on real images; what is not is not kept."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageOps
from safetensors.torch import load_file

import mdistiller_dfpt as md
from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.commands.export import main
from mdistiller_dfpt.data.preprocessing import Preprocessing
from mdistiller_dfpt.export import FORMATS, Format
from mdistiller_dfpt.export.card import card
from mdistiller_dfpt.export.hub_folder import results_of
from mdistiller_dfpt.export.verify import spaced
from mdistiller_dfpt.launch.judge import data_of_student, on_folders
from mdistiller_dfpt.runs.results import summarise

from ..launch.test_student import trained
from ..test_house import ROOT


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a finished run on the digits."""
    return trained(tmp_path_factory.mktemp("runs"), "SOLVER.EPOCHS", "1")[1]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of five images, one of another size, below a subfolder."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "inside").mkdir()
    noise = np.random.default_rng(0)
    for i in range(5):
        size = (20, 24, 3) if i == 3 else (16, 16, 3)
        Image.fromarray(noise.integers(0, 256, size, np.uint8)).save(folder / "inside" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def digits_of_test(run, tmp_path_factory):
    """Twenty test images in folders of their classes, of which some have none."""
    test, folder = data_of_student(md.load_student(run))[1].test, tmp_path_factory.mktemp("digits")
    for number in range(20):
        place = folder / str(int(test.labels[number]))
        place.mkdir(exist_ok=True)
        test.picture(number).save(place / f"{number}.png")
    return folder


def exported(capsys, *words):
    code = main([str(word) for word in words])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_onnx_is_the_student_for_any_batch_and_says_what_it_is(run, tmp_path, capsys):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    file = tmp_path / "student.onnx"
    code, out, err = exported(capsys, run, "--to", "onnx", "-o", file, "--int8")
    assert code == 0, err
    assert f"{file}: the logits differ from the checkpoint's by at most " in out
    assert "on 256 images of the test set" in out
    student = md.load_student(run)
    session = onnxruntime.InferenceSession(file)
    (into,), (outof,) = session.get_inputs(), session.get_outputs()
    assert (into.name, into.shape, outof.name, outof.shape) == ("images", ["batch", 3, 16, 16], "logits", ["batch", 10])
    images = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], student(images), atol=1e-4)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == list(student.classes)
    assert json.loads(said["preprocessing"]) == student.preprocess.as_json()
    assert json.loads(said["accuracy"]) == student.record.accuracy
    assert "as `student.preprocess` returns images" in said["images"]

    int8 = tmp_path / "student.int8.onnx"
    assert int8.stat().st_size < file.stat().st_size
    assert "int8 predicts as float32: " in out
    assert "of 364 images; top-1 on the test set: int8 " in out
    assert f"float32 {student.record.accuracy['top1']:.2f} %" in out
    model = onnx.load(int8)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["quantisation"])["type"] == "int8"
    assert json.loads(said["accuracy_float32"]) == student.record.accuracy
    assert f"int8 {json.loads(said['accuracy'])['top1']:.2f} %" in out
    assert any(t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4 for t in model.graph.initializer)


def test_int8_is_measured_on_images_in_folders_of_the_classes_too(run, digits_of_test, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    code, out, err = exported(
        capsys, run, "--to", "onnx", "-o", tmp_path / "a.onnx", "--int8", "--images", digits_of_test
    )
    assert code == 0, err
    assert "% of 364 images; top-1 on the test set: int8 " in out
    right = on_folders(md.load_student(run), digits_of_test)
    top1 = 100 * (right.logits.argmax(1) == right.labels).double().mean().item()
    (line,) = (line for line in out.splitlines() if "of 20 images, those of the calibration; top-1 on them: " in line)
    assert line.endswith(f", float32 {top1:.2f} %")


def test_int8_of_images_alone_has_no_accuracy(run, pictures, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    words = ["--images", pictures, "DATASET.TYPE", "folder", "DATASET.ROOT", tmp_path / "none"]
    code, out, err = exported(capsys, run, "--to", "onnx", "-o", tmp_path / "a.onnx", "--int8", *words)
    assert code == 0, err
    assert f"on 5 images of {pictures}" in out
    assert "% of 5 images, those of the calibration; no accuracy of them is known: their folders are not" in out
    onnx = pytest.importorskip("onnx")
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "a.int8.onnx").metadata_props}
    assert json.loads(said["accuracy"]) == {}
    assert json.loads(said["accuracy_float32"]) == md.load_student(run).record.accuracy


@pytest.mark.parametrize("steps", [
    Preprocessing(None, None, (0.3,) * 3, (0.4,) * 3, (16, 16)),
    Preprocessing((20,), (18, 18), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), (18, 18), "bicubic", upright=True),
    Preprocessing((23, 30), (21, 21), (0.5,) * 3, (0.5,) * 3, (13, 13)),
])  # fmt: skip
def test_the_preprocessing_of_the_documentation_is_that_of_a_student(steps, tmp_path):
    """`prepare`, in NumPy, beside what the network was tested with."""
    text = (ROOT / "docs/use_a_student.md").read_text()
    names = {"numpy": np, "Image": Image, "ImageOps": ImageOps}
    exec(text[text.index("def prepare") :].split("\n\n\n")[0], names)
    side = (16, 16) if steps.resize is None else (37, 29)
    pixels = np.random.default_rng(0).integers(0, 256, (*side, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    found = names["prepare"](tmp_path / "x.png", json.loads(json.dumps(steps.as_json())))
    torch.testing.assert_close(torch.from_numpy(found)[0], steps(Image.open(tmp_path / "x.png")), atol=1e-5, rtol=0)


def test_a_torch_export_file_needs_nothing_of_this_package(run, tmp_path, capsys):
    file = tmp_path / "student.pt2"
    assert exported(capsys, run, "--to", "torch-export", "-o", file)[0] == 0
    extra = {"student.json": ""}
    network = torch.export.load(file, extra_files=extra).module()
    student, images = md.load_student(run), torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(images), student(images))
    assert json.loads(json.loads(extra["student.json"])["classes"]) == list(student.classes)


def test_a_hub_folder_is_a_student_with_a_card(run, pictures, tmp_path, capsys):
    folder = tmp_path / "hub"
    assert exported(capsys, run, "--to", "hub-folder", "-o", folder, "--license", "mit")[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    student, mine = md.load_student(run), md.load_student(folder)
    assert mine.record == student.record
    picture = pictures / "inside/3.png"
    assert mine.predict(picture)[0].probabilities == student.predict(picture)[0].probabilities
    config = json.loads((folder / "config.json").read_text())
    assert config["classes"] == list(student.classes)
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(header)
    assert (said["license"], said["datasets"], said["metrics"]) == ("mit", ["digits"], ["accuracy"])
    top1 = student.record.accuracy["top1"]
    assert said["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(top1 / 100, abs=1e-6)
    for words in (f"| this file: epoch 1 | {top1:.2f} |", "| last epoch of the run |", "of seed 1", "Teacher: none",
                  'student = load_student(".")', "DATASET.TYPE: digits", "## Limits", "resized to 16x16"):  # fmt: skip
        assert words in text
    assert not [line for line in text.splitlines() if "{{" in line or "{%" in line]


def test_images_of_ones_own_are_no_published_dataset_in_a_card(run):
    student = md.load_student(run)
    student.record = student.record._replace(data="folder")
    _, header, text = card(student, None, "mit").split("---\n", 2)
    said = yaml.safe_load(header)
    assert "datasets" not in said
    assert said["model-index"][0]["results"][0]["dataset"]["name"] == "a folder of images"
    assert "On the test set of a folder of images." in text
    student.record = student.record._replace(folder="birds")
    _, header, text = card(student, None, "mit").split("---\n", 2)
    assert yaml.safe_load(header)["model-index"][0]["results"][0]["dataset"]["name"] == "the folder birds"
    assert text.startswith(f"\n# {student.record.student} on the folder birds, NONE\n")
    assert "On the test set of the folder birds." in text
    student.record = student.record._replace(teacher="timm/a_net.in1k")
    assert "- Teacher: `timm/a_net.in1k`; it is not needed for prediction\n- Input" in card(student, None, "mit")


@pytest.mark.parametrize(("place", "value"), [
    (("final", "top1", "best"), None), (("final",), {"top1": {"last": 1.0}}), (("protocol", "teacher"), []),
    (("protocol", "test_images"), "x"), (("protocol", "settings"), [1]), (("final", "validation"), {}),
    (("environments",), [1]), (("protocol", "versions"), 3),
])  # fmt: skip
def test_results_of_another_form_are_not_on_a_card(place, value, run, pictures, tmp_path, capsys):
    copy, found = tmp_path / "run", read_checked_json(run / "results.json")
    shutil.copytree(run, copy)
    at = found
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    (copy / "results.json").write_text(json.dumps(found))
    code, _, err = exported(capsys, copy, "--to", "hub-folder", "-o", tmp_path / "hub", "--images", pictures)
    assert code == 0, err
    assert "## Protocol" not in (tmp_path / "hub/README.md").read_text()


def test_damaged_results_are_said_and_not_on_a_card(run, pictures, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    text = (copy / "results.json").read_text()
    (copy / "results.json").write_text(text.replace('"seed": 1', '"seed": 3', 1))
    code, _, err = exported(capsys, copy, "--to", "hub-folder", "-o", tmp_path / "hub", "--images", pictures)
    assert code == 0, err
    assert f"warning: {copy / 'results.json'}: damaged: it differs from its checksum" in err
    assert "## Protocol" not in (tmp_path / "hub/README.md").read_text()


def test_a_card_names_all_devices_of_the_run(run):
    results = read_checked_json(run / "results.json")
    results["environments"].append(results["environments"][0] | {"epoch": 1, "device": "NVIDIA H100"})
    assert "cpu, then NVIDIA H100 after epoch 1" in card(md.load_student(run), results, "mit")


def test_no_setting_ends_the_block_of_settings(run, pictures, tmp_path, capsys):
    copy, found = tmp_path / "run", read_checked_json(run / "results.json")
    shutil.copytree(run, copy)
    found["protocol"]["settings"]["X.Y"] = "a\n```\n<img src=x>"
    (copy / "results.json").write_text(json.dumps(found))
    assert exported(capsys, copy, "--to", "hub-folder", "-o", tmp_path / "hub", "--images", pictures)[0] == 0
    text = (tmp_path / "hub/README.md").read_text()
    assert "X.Y" in text.split("```yaml")[1].split("```")[0]
    assert "<img src=x>" in text.split("```yaml")[1].split("```")[0]


def test_a_hub_folder_of_a_file_alone_has_a_card_without_a_protocol(run, pictures, tmp_path, capsys):
    file, folder = tmp_path / "mine.safetensors", tmp_path / "hub"
    file.write_bytes((run / "student.safetensors").read_bytes())
    assert results_of(md.load_student(file)) is None
    assert exported(capsys, file, "--to", "hub-folder", "-o", folder, "--images", pictures)[0] == 0
    text = (folder / "README.md").read_text()
    assert "## Protocol" not in text
    assert "| this file: epoch 1 |" in text
    (folder / "notes.txt").write_text("mine")
    assert exported(capsys, file, "--to", "hub-folder", "-o", folder, "--images", pictures)[0] == 0
    assert (folder / "notes.txt").read_text() == "mine"


def test_weights_are_a_student_by_themselves(run, tmp_path, capsys):
    file = tmp_path / "mine.safetensors"
    assert exported(capsys, run, "--to", "safetensors", "-o", file)[0] == 0
    assert md.load_student(file).record == md.load_student(run).record
    weights, expected = load_file(file), load_file(run / "student.safetensors")
    assert [key for key in expected if not torch.equal(weights[key], expected[key])] == []


def changed(student, path):
    """A format that writes a file of a network with other logits."""
    path.write_text("nothing")
    return lambda images: student(images) + 0.01


def test_above_the_bound_nothing_is_written(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", Format(changed, ".onnx"))
    file = tmp_path / "a.onnx"
    file.write_text("an earlier one")
    code, _, err = exported(capsys, run, "--to", "onnx", "-o", file)
    assert code == 1
    assert "by up to 1.00e-02 on 256 images of the test set, which is above the bound of 0.0001" in err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.onnx", "an earlier one")]
    assert exported(capsys, run, "--to", "onnx", "-o", file, "--bound", "0.1")[0] == 0
    assert file.read_text() == "nothing"


def test_logits_that_are_not_numbers_are_above_any_bound(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", Format(lambda s, p: p.touch() or (lambda x: s(x) * float("nan")), ".onnx"))
    code, _, err = exported(capsys, run, "--to", "onnx", "-o", tmp_path / "a.onnx", "--bound", "inf")
    assert (code, list(tmp_path.iterdir())) == (1, [])
    assert "by up to nan" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--to", "timm"], 2, "--to timm is for networks of timm; the student is resnet8"),
        (["--to", "safetensors", "--int8"], 2, "--int8 goes with --to onnx; --to is safetensors"),
        (["--to", "onnx", "--license", "mit"], 2, "--license goes with --to hub-folder"),
        (["--to", "onnx", "--images", "nowhere"], 3, "--images nowhere: no such folder"),
        (["--to", "onnx", "DATASET.TYPE", "cifar100", "DATASET.ROOT", "nowhere"], 3,
         "to compare the export with the checkpoint, give --images FOLDER, or DATASET.ROOT DIR"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused_in_a_line(words, code, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, _, err = exported(capsys, run, *words)
    assert found == code
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_weights_of_a_users_network_say_that_they_need_its_module(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported_nets.py").write_text(
        "from torch import nn\n\ndef small(num_classes):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes))\n"
    )
    run = trained(tmp_path / "run", "DISTILLER.STUDENT", "exported_nets:small", "SOLVER.EPOCHS", "1")[1]
    code, out, err = exported(capsys, run, "--to", "hub-folder", "-o", tmp_path / "hub", "--trust")
    assert code == 0, err
    assert "note: model.safetensors has no code: who uses it needs the module exported_nets on the import path" in out
    card = (tmp_path / "hub" / "README.md").read_text()
    said = "its code, the module `exported_nets`, is not in this folder: add it to the folder, or to the import path\n"
    assert said in card
    assert 'load_student(".", trust=True)' in card


def test_the_checkpoint_itself_is_not_overwritten(run, capsys):
    before = (run / "student.safetensors").read_bytes()
    code, _, err = exported(capsys, run, "--to", "safetensors", "-o", run / "student.safetensors")
    assert (code, (run / "student.safetensors").read_bytes() == before) == (2, True)
    assert "is what is exported: give another place" in err


def test_a_card_has_the_accuracy_that_is_known(run):
    student = md.load_student(run)
    student.record = student.record._replace(accuracy={"top1": 98.5})
    text = card(student, None, "mit")
    assert "\n| this file: epoch 1 | 98.50 | - |\n\nOn the test set" in text
    assert "\n- It was tested on the test set of " in text
    # That of a loop of one's own was not evaluated, and its card does not say that it was tested
    student.record = student.record._replace(accuracy={}, data="own")
    text = card(student, None, "mit")
    assert "\nIt was not evaluated.\n" in text
    assert "\n- It was not tested: how often it is right is not known.\n" in text
    assert "tested on" not in text


@pytest.mark.parametrize(("side", "count"), [(16, 256), (512, 256), (1024, 64), (4096, 4)])
def test_images_that_are_compared_fit_in_memory_whatever_size_a_file_names(side, count):
    assert len(spaced(1000, (3, side, side))) == count


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_package_that_is_missing_is_named(package, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = exported(capsys, run, "--to", "onnx", "-o", tmp_path / "a.onnx")
    assert code == 2
    assert err == f'error: --to onnx needs {package}: pip install "mdistiller_dfpt[export]"\n'


def test_a_card_has_both_accuracies_of_the_best_epoch(run):
    student, results = md.load_student(run), read_checked_json(run / "results.json")
    tested = [{"top1": 60.0, "top5": 90.0}, {"top1": 50.0, "top5": 95.0}]
    results["epochs"] = [{"epoch": i, "test": {"student": one}} for i, one in enumerate(tested, start=1)]
    results["final"] = summarise(results["epochs"])
    text = card(student, results, "mit")
    assert "| last epoch of the run | 50.00 | 95.00 |" in text
    assert "| best epoch of the run (1, by top-1) | 60.00 | 90.00 |" in text
