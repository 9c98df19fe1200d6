"""The validation set: a share of each class, the same in all runs, never trained on; the test set is for the end."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mdistiller_dfpt as md
from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.data.build import DATASETS
from mdistiller_dfpt.data.content import FIRST, common_to
from mdistiller_dfpt.data.image_files import FileSet
from mdistiller_dfpt.data.validation import validation_samples
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.run import config_of
from mdistiller_dfpt.report import load_results
from mdistiller_dfpt.testing import tiny_cfg, tiny_distiller
from mdistiller_dfpt.training import loop
from mdistiller_dfpt.training.evaluate import evaluate, evaluate_method

WORDS = ["LOG.TENSORBOARD", "False", "EXPERIMENT.DEVICE", "cpu", "EXPERIMENT.THREADS", "1", "DISTILLER.STUDENT",
         "resnet8", "DATASET.VALIDATION", "0.2", "SOLVER.EPOCHS", "3", "SOLVER.BATCH_SIZE", "256"]  # fmt: skip


def cfg_of(folder, *words):
    return md.load_cfg("digits/vanilla/res20", [*WORDS, "LOG.PREFIX", str(folder), *words])


def test_each_class_gives_its_share_and_keeps_some():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [3])
    index = validation_samples(labels, 0.1)
    assert labels[index].bincount(minlength=4).tolist() == [5, 1, 1, 0]
    assert torch.equal(index, index.unique())
    assert validation_samples(labels, 0.99)[-1] < 62
    assert labels[validation_samples(labels, 0.99)].bincount(minlength=4).tolist() == [49, 9, 1, 0]


def test_the_split_is_that_of_no_seed_and_no_image_is_in_both(tmp_path):
    whole = md.build_data(cfg_of(tmp_path, "DATASET.VALIDATION", "0.0"))
    one, other = (md.build_data(cfg_of(tmp_path, "SOLVER.SEED", seed)) for seed in "12")
    assert torch.equal(one.validation.padded, other.validation.padded)
    assert one.num_train + one.validation.num_samples == whole.num_train
    assert one.validation.num_samples == pytest.approx(0.2 * whole.num_train, abs=10)
    rows = {tuple(image.flatten().tolist()) for image in one.validation.padded}
    pad = one.train.recipe.pad
    train = {tuple(image.flatten().tolist()) for image in one.train.padded[:, pad:-pad, pad:-pad]}
    everything = {tuple(image.flatten().tolist()) for image in whole.train.padded[:, pad:-pad, pad:-pad]}
    assert rows | train == everything
    assert len(rows & train) <= len(one.validation.padded) // 100, "the digits hold a few images twice"
    assert torch.equal(one.test.padded, whole.test.padded)
    assert whole.validation is None
    assert whole.judges is whole.test
    assert one.judges is one.validation


def test_copies_of_training_images_in_it_are_said(tmp_path, capsys, monkeypatch):
    source = DATASETS["digits"](cfg_of(tmp_path))
    chosen = validation_samples(source.train.labels, 0.2)
    kept = next(i for i in range(len(source.train.labels)) if i not in chosen)
    source.train.images[chosen[:30]] = source.train.images[kept].clone()
    monkeypatch.setitem(DATASETS, "digits", lambda cfg: source)
    capsys.readouterr()
    data = md.build_data(cfg_of(tmp_path))
    own, train = data.validation.contents(), set(data.train.contents())
    both = sum(content in train for content in own)
    assert both >= 30
    assert f"note: {both} of {len(own)} validation images are training images too\n" in capsys.readouterr().out


def test_copies_of_files_are_found(tmp_path):
    white = "w" * FIRST  # the beginning of an image without compression
    contents = {"a": "x", "b": "y", "c": "x", "d": "z", "e": "zz", "f": f"{white}x", "g": f"{white}y"}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)

    def files(names):
        return FileSet([str(tmp_path / name) for name in names], torch.zeros(len(names)).long(), ("one",))

    pairs = {("ad", "bce"): 1, ("bd", "ace"): 0, ("f", "g"): 0, ("f", "fg"): 1}
    assert {pair: common_to(*map(files, pair)) for pair in pairs} == pairs


def test_image_files_are_split_too(tmp_path):
    from PIL import Image

    for split, count in (("train", 10), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / split / name / f"{i}.png")
    words = [
        "DATASET.TYPE",
        "folder",
        "DATASET.ROOT",
        str(tmp_path),
        "SOLVER.BATCH_SIZE",
        "4",
        "DATASET.NUM_WORKERS",
        "0",
    ]
    data = md.build_data(md.load_cfg(None, [*words, "DATASET.VALIDATION", "0.3"]))
    assert (data.num_train, data.validation.num_samples, data.test.num_samples) == (14, 6, 4)
    assert not set(data.train.files.paths) & set(data.validation.files.paths)
    with pytest.raises(ConfigError, match="BATCH_SIZE is 15; folder has 14 training images"):
        md.build_data(md.load_cfg(None, [*words, "SOLVER.BATCH_SIZE", "15", "DATASET.VALIDATION", "0.3"]))


def test_its_images_are_not_among_the_unlabelled_ones():
    words = ("KD.LOSS.EXTRA_WEIGHT", "0.5")
    cfg = tiny_cfg("DISTILLER.TYPE", "KD", *words, "DATASET.TYPE", "digits", "DATASET.EXTRA.TYPE", "digits",
                   "DATASET.VALIDATION", "0.1")  # fmt: skip
    data = md.build_data(cfg, torch.device("cpu"))
    count = data.validation.num_samples
    with pytest.raises(ConfigError, match=f"{count} of the {count} validation images are among these: name other"):
        md.Trainer(cfg, tiny_distiller("KD", *words), data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory and the config of a finished run that was judged by a validation set."""
    cfg = cfg_of(tmp_path_factory.mktemp("runs"), "SOLVER.LR", "0.5", "SOLVER.SCHEDULE", "step", "SOLVER.SEED", "3")
    md.run(cfg)
    return next(d for d in Path(cfg.LOG.PREFIX).rglob("seed3") if (d / "results.json").exists()), cfg


