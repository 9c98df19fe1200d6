"""A run's files of weights are students that predict by themselves."""

import base64
import csv
import io
import json
import random
import shutil
import sys
from types import SimpleNamespace

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import v2

import mdistiller_dfpt as md
from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.commands import evaluate, predict
from mdistiller_dfpt.environment import name_of_cpu
from mdistiller_dfpt.errors import CheckpointError, ConfigError, DataError
from mdistiller_dfpt.interop import plugins
from mdistiller_dfpt.launch import student
from mdistiller_dfpt.launch.judge import data_of_student, on_data, on_folders
from mdistiller_dfpt.runs.record import KEY, as_metadata, read_record
from mdistiller_dfpt.runs.weights import HUB_WEIGHTS

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


@pytest.mark.parametrize("second", [0.5, 0.49999997], ids=["equal", "equal as probabilities"])
def test_of_equal_logits_the_first_is_predicted(second, digits, monkeypatch):
    student = md.load_student(digits[0])
    logits = torch.tensor([[0.0, second, -1, 0.5, -1, -2, -2, -2, -2, -2]])
    assert logits.softmax(1)[0, 1] == logits.softmax(1)[0, 3]
    monkeypatch.setattr(type(student), "forward", lambda self, images: logits)
    (found,) = student.predict(Image.new("RGB", (16, 16)), top=5)
    best = [*([1, 3] if second == 0.5 else [3, 1]), 0, 2, 4]
    assert found.classes == tuple(student.classes[c] for c in best)
    assert found.probabilities == pytest.approx(logits.softmax(1)[0, best].tolist())


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
    assert len(lines) == 6
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
    with pytest.raises(CheckpointError, match="has no record of a student"):
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
    weights = load_file(run / "student.safetensors")
    save_file(weights, tmp_path / "s.safetensors", as_metadata(changed, weights))
    with pytest.raises(ConfigError, match=r"evil.py: give the directory of its run"):
        md.load_student(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["none.png"], 3, "none.png: no such image"),
        (["text.png"], 3, "text.png: cannot be read as an image"),
        (["empty"], 3, "empty: contains no images"),
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


def test_files_of_a_folder_that_are_not_predicted_are_said(digits, tmp_path, capsys):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    for name in ("._a.png", "b.HEIC"):
        (tmp_path / name).write_bytes(b"no image")
    assert predict.main([str(digits[0]), str(tmp_path), "--json"]) == 0
    said = capsys.readouterr()
    assert [p["image"] for p in json.loads(said.out)] == [str(tmp_path / "a.png")]
    assert said.err.startswith(f"note: {tmp_path}: 2 files are not read as images (1 .heic, 1 hidden); read: .jpg")
    assert said.err.endswith("; to use them, convert .heic to .jpg\n")


def test_an_unreadable_image_is_named(digits, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="bad.png"):
        md.load_student(digits[0]).predict(tmp_path / "bad.png")


def test_a_student_is_judged_on_its_test_set(digits, tmp_path, capsys, monkeypatch):
    run, results, data = digits
    monkeypatch.chdir(tmp_path)
    assert evaluate.main([str(run), "--json", "all.json", "--predictions", "each.csv"]) == 0
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "all.json").read_text())
    last = results["epochs"][-1]["test"]["student"]
    for key in ("top1", "top5", "nll", "ece"):
        assert found[key] == pytest.approx(last[key], rel=1e-5), key
    assert f"top-1 {last['top1']:.2f} %" in text
    assert f"log-likelihood {found['nll_half']:.3f} and {found['nll_scaled']:.3f}, calibration error" in text
    assert f"calibration error {found['ece_half']:.2f} % and {found['ece_scaled']:.2f} %\n" in text
    assert found["parameters"] == sum(p.numel() for p in md.load_student(run).parameters())
    assert found["macs"] > 1e6
    assert found["bytes"] == (run / "student.safetensors").stat().st_size
    assert set(found["milliseconds"]) == {"1", "64"}
    assert (found["device"], found["cpu"]) == ("cpu", name_of_cpu())
    assert f"images (float32, cpu, threads: {found['threads']})" in text
    rows = list(csv.DictReader((tmp_path / "each.csv").read_text().splitlines()))
    assert len(rows) == data.test.num_samples
    assert 100 * sum(int(row["correct"]) for row in rows) / len(rows) == pytest.approx(last["top1"])
    assert [row["label"] for row in rows] == [str(label) for label in data.test.labels.tolist()]


