"""`eval` on other data than those of the run says so, in its output and in its file."""

import json

import pytest
import torch
from PIL import Image

import mdistiller_dfpt as md
from mdistiller_dfpt.commands import evaluate

CLASSES = ("cat", "dog")


def write(folder, split, name, count, seed):
    place = folder / split / name
    place.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        pixels = torch.randint(256, (16, 16, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(place / f"{number}.png")


@pytest.fixture
def run(tmp_path):
    """A run of one epoch on eight training and six test images, and their folder."""
    images = tmp_path / "images"
    for number, name in enumerate(CLASSES):
        write(images, "train", name, 4, number)
        write(images, "val", name, 3, 10 + number)
    words = {
        "DATASET.TYPE": "folder", "DATASET.ROOT": str(images), "DATASET.SIZE": 16, "DATASET.NUM_WORKERS": 0,
        "MODEL.FAMILY": "cifar",
        "DISTILLER.TYPE": "NONE", "DISTILLER.STUDENT": "resnet8", "SOLVER.EPOCHS": 1, "SOLVER.BATCH_SIZE": 8,
        "LOG.PREFIX": str(tmp_path / "out"), "LOG.TENSORBOARD": False, "EXPERIMENT.NAME": "r",
        "EXPERIMENT.DEVICE": "cpu",
    }  # fmt: skip
    md.run(md.load_cfg(None, words))
    return tmp_path / "out/r/seed1", images


def evaluated(capsys, folder, *words):
    assert evaluate.main([str(folder), *words, "--no-cost", "--json", str(folder / "e.json")]) == 0
    return capsys.readouterr().out.splitlines(), json.loads((folder / "e.json").read_text())


def test_an_evaluation_on_other_images_says_so(run, capsys):
    run, images = run
    lines, found = evaluated(capsys, run)
    assert "other_data" not in found
    assert not [line for line in lines if line.startswith("note: ")]
    write(images, "val", "cat", 3, 99)  # of the same names, and most likely of another size in bytes
    why = "the dataset has other images or labels"
    lines, found = evaluated(capsys, run)
    assert (lines[1], found["other_data"]) == (f"note: these are not the data of its run: {why}", why)
    write(images, "val", "cat", 5, 99)
    assert evaluated(capsys, run)[1]["other_data"] == "the dataset has 8 test images here, 6 in its run"


@pytest.mark.parametrize("place", [".", "best.safetensors", "checkpoints/epoch-00001"])
def test_weights_of_a_run_that_are_given_by_their_place_say_it_too(place, run, capsys):
    run, images = run
    words = ["--cfg", str(run / "config.yaml"), "-c", str(run / place)]
    assert evaluate.main(words) == 0
    plain = capsys.readouterr().out
    (images / "val/dog/0.png").unlink()
    assert evaluate.main(words) == 0
    line = "note: these are not the data of its run: the dataset has 5 test images here, 6 in its run\n"
    assert (line in capsys.readouterr().out, line in plain) == (True, False)


def test_weights_without_a_run_have_no_data_to_compare(run, capsys):
    run, images = run
    alone = run.parents[1] / "alone"
    alone.mkdir()
    (alone / "s.safetensors").write_bytes((run / "student.safetensors").read_bytes())
    (images / "val/dog/0.png").unlink()
    words = [str(alone / "s.safetensors"), "DATASET.ROOT", str(images), "--no-cost"]
    assert evaluate.main(words) == 0
    assert "note: " not in capsys.readouterr().out


def test_accuracies_on_other_images_are_not_kept_with_the_run(run, capsys, monkeypatch):
    run, images = run
    monkeypatch.setattr("mdistiller_dfpt.launch.robustness.corrupted", lambda image, *key: image)
    (images / "val/dog/0.png").unlink()
    assert evaluate.main([str(run), "--no-cost", "--corruptions"]) == 0
    assert not (run / "corruptions.json").exists()
    write(images, "val", "dog", 3, 11)
    assert evaluate.main([str(run), "--no-cost", "--corruptions"]) == 0
    assert "kept in" in capsys.readouterr().out
