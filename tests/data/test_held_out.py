"""Held-out samples: a share of the training set that is not trained on, a function of the seed."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.data import build_data
from mdistiller_dfpt.data.generated import write_data_set
from mdistiller_dfpt.data.held_out import held_out_samples, hold_out
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.distillers.kd import KD
from mdistiller_dfpt.errors import ConfigError, DataError
from mdistiller_dfpt.runs.directory import RESULTS
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.trainer import Trainer

from ..tiny_runs import fit, run_of


@pytest.fixture
def holds_out(monkeypatch):
    """KD, which keeps a quarter of the training set: 12 of 48 samples."""
    monkeypatch.setattr(KD, "held_out", 0.25)
    return KD


def read(loader, epoch):
    return torch.cat([batch.index for batch in loader.epoch(epoch)])


def test_they_are_a_share_and_a_function_of_the_seed():
    first = held_out_samples(1000, 0.1, seed=1)
    assert len(first) == len(first.unique()) == 100
    assert torch.equal(first, held_out_samples(1000, 0.1, seed=1))
    assert len(set(first.tolist()) & set(held_out_samples(1000, 0.1, seed=2).tolist())) < 30
    assert len(held_out_samples(8, 0.001, 1)) == 2
    assert len(held_out_samples(8, 0.999, 1)) == 7


def test_no_epoch_has_them_and_every_epoch_has_all_others_in_their_views():
    loader = tiny_data().train
    rest, _ = hold_out(loader, 0.25)
    own = held_out_samples(48, 0.25, loader.seed)
    assert (len(rest), rest.num_per_epoch, rest.last_batch, rest.num_samples) == (3, 36, 4, 48)
    assert (len(loader), loader.num_per_epoch) == (3, 48)
    for epoch in (0, 1, 2):
        seen = read(rest, epoch)
        assert sorted([*seen.tolist(), *own.tolist()]) == list(range(48))
        assert torch.equal(seen, torch.tensor([i for i in read(loader, epoch).tolist() if i not in own]))
    views = {i: image for b in loader.epoch(2) for i, image in zip(b.index.tolist(), b.image, strict=True)}
    for batch in rest.epoch(2):
        assert torch.equal(batch.target, loader.labels[batch.index])
        assert all(torch.equal(views[i], x) for i, x in zip(batch.index.tolist(), batch.image, strict=True))


@pytest.mark.parametrize("in_files", [False, True])
def test_a_step_has_its_batch_whatever_was_read_before(in_files, tmp_path):
    words = write_data_set("folder", tmp_path) if in_files else []
    cfg = tiny_cfg(*words, "SOLVER.BATCH_SIZE", "2", "DATASET.SIZE", "32", "DATASET.NUM_WORKERS", "0")
    loader = (build_data(cfg) if in_files else tiny_data(batch=5)).train
    _, held = hold_out(loader, 0.5)
    steps = [tiny_batch(step=step, epoch=epoch) for epoch in (1, 2) for step in range(1, held.steps + 1)]
    read_on = [held.batch(step) for step in steps]
    again = copy.deepcopy(held)
    for step, batch in reversed(list(zip(steps, read_on, strict=True))):
        assert torch.equal(again.batch(step).image, batch.image)
    number = held.loader.num_samples // held.loader.batch_size
    assert all(torch.equal(a.image, b.image) for a, b in zip(read_on, read_on[number:], strict=False))
    assert not torch.equal(read_on[0].image, read_on[1].image)
    # Without augmentation: the image as a test set has it
    plain = loader.as_test(held_out_samples(loader.num_samples, 0.5, loader.seed))
    first = next(iter(plain.epoch()))
    assert torch.equal(first.image, read_on[0].image)
    assert torch.equal(first.target, loader.labels[held_out_samples(loader.num_samples, 0.5, loader.seed)][first.index])


def test_all_processes_get_the_same_held_out_batch_and_shards_of_the_rest(monkeypatch):
    rest, _ = hold_out(tiny_data().train, 0.25)
    whole = read(rest, 1)
    parts, helds = [], []
    for rank in (0, 1):
        monkeypatch.setattr("mdistiller_dfpt.data.loader.world_size", lambda: 2)
        monkeypatch.setattr("mdistiller_dfpt.data.loader.rank", lambda rank=rank: rank)
        own, held = hold_out(tiny_data().train, 0.25)
        parts.append(read(own, 1))
        helds.append(held.batch(tiny_batch()).image)
    assert sorted(torch.cat(parts).tolist()) == sorted(whole.tolist())
    assert torch.equal(*helds)


def damaged_files(root, *others, damage, split="train"):
    """A dataset of files, of which those at the given positions of the training set are no images."""
    words = write_data_set("folder", root)
    cfg = tiny_cfg(*words, "DATASET.SIZE", "32", "DATASET.NUM_WORKERS", "0", "DATASET.ON_ERROR", "skip", *others)
    paths = build_data(cfg).train.files.paths
    for position in damage(paths):
        Path(paths[position]).write_bytes(b"no image")
    return cfg


def test_where_no_image_of_a_batch_can_be_read_a_step_has_the_next_one_also_after_a_stop(tmp_path):
    seed = 1
    cfg = damaged_files(
        tmp_path, "SOLVER.BATCH_SIZE", "2", "SOLVER.SEED", str(seed),
        damage=lambda paths: held_out_samples(len(paths), 0.5, seed)[2:5].tolist(),
    )  # fmt: skip
    _, held = hold_out(build_data(cfg).train, 0.5)
    steps = [tiny_batch(step=step, epoch=epoch) for epoch in (1, 2, 3) for step in range(1, held.steps + 1)]
    read_on = [held.batch(step) for step in steps]
    for step, batch in list(zip(steps, read_on, strict=True))[::-1]:
        _, resumed = hold_out(build_data(cfg).train, 0.5)
        assert torch.equal(resumed.batch(step).image, batch.image), f"epoch {step.epoch}, step {step.step}"
    assert read_on[1] is read_on[2], "the second batch has no image, and the third one"
    assert len(read_on[2].image) == read_on[2].size == 1
    assert len(read_on[0].image) == 2
    for path in held.loader.files.paths:
        Path(path).write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the .* held-out images can be read"):
        hold_out(build_data(cfg).train, 0.5)[1].batch(steps[0])


def test_they_are_not_among_the_unlabelled_images(holds_out, tmp_path):
    message = r"DATASET.EXTRA.TYPE is digits; {} of the {} training images that KD holds out, .*: name other images"
    cfg = tiny_cfg("DISTILLER.TYPE", "KD", "KD.LOSS.EXTRA_WEIGHT", "0.5", "DATASET.TYPE", "digits",
                   "DATASET.EXTRA.TYPE", "digits")  # fmt: skip
    with pytest.raises(ConfigError, match=message.format(358, 358)):
        Trainer(cfg, tiny_distiller("KD", "KD.LOSS.EXTRA_WEIGHT", "0.5"), build_data(cfg, torch.device("cpu")))
    root = tmp_path / "set"
    words = ("DATASET.SIZE", "32", "DATASET.NUM_WORKERS", "0", "DATASET.EXTRA.TYPE", "images", "SOLVER.BATCH_SIZE", "2")
    cfg = tiny_cfg("DISTILLER.TYPE", "KD", *write_data_set("folder", root), *words, "DATASET.EXTRA.ROOT", str(root))
    with pytest.raises(ConfigError, match=r"training images that .* holds out"):
        Trainer(cfg, tiny_distiller("KD", "KD.LOSS.EXTRA_WEIGHT", "0.5"), build_data(cfg, torch.device("cpu")))
    fit(run_of("KD", tmp_path, "KD.LOSS.EXTRA_WEIGHT", "0.5", "SOLVER.EPOCHS", "1"))


def test_a_list_counts_the_steps_and_the_rows_of_the_others(holds_out, tmp_path):
    """36 of 48 samples: three steps of an epoch, and 36 rows of a memory bank."""
    run = run_of("KD+TAID+CRD", tmp_path, "TAID.ADAPTIVE", "False", "SOLVER.BATCH_SIZE", "16", "CRD.NCE.K", "30")
    taid, crd = (member.distiller for member in run.distiller.members[1:])
    own = held_out_samples(48, 0.25, run.cfg.SOLVER.SEED)
    assert (crd.num_drawn, taid.num_trained) == (36, 36)
    drawn = []
    plain = type(crd).draw
    type(crd).draw, before = lambda self, batch: drawn.append(plain(self, batch)) or drawn[-1], type(crd).draw
    try:
        fit(run)
    finally:
        type(crd).draw = before
    assert not set(torch.cat([rows.flatten() for rows in drawn]).tolist()) & set(own.tolist())
    assert (crd.bank.labels[own] == -2).all()
    assert (crd.bank.labels >= 0).sum() == 36


def test_a_run_trains_on_the_others(holds_out, monkeypatch, tmp_path):
    seen, plain = [], holds_out.losses

    def losses(self, student, teacher, batch):
        seen.extend(batch.index.tolist())
        assert self.forward_held_out(batch)[0].logits.shape == (12, 5)
        return plain(self, student, teacher, batch)

    monkeypatch.setattr(holds_out, "losses", losses)
    run = run_of("KD", tmp_path / "a")
    fit(run)
    results = read_checked_json(run.run / RESULTS)
    own = held_out_samples(48, 0.25, run.cfg.SOLVER.SEED).tolist()
    assert not set(seen) & set(own)
    assert results["protocol"]["train_images"] == 36
    assert results["identity"]["data"] == run_of("KD", tmp_path / "b").identity["data"]


def test_what_it_measures_changes_nothing_of_the_student(holds_out):
    distiller = tiny_distiller("KD")
    before = copy.deepcopy(distiller.state_dict())
    output, target = distiller.forward_held_out(tiny_batch())
    assert (len(output.logits), output.logits.requires_grad, len(target)) == (12, False, 12)
    assert distiller.student.bn1.training
    assert all(torch.equal(v, before[k]) for k, v in distiller.state_dict().items())
    output, _ = distiller.forward_held_out(replace(tiny_batch(), epoch=3))
    assert output.features["pooled_feat"].shape == (12, 8)


def test_a_loop_without_them_is_told_so():
    distiller = tiny_distiller("KD")
    with pytest.raises(ConfigError, match=r"KD measures the student on samples that are not trained on"):
        distiller.forward_held_out(tiny_batch())


def test_the_method_of_a_list_that_holds_samples_out_gets_them(holds_out):
    distiller = tiny_distiller("[KD, AT]")
    members = [part for part in distiller.hooked() if part.held_out]
    assert [type(part) for part in members] == [DISTILLERS["KD"]]
    assert members[0].held is not None