def test_another_precision_than_that_of_the_run_is_said(digits, tmp_path):
    alone = tmp_path / "alone.safetensors"  # beside the config of its run it would be of another one
    shutil.copy(digits[0] / "student.safetensors", alone)
    student = md.load_student(alone)
    (tmp_path / "3").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "3/a.png")
    assert on_folders(student, tmp_path).on == str(tmp_path)
    student.record = student.record._replace(config=student.record.config.replace("AMP: none", "AMP: bf16"))
    assert on_folders(student, tmp_path).on == f"{tmp_path}, in float32; its run evaluates in bfloat16"
    cfg, data = data_of_student(student, ["SOLVER.AMP", "bf16"])
    assert on_data(student, cfg, data).on == "the test set of digits, in bfloat16"


def test_a_student_is_judged_on_class_folders_alone(digits, tmp_path, capsys):
    run, _, data = digits
    for number in range(60):
        label = int(data.test.labels[number])
        if label < 4:  # six classes have no folder
            place = tmp_path / "val" / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.test.padded[number].numpy()).save(place / f"{number}.png")
    words = [str(run / "best.safetensors"), "--images", str(tmp_path / "val"), "--no-cost"]
    assert evaluate.main([*words, "--json", str(tmp_path / "j.json")]) == 0
    found = json.loads((tmp_path / "j.json").read_text())
    assert found["images"] == (data.test.labels[:60] < 4).sum()
    assert [found["per_class"][str(c)] is None for c in range(10)] == [False] * 4 + [True] * 6
    student = md.load_student(run / "best.safetensors")
    few = [i for i in range(60) if data.test.labels[i] < 4]
    (batch, *_) = data.test.epoch()
    with torch.no_grad():
        right = (student(batch.image)[few].argmax(1) == batch.target[few]).double().mean().item()
    assert found["top1"] == pytest.approx(100 * right)
    assert evaluate.main([words[0], "--images", str(tmp_path)]) == 3
    assert f"no classes of the student: 'val'; they are in --images {tmp_path / 'val'}" in capsys.readouterr().err
    (tmp_path / "val" / "ten").mkdir()
    assert evaluate.main(words) == 3
    assert "no classes of the student: 'ten'; name the folders as its classes: '0', '1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--with-teacher"], 2, "no trained network teaches"),
        (["--images", "x", "SOLVER.SEED", "2"], 2, "the student alone is tested"),
        (["--images", "nowhere"], 3, "no such folder"),
        (["DATASET.SUPERCLASSES", "[0, 1]"], 2, " apart; digits in"),
        (["SOLVER.SEED"], 2, "has no value"),
        (["--teacher"], 2, "--teacher and -c go with --cfg"),
    ],
)
def test_what_cannot_be_judged_is_refused(words, code, message, digits, capsys):
    assert evaluate.main([str(digits[0]), *words]) == code
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_weights_that_know_nothing_are_judged_on_class_folders_without_a_training_set(digits, tmp_path, capsys):
    run, _, data = digits
    for number in range(100):
        place = tmp_path / "val" / "abcdefghij"[int(data.test.labels[number])]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.test.padded[number].numpy()).save(place / f"{number}.png")
    torch.save({"model": load_file(run / "student.safetensors")}, tmp_path / "w.pth")
    mean, std = ("[" + ", ".join(f"{value:.17g}" for value in values) + "]" for values in data.normalisation)
    words = ["-m", "resnet8", "-c", str(tmp_path / "w.pth"), "--images", str(tmp_path / "val"), "--no-cost"]
    words += ["MODEL.FAMILY", "cifar", "DATASET.SIZE", "16", "DATASET.MEAN", mean, "DATASET.STD", std]
    assert evaluate.main([*words, "DATASET.INTERPOLATION", "bicubic", "--json", str(tmp_path / "j.json")]) == 0
    found, out = json.loads((tmp_path / "j.json").read_text()), capsys.readouterr().out
    assert "resized to the shorter side 18 (height x width, bicubic, antialiased), its centre of 16x16, (image" in out
    assert f"resnet8 {tmp_path}/w.pth, on 100 images of {tmp_path}/val\n" in out
    # The same by torchvision alone
    step = v2.Compose([
        v2.Resize(18, v2.InterpolationMode.BICUBIC), v2.CenterCrop(16), v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(*data.normalisation),
    ])  # fmt: skip
    pictures = [Image.fromarray(data.test.padded[number].numpy()) for number in range(100)]
    with torch.no_grad():
        logits = md.load_student(run)(torch.stack([step(picture) for picture in pictures]))
    right = (logits.argmax(1) == data.test.labels[:100]).double().mean().item()
    assert found["top1"] == pytest.approx(100 * right)
    assert found["nll"] == pytest.approx(torch.nn.functional.cross_entropy(logits, data.test.labels[:100]).item(), 1e-4)
    for given, code, message in (
        (["-d", "digits"], 2, "leave out -d and the teacher"),
        (["-c", str(run / "student.safetensors")], 2, "says itself which student it is: leave out -m and -c"),
        (["-m", "resnet14"], 3, "not a checkpoint of resnet14 with 10 classes"),
        (["--images", str(tmp_path)], 3, "not a checkpoint of resnet8 with 1 classes"),
    ):
        assert evaluate.main([*words, *given]) == code
        assert message in capsys.readouterr().err
    assert evaluate.main(["--cfg", "digits/vanilla/res8", "--images", str(tmp_path / "val")]) == 2
    assert "with -m NETWORK and -c FILE weights of another origin" in capsys.readouterr().err


