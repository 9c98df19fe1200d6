"""The table of a teacher's logits: the same training as with the teacher, and never a wrong number."""

import numpy as np
import pytest
import torch

from mdistiller_dfpt.data.resident import ResidentLoader
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.distillers.teacher_table import TeacherTable
from mdistiller_dfpt.engine import Trainer
from mdistiller_dfpt.errors import ConfigError

from .conftest import tiny_cfg, tiny_data, tiny_distiller

TAUGHT = sorted(n for n, m in DISTILLERS.items() if m.needs_teacher)


def allowed(name):
    method = DISTILLERS[name]
    alone = not method.looks_at_teacher_maps and not method.needs_strong_view
    return alone and tiny_distiller(name).uses_teacher_output  # the last of a chain of assistants teaches in its place


def run(name, folder, *words, table="table", **data):
    words = (*words, "DISTILLER.TEACHER_TABLE", str(folder / table)) if table else words
    cfg = tiny_cfg("DISTILLER.TYPE", name, "LOG.PREFIX", str(folder / "out"), "EXPERIMENT.TAG", table or "live", *words)
    return Trainer(cfg, tiny_distiller(name), tiny_data(**data))


def test_the_methods_over_logits_are_those_that_may_use_it():
    assert {"KD", "DKD", "LSKD", "DIST", "NKD", "CTKD"} <= {n for n in TAUGHT if allowed(n)}
    assert not {"CRD", "DFPTKD", "REVIEWKD", "MLLD", "KDPP"} & {n for n in TAUGHT if allowed(n)}


@pytest.mark.parametrize("name", [n for n in TAUGHT if allowed(n)])
def test_an_epoch_from_the_table_is_one_with_the_teacher_to_its_rounding(name, tmp_path):
    live, first, second = run(name, tmp_path, table=""), run(name, tmp_path), run(name, tmp_path)
    expected = live.one_epoch()
    for trainer in (first, second):
        assert trainer.one_epoch() == pytest.approx(expected, rel=1e-2, abs=2e-3)
    assert first.distiller.teacher_table.computed == 48
    assert second.distiller.teacher_table.computed == 0, "the second run finds what the first one left"
    for key, value in first.distiller.state_dict().items():
        assert torch.equal(value, second.distiller.state_dict()[key]), key


def test_a_filled_table_runs_no_teacher(tmp_path):
    run("KD", tmp_path).one_epoch()
    second, calls = run("KD", tmp_path), []
    second.distiller.teacher.register_forward_hook(lambda *a: calls.append(1))
    second.one_epoch()
    assert calls == []


@pytest.mark.parametrize("name", [n for n in TAUGHT if not allowed(n)])
def test_methods_that_take_more_than_logits_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=rf"{name} takes more of the teacher than its logits"):
        run(name, tmp_path)


def test_another_teacher_precision_or_data_set_has_another_file(tmp_path):
    def path(*words, change=None, **data):
        trainer = run("KD", tmp_path, *words, table="", **data)
        if change:
            with torch.no_grad():
                trainer.distiller.teacher.fc.bias += 1
        cfg = tiny_cfg("DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_TABLE", str(tmp_path / "t"), *words)
        return Trainer(cfg, trainer.distiller, trainer.data).distiller.teacher_table.path

    paths = [path(), path(change=True), path("SOLVER.AMP", "bf16"), path(train=44)]
    assert len(set(paths)) == 4
    assert path() == paths[0]


def filled(folder):
    table = TeacherTable(folder, "k", 5, 3, 4)
    index, view = torch.arange(5), torch.tensor([0, 1, 2, 0, 1])
    logits = table.logits(torch.randn(5, 3, 8, 8), index, view, lambda x: torch.arange(4.0) + x[:, 0, 0, :1])
    return table, index, view, logits


@pytest.mark.parametrize("fault", ["flipped", "zeroed", "cut off"])
def test_a_damaged_row_is_computed_anew(fault, tmp_path):
    table, index, view, logits = filled(tmp_path)
    row = table.rows[2, 2]
    if fault == "flipped":
        row.view(np.uint8)[3] ^= 1
    elif fault == "zeroed":
        row[:2] = 0
    else:
        table.rows.flush()
        size = table.path.stat().st_size
        with open(table.path, "r+b") as f:
            f.truncate(2 * 6 * (2 * 3 + 2) + 4)
            f.truncate(size)
    again, seen = TeacherTable(tmp_path, "k", 5, 3, 4), []
    found = again.logits(torch.zeros(5, 3, 8, 8), index, view, lambda x: seen.append(len(x)) or torch.zeros(len(x), 4))
    assert seen == [1 if fault != "cut off" else 3]
    whole = [0, 1, 3, 4] if fault != "cut off" else [0, 1]
    assert torch.equal(found[whole], logits[whole])


def test_every_view_of_every_sample_has_a_number_of_its_own():
    loader: ResidentLoader = tiny_data().train
    offsets = torch.arange(3)
    dy, dx, flip = (x.flatten() for x in torch.meshgrid(offsets, offsets, torch.arange(2), indexing="ij"))
    numbers = loader._number((dy, dx, flip.bool()))
    assert loader.num_views == 18
    assert sorted(numbers.tolist()) == list(range(18))
    images = {}
    for epoch in range(1, 40):
        for batch in loader.epoch(epoch):
            for i, v, image in zip(batch.index.tolist(), batch.view.tolist(), batch.image, strict=True):
                assert torch.equal(images.setdefault((i, v), image), image)
    assert len(images) > 600


def test_a_table_that_cannot_be_kept_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="it cannot be written"):
        TeacherTable(tmp_path / "file", "k", 5, 3, 4)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("U", (), {"free": 10})())
    with pytest.raises(ConfigError, match=r"the table takes 1\.0 GB, 0\.0 GB are free"):
        TeacherTable(tmp_path, "k", 50_000, 100, 98)


def test_results_say_that_the_logits_came_from_a_table(tmp_path):
    assert run("KD", tmp_path).fit()["protocol"]["teacher_logits"] == "a table in float16"
    assert "teacher_logits" not in run("KD", tmp_path, table="").fit()["protocol"]
