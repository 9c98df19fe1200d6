"""The table of a teacher's logits: the same training as with the teacher, and never a wrong number."""

import numpy as np
import pytest
import torch

from mdistiller_dfpt.data.in_memory import InMemoryLoader
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.runs.saving import Saver
from mdistiller_dfpt.teachers.logits_cache import TeacherTable
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.signals import Stopped
from mdistiller_dfpt.training.trainer import Trainer

from .tape import TapeRecorder

TAUGHT = sorted(n for n, m in DISTILLERS.items() if m.needs_teacher)


def allowed(name):
    method = DISTILLERS[name]
    alone = not method.looks_at_teacher_maps and not method.needs_strong_view
    return alone and tiny_distiller(name).uses_teacher_output  # the last of a chain of assistants teaches in its place


def run(name, folder, *words, table="table", **data):
    words = (*words, "DISTILLER.TEACHER_TABLE", str(folder / table)) if table else words
    cfg = tiny_cfg("DISTILLER.TYPE", name, "LOG.PREFIX", str(folder / "out"), "EXPERIMENT.TAG", table or "live", *words)
    return Trainer(cfg, tiny_distiller(name, *words), tiny_data(**data))


def test_the_methods_over_logits_are_those_that_may_use_it():
    assert {"KD", "DKD", "LSKD", "DIST", "NKD", "CTKD", "DFPTKD"} <= {n for n in TAUGHT if allowed(n)}
    assert not {"CRD", "REVIEWKD", "MLLD", "KDPP"} & {n for n in TAUGHT if allowed(n)}


@pytest.mark.parametrize("name", [n for n in TAUGHT if allowed(n)])
def test_an_epoch_from_the_table_is_one_with_the_teacher_to_its_rounding(name, tmp_path):
    live, first, second = run(name, tmp_path, table=""), run(name, tmp_path), run(name, tmp_path)
    expected = live.one_epoch()
    for trainer in (first, second):
        assert trainer.one_epoch() == pytest.approx(expected, rel=1e-2, abs=2e-3)
    assert first.distiller.known_logits.computed == 48
    assert second.distiller.known_logits.computed == 0, "the second run finds what the first one left"
    for key, value in first.distiller.state_dict().items():
        assert torch.equal(value, second.distiller.state_dict()[key]), key


def test_a_filled_table_runs_no_teacher(tmp_path):
    run("KD", tmp_path).one_epoch()
    second, calls = run("KD", tmp_path), []
    second.distiller.teacher.register_forward_hook(lambda *a: calls.append(1))
    second.one_epoch()
    assert calls == []


@pytest.mark.parametrize(("finetune", "stages"), [(False, 1), (True, 0)])
def test_beside_a_table_the_prompt_path_computes_the_stages_before_its_first_prompt_alone(finetune, stages, tmp_path):
    words = ("DFPTKD.FINETUNE_BACKBONE", str(finetune))
    run("DFPTKD", tmp_path, *words).one_epoch()
    second, calls = run("DFPTKD", tmp_path, *words), []
    for number, name in enumerate(("layer1", "layer2"), start=1):
        layer = getattr(second.distiller.teacher, name)
        layer.register_forward_hook(lambda *a, number=number: calls.append(number))
    second.one_epoch()
    assert calls == [1] * 3 * stages


AT_ONCE = ("DISTILLER.TEACHER_TABLE_FILL", "at once")


@pytest.mark.parametrize("name", ["KD", "DFPTKD"])
def test_a_table_filled_at_once_trains_as_one_filled_lazily(name, tmp_path):
    lazy, whole = run(name, tmp_path), run(name, tmp_path, *AT_ONCE, table="whole")
    table, calls = whole.distiller.known_logits, []
    whole._prepare()
    assert table.computed == 48 * 18
    whole.distiller.teacher.fc.register_forward_hook(lambda *a: calls.append(1))
    assert whole.one_epoch() == pytest.approx(lazy.one_epoch(), rel=1e-3)
    assert calls == []
    again = run(name, tmp_path, *AT_ONCE, table="whole")
    again._prepare()
    assert torch.equal(again.distiller.known_logits.rows, whole.distiller.known_logits.rows)


def test_filling_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("mdistiller_dfpt.teachers.logits_cache.PASS", 36)  # two samples at a time
    first = run("KD", tmp_path, *AT_ONCE)
    looks = iter([0, 0, 15])
    monkeypatch.setattr(first.requests, "take_stop", lambda: next(looks))
    with pytest.raises(Stopped, match="SIGTERM while the teacher's table was filled; continue with --resume"):
        first._prepare()
    second = run("KD", tmp_path, *AT_ONCE)
    table = second.distiller.known_logits
    second._prepare()
    assert table.computed == (48 - 3 * 2) * 18


def test_a_whole_table_can_be_read_by_a_captured_step_and_one_that_grows_cannot(tmp_path):
    whole, lazy = run("KD", tmp_path, *AT_ONCE), run("KD", tmp_path)
    whole._prepare()
    for trainer, fits in ((whole, True), (lazy, False)):
        trainer._recorder = TapeRecorder
        trainer.updater.waits_for_verdict = False
        trainer.use_graphs()
        for epoch in (1, 2, 3):
            trainer.step = 0
            trainer._train_epoch(epoch)
        assert trainer.graphs.broken != fits


AHEAD = ("DISTILLER.TEACHER_AHEAD", "2")


@pytest.mark.parametrize("name", [n for n in TAUGHT if allowed(n)])
def test_looking_ahead_trains_as_not_looking_ahead_does(name, tmp_path):
    live, ahead = run(name, tmp_path, table=""), run(name, tmp_path, *AHEAD, table="")
    passes = []
    ahead.distiller.teacher.fc.register_forward_hook(lambda module, args, out: passes.append(len(out)))
    for epoch in (1, 2):
        live.step = ahead.step = 0
        assert ahead._train_epoch(epoch) == pytest.approx(live._train_epoch(epoch), rel=1e-3, abs=1e-3)
    assert passes == [32, 16] * 2


def test_a_run_that_goes_on_between_two_passes_sees_the_same_numbers(tmp_path):
    words = (*AHEAD, "LOG.SAVE_EVERY", "1 steps", "DISTILLER.TYPE", "DKD")
    whole = run("DKD", tmp_path, *words, "EXPERIMENT.TAG", "whole", table="")
    save, expected = Saver.save, whole.fit()

    def save_and_stop(self, done):
        save(self, done)
        if done.step == 1:
            raise KeyboardInterrupt

    stopped = run("DKD", tmp_path, *words, table="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            stopped.fit()
    resumed = run("DKD", tmp_path, *words, table="").fit(resume=True)
    assert resumed["student_sha256"] == expected["student_sha256"]


@pytest.mark.parametrize(("name", "words", "message"), [
    ("CRD", (), "DISTILLER.TEACHER_AHEAD is 2; CRD takes more of the teacher than its logits"),
    ("KD", ("DISTILLER.TEACHER_TABLE", "somewhere"), "TEACHER_AHEAD and DISTILLER.TEACHER_TABLE exclude each other"),
])  # fmt: skip
def test_looking_ahead_is_for_logits_and_not_beside_a_table(name, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        run(name, tmp_path, *AHEAD, *words, table="")


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
        return Trainer(cfg, trainer.distiller, trainer.data).distiller.known_logits.path

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
    loader: InMemoryLoader = tiny_data().train
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