def test_options_of_students_need_one(capsys):
    assert evaluate.main(["-m", "resnet8", "-c", "x", "--json", "y", "--no-cost"]) == 2
    assert "--json, --no-cost: for RUN_OR_FILE" in capsys.readouterr().err


def test_agreement_with_the_teacher_of_the_run(tmp_path, capsys):
    _, teacher, _ = trained(tmp_path / "teacher")
    words = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet8", "DISTILLER.TEACHER_CKPT", str(teacher)]
    _, run, _ = trained(tmp_path, *words)
    assert evaluate.main([str(run), "--with-teacher", "--no-cost", "--json", str(tmp_path / "j.json")]) == 0
    found = json.loads((tmp_path / "j.json").read_text())["teacher"]
    assert 0 < found["agreement"] <= 100
    assert found["kl"] > 0
    assert "predicts as its teacher" in capsys.readouterr().out


def test_a_finished_run_has_its_evaluation_beside_its_results(digits):
    run, results, data = digits
    found = read_checked_json(run / "evaluation.json")
    assert found["top1"] == pytest.approx(results["final"]["top1"]["last"])
    assert "teacher" not in found
    one = found["worst"][0]
    assert data.classes[data.test.labels[int(one["image"])]] == one["label"]
    assert one["thumbnail"].startswith("data:image/png;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(one["thumbnail"].partition(",")[2])))
    assert torch.equal(torch.from_numpy(numpy.array(picture)), data.test.padded[int(one["image"])])


def test_a_student_and_a_teacher_of_other_sizes_are_judged_as_in_their_run(tmp_path):
    _, teacher, _ = trained(tmp_path / "teacher", "DISTILLER.STUDENT_SIZE", "20")
    words = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet8", "DISTILLER.TEACHER_CKPT", str(teacher)]
    results, run, data = trained(tmp_path, *words, "DISTILLER.STUDENT_SIZE", "10", "DISTILLER.TEACHER_SIZE", "20")
    in_run = read_checked_json(run / "evaluation.json")
    assert in_run["top1"] == pytest.approx(results["final"]["top1"]["last"])
    assert evaluate.main([str(run), "--with-teacher", "--json", str(tmp_path / "j.json")]) == 0
    found = json.loads((tmp_path / "j.json").read_text())
    for key in ("top1", "nll", "ece", "macs"):
        assert found[key] == pytest.approx(in_run[key])
    assert found["teacher"] == pytest.approx(in_run["teacher"])
    student, (batch, *_) = md.load_student(run), data.test.epoch()
    with pytest.raises(ValueError, match=r", 3, 16, 16\); this student takes \(B, 3, 10, 10\): its `sized`"):
        student(batch.image)
    assert student(student.sized(batch.image)).shape == (len(batch.target), 10)


@pytest.mark.parametrize(("name", "given"), [("mine.safetensors", "alone/mine.safetensors"), (HUB_WEIGHTS, "alone")])
def test_a_file_alone_whose_network_is_a_module_beside_it_runs_it_where_it_is_trusted(
    name, given, tmp_path, monkeypatch, capsys
):  # fmt: skip
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("mdistiller_dfpt.trusted_files.listed", list)
    monkeypatch.delenv("MDISTILLER_DFPT_TRUST", raising=False)
    (tmp_path / "nets_beside.py").write_text(
        "import mdistiller_dfpt as md\n"
        "def build(num_classes):\n    return md.build_model('resnet8', num_classes=num_classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    _, run, _ = trained(tmp_path, "DISTILLER.STUDENT", "nets_beside:build")
    folder, file = tmp_path / "alone", tmp_path / given  # that of weights, or a folder as for a hub
    folder.mkdir()
    shutil.copy(run / "student.safetensors", folder / name)
    with pytest.raises(ConfigError, match=r"DISTILLER.STUDENT names nets_beside:build.*`load_student.*trust=True"):
        md.load_student(file)
    assert md.load_student(file, trust=True).record.student == "nets_beside:build"
    # In a process that has not imported it, and does not find it elsewhere
    monkeypatch.delitem(sys.modules, "nets_beside")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(ConfigError, match="No module named 'nets_beside'"):
        md.load_student(file, trust=True)
    shutil.copy(tmp_path / "nets_beside.py", folder)
    assert md.load_student(file, trust=True).record.student == "nets_beside:build"


NETS = """import mdistiller_dfpt as md
def build(num_classes):
    return md.build_model('resnet8', num_classes=num_classes)
"""
PLUGIN = """import mdistiller_dfpt as md
from mdistiller_dfpt.distillers.vanilla import Vanilla

@md.DISTILLERS.register('A_METHOD_OF_MINE')
class Mine(Vanilla):
    pass
"""


def in_a_new_process(monkeypatch, folder):
    """As in a process that has imported nothing from `folder`, nor has it on its path."""
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.startswith(str(folder))])
    for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(folder))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setattr(plugins, "_files", {})