def test_the_best_epoch_is_chosen_by_it_and_both_are_tested_once(run, capsys):
    folder, cfg = run
    results, data = read_checked_json(folder / "results.json"), md.build_data(cfg)
    assert all("test" not in epoch for epoch in results["epochs"])
    judged = [epoch["validation"]["student"]["top1"] for epoch in results["epochs"]]
    final = results["final"]["top1"]
    assert final["best_epoch"] == 1 + judged.index(max(judged))
    assert results["final"]["validation"]["top1"] == {
        "last": judged[-1], "best": max(judged), "best_epoch": final["best_epoch"], "mean_last_5": None,
    }  # fmt: skip
    for name, key in (("student.safetensors", "last"), ("best.safetensors", "best")):
        student = md.load_student(folder / name)
        assert final[key] == pytest.approx(evaluate(lambda x, s=student: {"s": s(x)}, data.test)["s"]["top1"])
        on_validation = evaluate(lambda x, s=student: {"s": s(x)}, data.validation)["s"]["top1"]
        assert on_validation == pytest.approx(judged[-1] if key == "last" else max(judged))
    assert results["protocol"]["validation_images"] == data.validation.num_samples
    assert results["protocol"]["settings"]["DATASET.VALIDATION"] == 0.2


def test_the_weights_of_the_last_epoch_are_kept_after_those_of_the_best_were_tested(run):
    folder, _ = run
    results = read_checked_json(folder / "results.json")
    last, best = load_file(folder / "student.safetensors"), load_file(folder / "best.safetensors")
    same = all(torch.equal(last[key], best[key]) for key in last)
    assert same is (results["final"]["top1"]["best_epoch"] == 3)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    """The folder of a run that gets worse with each epoch, by the validation set."""
    cfg, falling = cfg_of(tmp_path_factory.mktemp("spoiled")), iter([30.0, 20.0, 10.0])

    def evaluate_worse(*arguments):
        found = evaluate_method(*arguments)
        found["student"].update(dict.fromkeys(("top1", "top5"), next(falling)))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluate_method", evaluate_worse)
        md.run(cfg)
    return Path(cfg.LOG.PREFIX) / "digits/vanilla/res20/seed1"


@pytest.mark.parametrize("fault", ["none", "missing", "of another epoch", "other tensors"])
def test_best_is_of_the_weights_that_were_best_or_of_the_last_epoch_and_says_so(fault, spoiled, tmp_path, capsys):
    before = read_checked_json(spoiled / "results.json")["final"]
    assert before["top1"]["best_epoch"] == 1
    copy = shutil.copytree(spoiled, tmp_path / "copy")
    (copy / "results.json").unlink()  # it is judged again
    best, tensors = copy / "best.safetensors", load_file(copy / "best.safetensors")
    if fault == "missing":
        best.unlink()
    elif fault == "of another epoch":
        shutil.copy(copy / "student.safetensors", best)
    elif fault == "other tensors":
        with safe_open(best, "pt") as file:
            metadata = file.metadata()
        save_file({name: value + 1 if value.is_floating_point() else value for name, value in tensors.items()}, best,
                  metadata)  # fmt: skip
    found, said = md.run(config_of(copy, []), copy)["final"], capsys.readouterr().err
    if fault == "none":
        assert found == before
        assert md.load_student(best).record.epoch == 1
        assert "best.safetensors" not in said
        return
    for metric in ("top1", "top5"):
        last = before[metric]["last"]
        assert found[metric] == {"last": last, "best": last, "best_epoch": 3, "mean_last_5": None}
    assert md.load_student(best).record.epoch == 3
    assert f"warning: {best}: " in said
    assert "`best` is that of the last epoch" in said


def test_a_report_says_what_the_epochs_were_judged_by(run):
    (result,) = load_results(run[0].parent)
    assert result.judged_on == "validation"
    assert [e["epoch"] for e in result.evaluated] == [1, 2, 3]
    assert result.evaluations == [1, 2, 3]


def test_the_records_of_the_students_have_their_accuracies_on_the_test_set(run):
    final = read_checked_json(run[0] / "results.json")["final"]
    for name, key in (("student.safetensors", "last"), ("best.safetensors", "best")):
        assert md.load_student(run[0] / name).record.accuracy == {m: final[m][key] for m in ("top1", "top5")}
