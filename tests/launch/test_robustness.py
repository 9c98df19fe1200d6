"""`eval --corruptions`: accuracies by corruption and severity, the same for every call, kept for the report."""

import json
import shutil

import pytest
import torch

import mdistiller_dfpt as md
from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.commands import evaluate, predict
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.evaluate_checkpoint import idle_keys
from mdistiller_dfpt.launch.trained import trained_networks
from mdistiller_dfpt.report import load_results
from mdistiller_dfpt.report.page import page

from .test_student import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"))[1]


def test_accuracies_by_corruption_and_severity(run, tmp_path, capsys):
    file = tmp_path / "j.json"
    words = [
        "--no-cost",
        "--json",
        str(file),
        "--corruptions",
        "contrast",
        "jpeg_compression",
        "--severities",
        "1",
        "5",
    ]
    outputs = []
    for _ in range(2):
        assert evaluate.main([str(run), *words]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    found = json.loads(file.read_text())["corruptions"]
    assert found["clean"] == pytest.approx(json.loads(file.read_text())["top1"])
    assert {name: list(of) for name, of in found["top1"].items()} == {
        "contrast": ["1", "5"], "jpeg_compression": ["1", "5"]
    }  # fmt: skip
    assert found["top1"]["contrast"]["5"] < found["top1"]["contrast"]["1"] <= 100
    assert found["error"] == pytest.approx(100 - sum(sum(of.values()) for of in found["top1"].values()) / 4)
    assert "constants of CIFAR-C, images of 16x16, seed 0" in outputs[0]
    assert "mean over 2 corruptions at 2 severities" in outputs[0]
    assert "note: these constants were chosen for images of 32x32" in outputs[0]
    assert not (run / "corruptions.json").exists(), "a part of the corruptions is not the run's"


def test_all_of_them_are_kept_for_the_page_until_the_weights_change(run, monkeypatch):
    module = "mdistiller_dfpt.launch.robustness"
    monkeypatch.setattr(f"{module}.corrupted", lambda image, *key: image)
    assert evaluate.main([str(run), "--no-cost", "--corruptions"]) == 0
    kept = read_checked_json(run / "corruptions.json")
    assert kept["mean"] == pytest.approx(kept["clean"])
    text = page(load_results(run.parent), "t")
    assert "Corrupted images" in text
    assert f"<td>{kept['clean']:.2f}</td>" in text
    assert "<td>jpeg compression</td>" in text
    (run / "corruptions.json").write_text(json.dumps(kept | {"sha256": "of other weights"}))
    assert "Corrupted images" not in page(load_results(run.parent), "t")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--severities", "3"], "--severities and --seed are those of --corruptions: add it"),
        (["--corruptions", "SOLVER.AMP", "bf16"], "unknown corruption 'SOLVER.AMP'"),
        (["--corruptions", "fog", "--severities", "6"], "invalid choice: 6"),
    ],
)
def test_wrong_uses_of_corruptions_are_one_line(run, words, message, capsys):
    assert evaluate.main([str(run), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "pair",
    [
        ["SOLVER.LR", "3"], ["SOLVER.SPEED", "auto"], ["EXPERIMENT.THREADS", "2"], ["EXPERIMENT.DEVICE", "cpu"],
        ["DISTILLER.STUDENT_CKPT", "a.pth"], ["DISTILLER.TEACHER_KIND", "noisy"], ["KD.TEMPERATURE", "2"],
    ],
)  # fmt: skip
def test_keys_that_cannot_matter_to_given_weights_are_said(pair, run, capsys):
    taught = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet8"] if pair[0].startswith("KD") else []
    assert evaluate.main([str(run), *taught, *pair, "DATASET.NUM_WORKERS", "0", "--no-cost"]) == 0
    out = capsys.readouterr().out
    assert f"{pair[0]} {pair[1]} has no effect here: the weights are given" in out
    assert "NUM_WORKERS" not in out


def test_keys_of_a_teacher_are_not_said_where_it_is_what_is_evaluated(run, capsys):
    words = ["-m", "resnet8", "-c", str(run), "-d", "digits", "DISTILLER.STUDENT", "resnet20"]
    assert evaluate.main([*words, "EXPERIMENT.THREADS", "1"]) == 0
    assert "THREADS" not in capsys.readouterr().out
    cfg = load_cfg("digits/kd/res20_res8")
    assert idle_keys(["DISTILLER.TEACHER", "resnet8", "KD.TEMPERATURE", "2"], cfg, is_taught=True) == []
    assert len(idle_keys(["DISTILLER.TEACHER", "resnet8", "KD.TEMPERATURE", "2"], cfg)) == 2


def test_a_precision_to_be_measured_is_that_of_the_run(run, capsys):
    assert evaluate.main([str(run), "--no-cost"]) == 0
    plain = capsys.readouterr().out
    assert evaluate.main([str(run), "SOLVER.AMP", "fastest", "--no-cost"]) == 0
    assert capsys.readouterr().out == plain


def test_images_that_are_normalised_otherwise_than_in_the_run_are_refused(run, capsys):
    assert evaluate.main([str(run), "DATASET.MEAN", "(0.5, 0.5, 0.5)", "--no-cost"]) == 2
    assert "was trained with images of mean 0.305" in capsys.readouterr().err


@pytest.mark.parametrize(
    "place", ["a checkpoint", "its file", "a copy without its run", "a checkpoint of a run cut off"]
)
def test_images_normalised_otherwise_are_refused_wherever_the_weights_are(place, run, tmp_path, capsys):
    checkpoint = next((run / "checkpoints").iterdir())
    weights = checkpoint / "student.safetensors" if place == "its file" else checkpoint
    if place == "a copy without its run":
        weights = shutil.copy(run / "student.safetensors", tmp_path)
    if place == "a checkpoint of a run cut off":
        weights = tmp_path / "cut" / checkpoint.relative_to(run)
        shutil.copytree(checkpoint, weights)
        shutil.copy(run / "best.safetensors", tmp_path / "cut")
    evaluated = ["-m", "resnet8", "-c", str(weights), "-d", "digits"]
    assert evaluate.main(evaluated) == 0
    mean = ["DATASET.MEAN", "(0.5, 0.5, 0.5)"]
    assert evaluate.main([*evaluated, *mean]) == 2
    assert f"{weights} was trained with images of mean 0.305" in capsys.readouterr().err
    cfg = load_cfg(
        "digits/kd/res20_res8", ["DISTILLER.TEACHER", "resnet8", "DISTILLER.TEACHER_CKPT", str(weights), *mean]
    )
    with pytest.raises(ConfigError, match="which was trained with images of mean 0.305"):
        trained_networks(cfg, md.build_data(cfg, torch.device("cpu")), None)


def test_damaged_weights_are_refused_whatever_names_them(run, tmp_path, capsys):
    whole = (run / "student.safetensors").read_bytes()
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(whole[:-2000] + bytes(2000))
    assert evaluate.main(["-m", "resnet8", "-c", str(changed), "-d", "digits"]) == 3
    assert "damaged; its tensors are not those that were saved" in capsys.readouterr().err


def test_a_teacher_that_is_gone_is_named_with_what_to_add(tmp_path, capsys):
    _, teacher, _ = trained(tmp_path / "teacher")
    words = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet8", "DISTILLER.TEACHER_CKPT", str(teacher)]
    _, run, _ = trained(tmp_path, *words)
    teacher.rename(tmp_path / "elsewhere")
    assert evaluate.main([str(run), "--with-teacher", "--no-cost"]) == 3
    error = capsys.readouterr().err
    assert "there is no such file): add `DISTILLER.TEACHER_CKPT PATH` to your command" in error
    words = ["DISTILLER.TEACHER_CKPT", str(tmp_path / "elsewhere"), "--with-teacher", "--no-cost"]
    assert evaluate.main([str(run), *words]) == 0


def test_an_image_before_the_student_is_said(run, tmp_path, capsys):
    image = tmp_path / "x.png"
    md.build_data(md.load_cfg("digits/vanilla/res8")).test.picture(0).save(image)
    for first, message in ((image, "x.png is an image: write"), (tmp_path, "is no student, and")):
        assert predict.main([str(first), str(run)]) == 2
        assert message in capsys.readouterr().err