def test_the_run_of_a_users_network_is_used_from_any_folder_and_never_with_other_code(
    tmp_path, monkeypatch, capsys, registries
):  # fmt: skip
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / "nets_of_a_run.py").write_text(NETS)
    (home / "a.yaml").write_text(
        "_BASE_: digits/vanilla/res20\nDISTILLER: {STUDENT: 'nets_of_a_run:build'}\nLOG: {PREFIX: out}\n"
        "EXPERIMENT: {NAME: mine}\n"
    )
    monkeypatch.chdir(home)
    in_a_new_process(monkeypatch, tmp_path)
    top1 = md.run(md.load_cfg("a.yaml", WORDS))["final"]["top1"]["last"]
    monkeypatch.chdir(elsewhere)
    run = home / "out/mine/seed1"
    in_a_new_process(monkeypatch, tmp_path)
    assert evaluate.main([str(run), "--no-cost"]) == 0
    assert f"top-1 {top1:.2f} %" in capsys.readouterr().out
    # Another network of that name in the working directory is not taken for it
    (elsewhere / "nets_of_a_run.py").write_text(NETS.replace("resnet8", "resnet14"))
    in_a_new_process(monkeypatch, tmp_path)
    assert evaluate.main([str(run), "--no-cost"]) == 0
    assert f"top-1 {top1:.2f} %" in capsys.readouterr().out
    for moved in (False, True):
        if moved:
            (home / "nets_of_a_run.py").unlink()  # the one in the working directory is found
        else:
            (home / "nets_of_a_run.py").write_text(NETS + "# changed\n")
        in_a_new_process(monkeypatch, tmp_path)
        assert evaluate.main([str(run), "--no-cost"]) == 3
        error = capsys.readouterr().err
        assert "the code of its network has changed since it was trained (nets_of_a_run.py had SHA-256 " in error
        assert f"`eval -m nets_of_a_run:build -c {run}/student.safetensors`" in error
    (elsewhere / "nets_of_a_run.py").unlink()
    in_a_new_process(monkeypatch, tmp_path)
    assert evaluate.main([str(run), "--no-cost"]) == 2
    error = capsys.readouterr().err
    assert "nets_of_a_run:build: cannot be imported" in error
    assert "the working directory or a folder of PYTHONPATH" in error
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved/nets_of_a_run.py").write_text(NETS)
    in_a_new_process(monkeypatch, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "moved"))  # as by PYTHONPATH
    assert evaluate.main([str(run), "--no-cost"]) == 0
    assert f"top-1 {top1:.2f} %" in capsys.readouterr().out


