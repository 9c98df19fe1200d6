"""A run's files of weights are students that predict by themselves."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import mdistiller_dfpt as md
from mdistiller_dfpt.commands import predict
from mdistiller_dfpt.errors import CheckpointError, ConfigError, DataError
from mdistiller_dfpt.runs.record import KEY, as_metadata, read_record

WORDS = ["SOLVER.EPOCHS", "2", "LOG.TENSORBOARD", "False", "EXPERIMENT.DEVICE", "cpu", "EXPERIMENT.THREADS", "1",
         "SOLVER.BATCH_SIZE", "256"]  # fmt: skip


def trained(folder, *words):
    cfg = md.load_cfg(
        "digits/vanilla/res20", [*WORDS, "LOG.PREFIX", str(folder), "DISTILLER.STUDENT", "resnet8", *words]
    )
    return md.run(cfg), folder / "digits/vanilla/res20/seed1", md.build_data(cfg)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A finished run on the digits, its results, and its data."""
    results, run, data = trained(tmp_path_factory.mktemp("runs"))
    return run, results, data


def test_its_accuracy_on_the_test_images_is_that_of_the_run(digits):
    run, results, data = digits
    student = md.load_student(run)
    right = 0
    for batch in data.test.epoch():
        with torch.no_grad():
            right += (student(batch.image).argmax(1) == batch.target).sum().item()
    last = results["epochs"][-1]["test"]["student"]
    assert 100 * right / data.test.num_samples == pytest.approx(last["top1"])
    assert student.record.accuracy == {key: last[key] for key in ("top1", "top5")}
    assert (student.record.epoch, student.record.method, student.classes) == (2, "NONE", tuple("0123456789"))


def test_the_best_weights_have_the_record_of_their_epoch(digits):
    run, results, _ = digits
    best = results["final"]["top1"]
    record = read_record(run / "best.safetensors")
    assert (record.epoch, record.accuracy["top1"]) == (best["best_epoch"], best["best"])


def test_files_arrays_and_lists_are_predicted_alike(digits, tmp_path):
    run, _, data = digits
    image = Image.fromarray(data.test.padded[0].numpy())
    image.save(tmp_path / "a.png")
    student = md.load_student(run)
    (of_array,), (of_file,) = student.predict(image), student.predict(tmp_path / "a.png")
    both = student.predict([image, str(tmp_path / "a.png")], top=3, batch_size=1)
    assert of_array.probabilities == of_file.probabilities
    assert of_array.probabilities[:3] == pytest.approx(both[1].probabilities)
    assert (of_array.image, of_file.image) == ("", str(tmp_path / "a.png"))
    (batch, *_) = data.test.epoch()
    with torch.no_grad():
        expected = student(batch.image[:1]).softmax(1)[0]
    assert of_array.classes[0] == student.classes[int(expected.argmax())]
    assert of_array.probabilities[0] == pytest.approx(expected.max().item(), abs=1e-5)


def test_a_file_alone_in_another_folder_is_enough(digits, tmp_path, monkeypatch, capsys):
    run, _, _ = digits
    shutil.copy(run / "student.safetensors", tmp_path / "mine.safetensors")
    Image.new("RGB", (30, 20)).save(tmp_path / "x.jpg")
    (tmp_path / "notes.txt").write_text("not an image")
    monkeypatch.chdir(tmp_path)
    assert predict.main(["mine.safetensors", ".", "--json", "--top", "2"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["image"] == "x.jpg"
    assert len(found["classes"]) == 2
    assert predict.main(["mine.safetensors", "*.jpg", "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "image,rank,class,probability"
    assert len(lines) == 4
    assert predict.main(["mine.safetensors", "x.jpg"]) == 0
    assert capsys.readouterr().out.startswith("x.jpg: ")


def test_a_deployed_network_that_is_more_than_the_student(tmp_path):
    words = ["DISTILLER.TYPE", "SIMKD", "DISTILLER.TEACHER_KIND", "frozen", "DISTILLER.TEACHER", "resnet8"]
    _, teacher, _ = trained(tmp_path / "teacher")
    _, run, data = trained(tmp_path, *words, "DISTILLER.TEACHER_CKPT", str(teacher))
    student = md.load_student(run)
    (batch, *_) = data.test.epoch()
    with torch.no_grad():
        right = (student(batch.image).argmax(1) == batch.target).sum().item()
    assert student(batch.image).shape == (len(batch.target), 10)
    assert right > 0
    assert student.record.teacher == "resnet8"


def test_own_normalisation_goes_with_the_student(tmp_path):
    words = ["DISTILLER.STUDENT_MEAN", "[0.1, 0.2, 0.3]", "DISTILLER.STUDENT_STD", "[1.0, 2.0, 3.0]"]
    results, run, data = trained(tmp_path, *words)
    student = md.load_student(run)
    hits = 0
    for batch in data.test.epoch():
        with torch.no_grad():
            hits += (student(batch.image).argmax(1) == batch.target).sum().item()
    assert 100 * hits / data.test.num_samples == pytest.approx(results["epochs"][-1]["test"]["student"]["top1"])


def test_files_without_a_record_or_with_a_damaged_one(digits, tmp_path):
    run, _, _ = digits
    weights = load_file(run / "student.safetensors")
    save_file(weights, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="has no record of its student"):
        md.load_student(tmp_path / "bare.safetensors")
    for text, words in (
        ("{", "cannot be read"),
        ('{"format": 99}', "newer version"),
        ('{"format": 1}', "cannot be read"),
    ):
        save_file(weights, tmp_path / "odd.safetensors", {KEY: text})
        with pytest.raises(CheckpointError, match=words):
            md.load_student(tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        md.load_student(tmp_path / "none.safetensors")


def test_a_test_transform_that_is_not_known_is_not_guessed(digits):
    student = md.load_student(digits[0])
    student.record = student.record._replace(preprocessing=None)
    with pytest.raises(ConfigError, match="the test transform of its dataset digits is not a resize"):
        student.predict(Image.new("RGB", (8, 8)))


def test_a_users_code_is_not_run_from_a_file_alone(digits, tmp_path):
    run, _, _ = digits
    record = read_record(run / "student.safetensors")
    changed = record._replace(config=record.config.replace("PLUGINS: []", "PLUGINS: [evil.py]"))
    save_file(load_file(run / "student.safetensors"), tmp_path / "s.safetensors", as_metadata(changed))
    with pytest.raises(ConfigError, match=r"evil.py: give the directory of its run"):
        md.load_student(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none.png"], 3, "none.png: no such image"),
        (["text.png"], 3, "text.png: cannot be read as an image"),
        (["empty"], 3, "empty: a folder without images"),
        (["text.png", "--top", "0"], 2, "--top is 0; it must be at least 1"),
        (["text.png", "--json", "--csv"], 2, "not allowed with argument --json"),
    ],
)
def test_wrong_uses_are_one_line(words, code, message, digits, tmp_path, monkeypatch, capsys):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert predict.main([str(digits[0]), *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_unreadable_image_is_named(digits, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="bad.png"):
        md.load_student(digits[0]).predict(tmp_path / "bad.png")