def test_a_students_run_does_not_depend_on_a_loss_of_the_users_that_changed_since(tmp_path, monkeypatch, registries):
    plugin = tmp_path / "a_method_of_mine.py"
    plugin.write_text(PLUGIN)
    _, run, _ = trained(tmp_path, "PLUGINS", f"[{plugin}]", "DISTILLER.TYPE", "A_METHOD_OF_MINE")
    assert list(md.load_student(run).record.code) == ["a_method_of_mine.py"]
    plugin.write_text(PLUGIN + "# another loss\n")
    assert md.load_student(run).record.method == "A_METHOD_OF_MINE"
    plugin.write_text(PLUGIN + "    deployed = property(lambda self: self.student)\n")
    monkeypatch.setattr(plugins, "_loaded", {})
    md.DISTILLERS.pop("A_METHOD_OF_MINE")
    with pytest.raises(CheckpointError, match=r"has changed since .*\(a_method_of_mine.py had SHA-256 \w{12}\)"):
        md.load_student(run)


def test_damaged_weights_are_never_used(digits, tmp_path, capsys):
    run, _, _ = digits
    whole = (run / "student.safetensors").read_bytes()
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(whole[:-2000] + bytes(2000))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    for file, words in ((changed, "damaged; its tensors are not those that were saved"), (cut, "cut off or damaged")):
        assert evaluate.main([str(file)]) == 3
        assert words in capsys.readouterr().err
        with pytest.raises(CheckpointError, match=words):
            md.load_student(file)


def test_a_changed_bit_or_digit_of_a_record_is_never_used(digits, tmp_path):
    path, drawn = tmp_path / "student.safetensors", random.Random(1)
    whole = (digits[0] / "student.safetensors").read_bytes()
    path.write_bytes(whole)
    before, header = read_record(path), whole[: 8 + int.from_bytes(whole[:8], "little")]
    digits_of_header = [place for place, one in enumerate(header) if chr(one).isdigit()]
    refused = 0
    for number in range(200):
        damaged = bytearray(whole)
        if number % 2:
            damaged[drawn.randrange(8, len(header))] ^= 1 << drawn.randrange(8)
        else:
            place = drawn.choice(digits_of_header)
            damaged[place] = ord(drawn.choice([d for d in "0123456789" if d != chr(damaged[place])]))
        path.write_bytes(damaged)
        try:
            found = read_record(path)
        except CheckpointError:
            refused += 1
        else:
            assert found in (None, before)
    assert refused > 100


@pytest.mark.parametrize(
    ("written", "instead"), [("STUDENT: resnet8", "STUDENT: resnet20"), ("  MEAN: null", "  MEAN: [0.1, 0.2, 0.3]")]
)
def test_a_config_that_is_not_that_of_the_weights_beside_it_is_refused(written, instead, digits, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(digits[0], run)
    text = (run / "config.yaml").read_text()
    assert written in text
    (run / "config.yaml").write_text(text.replace(written, instead, 1))
    for words in ([str(run)], [str(run / "best.safetensors"), "DATASET.NUM_WORKERS", "0"]):
        assert evaluate.main(words) == 3
        error = capsys.readouterr().err
        assert error.startswith(f"error: {run / 'config.yaml'}: damaged, edited, or not of the run of "), error
        assert instead.strip().partition(":")[0] in error
        assert error.count("\n") == 1


def test_a_config_whose_places_were_edited_is_used(digits, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits[0], run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        text.replace("NUM_WORKERS: 2", "NUM_WORKERS: 0", 1).replace("EPOCHS: 2", "EPOCHS: 4")
    )
    assert md.load_student(run).record == md.load_student(digits[0]).record


def test_a_path_that_is_no_run_is_answered_with_what_is_there(digits, tmp_path):
    run, _, _ = digits
    with pytest.raises(CheckpointError, match=r"no such checkpoint; there are .*res20.seed1"):
        md.load_student(run.parent)
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1/status.json").write_text("{}")
    with pytest.raises(CheckpointError, match="the run has not finished; --resume continues it"):
        md.load_student(tmp_path / "seed1")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(CheckpointError, match="no file of a run"):
        md.load_student(tmp_path / "x.png")


def test_images_that_cannot_be_read_are_named_after_the_others_are_predicted(digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "c.png"):
        Image.new("RGB", (8, 8)).save(name)
    (tmp_path / "b.png").write_text("no image")
    assert predict.main([str(digits[0]), ".", "--batch-size", "1"]) == 3
    done = capsys.readouterr()
    assert [line.partition(":")[0] for line in done.out.splitlines()] == ["a.png", "c.png"]
    assert done.err.startswith("error: b.png: cannot be read as an image")


def test_a_name_with_line_ends_is_one_line_of_what_predict_prints(digits, tmp_path, capsys):
    names = [f"{sign}error: .png" for sign in ("a\nb", "a\r\n", "\x85", "\u2028", "\t", "\x1b[31m", " ")]
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "no\nimage.png").touch()

    def printed(*options):
        assert predict.main([str(digits[0]), str(tmp_path), "--top", "1", *options]) == 3
        done = capsys.readouterr()
        assert done.err.startswith(f"error: {tmp_path}/no\\nimage.png: cannot be read")
        assert len(done.err.splitlines()) == 1
        return done.out

    paths = sorted(str(tmp_path / name) for name in names)
    assert [one["image"] for one in json.loads(printed("--json"))] == paths
    lines, table = printed().splitlines(), printed("--csv").splitlines()
    assert len(lines) == len(table) - 1 == len(names)
    assert len({line.partition("error")[0] for line in lines}) == len(names)
    assert f"{tmp_path}/a\\nberror: .png: " in "".join(lines)
    assert all(line.isprintable() for line in lines + table)


@pytest.mark.parametrize("option", ["--json", "--predictions"])
def test_where_nothing_can_be_written_is_found_before_the_evaluation(option, digits, tmp_path, capsys):
    assert evaluate.main([str(digits[0]), option, str(tmp_path / "none" / "x")]) == 2
    assert f"{option} {tmp_path}/none/x: {tmp_path}/none is no folder" in capsys.readouterr().err
    assert evaluate.main([str(digits[0]), option, str(tmp_path)]) == 2


def test_a_student_says_what_it_takes(digits):
    with pytest.raises(TypeError, match="takes a batch of images as a tensor, not Image"):
        md.load_student(digits[0])(Image.new("RGB", (8, 8)))


def test_a_file_of_a_network_is_known_also_where_more_files_of_its_run_had_its_name(monkeypatch, tmp_path):
    """Two packages of a plugin and a network; the student needs the network's alone."""
    monkeypatch.setattr(student, "sources_of_student", lambda cfg: {"__init__.py": "1" * 64})
    record = SimpleNamespace(code={"losses/__init__.py": "2" * 64, "nets/__init__.py": "1" * 64}, student="nets:build")
    student._check_code(tmp_path, record, None)
    record.code["nets/__init__.py"] = "3" * 64
    with pytest.raises(CheckpointError, match="has changed since it was trained .__init__.py had SHA-256 2222"):
        student._check_code(tmp_path, record, None)
