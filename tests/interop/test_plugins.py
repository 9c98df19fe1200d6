"""User code, and methods written for mdistiller."""

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode as CN

from mdistiller_dfpt import DISTILLERS, MODELS, SCHEDULES, Distiller, label, load_cfg
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError, PluginError
from mdistiller_dfpt.interop import from_mdistiller as foreign
from mdistiller_dfpt.interop import plugins
from mdistiller_dfpt.interop.mdistiller_base import MdistillerBase
from mdistiller_dfpt.testing import (
    changed,
    snapshot,
    take_steps,
    tiny_batch,
    tiny_cfg,
    tiny_data,
    tiny_distiller,
)  # fmt: skip
from mdistiller_dfpt.training.trainer import Trainer

from ..forks import in_processes
from ..tiny_runs import fit

FOR_MDISTILLER = '''
"""A method as written for mdistiller: with its own adapter and config section."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from yacs.config import CfgNode as CN

from mdistiller.distillers import distiller_dict
from mdistiller.distillers._base import Distiller
from mdistiller.distillers.KD import kd_loss
from mdistiller.engine.cfg import CFG

CFG.{name} = CN()
CFG.{name}.WEIGHT = 0.5
CFG.{name}.LOSS = CN()
CFG.{name}.LOSS.T = 2.0


class Mine(Distiller):
    def __init__(self, student, teacher, cfg):
        super(Mine, self).__init__(student, teacher)
        self.weight, self.t = cfg.{name}.WEIGHT, cfg.{name}.LOSS.T
        self.adapter = nn.Linear(5, 5)

    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + list(self.adapter.parameters())

    def forward_train(self, image, target, **kwargs):
        assert kwargs["epoch"] >= 1
        logits, _ = self.student(image)
        with torch.no_grad():
            teacher, _ = self.teacher(image)
        loss = self.weight * kd_loss(self.adapter(logits), teacher, self.t)
        return logits, {{"loss_ce": F.cross_entropy(logits, target), "loss_kd": loss}}
'''


@pytest.fixture(autouse=True)
def _registries(registries):
    """Removes everything that a test registers or imports."""


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("registered", [True, False])
def test_a_method_written_for_mdistiller_runs_unchanged(tmp_path, registered):
    text = FOR_MDISTILLER.format(name="MINE") + ('\ndistiller_dict["MINE"] = Mine\n' if registered else "")
    write(tmp_path, "mine.py", text)
    path = write(tmp_path, "c.yaml", "PLUGINS: [./mine.py]\nDISTILLER: {TYPE: MINE}\nMINE: {LOSS: {T: 3}}\n")
    cfg = load_cfg(path, ["MINE.WEIGHT", "0.25", "SOLVER.BATCH_SIZE", "16"])
    assert (cfg.MINE.WEIGHT, cfg.MINE.LOSS.T) == (0.25, 3.0)
    distiller = tiny_distiller("MINE", "MINE.WEIGHT", "0.25")
    before = snapshot(distiller.teacher)
    batch = tiny_batch()
    logits, terms = distiller(batch)
    assert {name: term.kind for name, term in terms.items()} == {"loss_ce": "label", "loss_kd": "distillation"}
    with torch.no_grad():
        teacher = distiller.teacher_network(batch.image)[0]
    expected = 0.25 * kd_loss(distiller.method.adapter(logits), teacher, 2.0)
    torch.testing.assert_close(terms["loss_kd"].weighted, expected)
    history = take_steps(distiller, 8)
    assert history[-1] < history[0]
    assert changed(before, distiller.teacher.state_dict()) == []
    assert any("adapter" in key for key in distiller.training_state())


def test_in_two_processes_its_terms_are_weighted_by_the_size_of_the_shard(tmp_path, monkeypatch):
    """Three of five samples here: the mean over both processes is the mean over all samples."""
    write(tmp_path, "mine.py", FOR_MDISTILLER.format(name="MINE"))
    load_cfg(write(tmp_path, "c.yaml", "PLUGINS: [mine.py]\n"))
    distiller = tiny_distiller("MINE")
    _, alone = distiller(tiny_batch(3))
    monkeypatch.setattr("mdistiller_dfpt.losses.sharded.world_size", lambda: 2)
    _, shared = distiller(replace(tiny_batch(3), total=5))
    assert {name: term.weight for name, term in shared.items()} == pytest.approx({"loss_ce": 1.2, "loss_kd": 1.2})
    assert {name: term.value for name, term in shared.items()} == {name: term.value for name, term in alone.items()}


def test_its_networks_run_in_bfloat16_and_its_losses_in_float32(tmp_path):
    write(tmp_path, "mine.py", FOR_MDISTILLER.format(name="MINE"))
    load_cfg(write(tmp_path, "c.yaml", "PLUGINS: [mine.py]\n"))
    distiller = tiny_distiller("MINE", "SOLVER.AMP", "bf16")
    seen = []
    distiller.student.fc.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    logits, terms = distiller(tiny_batch())
    assert seen == [torch.bfloat16]
    assert {logits.dtype, *(term.value.dtype for term in terms.values())} == {torch.float32}
    assert "forward" not in vars(distiller.student)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("[KD, MINE]",), "DISTILLER.TYPE: MINE runs the networks itself and cannot be in a list"),
        (("MINE", "DISTILLER.PATHS", "{teacher: 2}"), "DISTILLER.PATHS: MINE runs the networks itself"),
        (("MINE", "DISTILLER.TEACHER_KIND", "dual_path"), "DISTILLER.PATHS: MINE runs the networks itself"),
        (
            ("MINE", "DISTILLER.TEACHER_KIND", "ensemble"),
            "Mine is written for mdistiller and runs the teacher's network",
        ),
    ],
)
def test_unsupported_settings_are_refused_by_name_in_one_line(words, message, tmp_path):
    write(tmp_path, "mine.py", FOR_MDISTILLER.format(name="MINE"))
    load_cfg(write(tmp_path, "c.yaml", "PLUGINS: [mine.py]\n"))
    with pytest.raises(ConfigError) as info:
        tiny_distiller(*words)
    assert message in str(info.value)
    assert len(str(info.value).splitlines()) == 1
    assert info.value.exit_code == 2


def test_a_vector_of_losses_becomes_its_mean_as_in_mdistillers_trainer(tmp_path):
    text = FOR_MDISTILLER.format(name="MINE").replace(
        "F.cross_entropy(logits, target)", 'F.cross_entropy(logits, target, reduction="none")'
    )
    write(tmp_path, "mine.py", text)
    load_cfg(write(tmp_path, "c.yaml", "PLUGINS: [mine.py]\n"))
    logits, terms = tiny_distiller("MINE")(tiny_batch())
    torch.testing.assert_close(terms["loss_ce"].value, torch.nn.functional.cross_entropy(logits, tiny_batch().target))


def test_it_resumes_and_steps_by_two_momenta(tmp_path):
    write(tmp_path, "mine.py", FOR_MDISTILLER.format(name="MINE"))
    load_cfg(write(tmp_path, "c.yaml", "PLUGINS: [mine.py]\n"))
    words = ["DISTILLER.TYPE", "MINE", "LOG.PREFIX", str(tmp_path / "out"), "SOLVER.TRAINER", "dot"]
    whole = fit(Trainer(tiny_cfg(*words), tiny_distiller("MINE", *words), tiny_data()))
    words[3] = str(tmp_path / "cut")
    fit(Trainer(tiny_cfg(*words, "SOLVER.EPOCHS", "1"), tiny_distiller("MINE", *words), tiny_data()))
    resumed = fit(Trainer(tiny_cfg(*words), tiny_distiller("MINE", *words), tiny_data()), resume=True)
    assert resumed["student_sha256"] == whole["student_sha256"]


def test_a_class_of_ours_may_take_the_whole_config(tmp_path):
    @DISTILLERS.register("OWN")
    class Own(Distiller):
        config = CN({"WEIGHT": 2.0})

        def __init__(self, student, teacher, cfg):
            super().__init__(student, teacher)
            self.weight = cfg.OWN.WEIGHT

        def losses(self, student, teacher, batch):
            return {"ce": label(torch.nn.functional.cross_entropy(student.logits, batch.target), self.weight)}

    assert tiny_distiller("OWN", "OWN.WEIGHT", "3").weight == 3


def test_a_module_by_name_and_an_entry_point(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "a_package").mkdir()
    write(tmp_path / "a_package", "__init__.py", "")
    write(tmp_path / "a_package", "method.py", FOR_MDISTILLER.format(name="NAMED"))
    assert load_cfg(None, ["PLUGINS", "[a_package.method]"]).PLUGINS == ["a_package.method"]
    write(tmp_path / "a_package", "other.py", FOR_MDISTILLER.format(name="POINT") + "distiller_dict['POINT'] = Mine\n")
    points = [EntryPoint("a", "a_package.other", plugins.GROUP), EntryPoint("b", "a_package.nothing", plugins.GROUP)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == plugins.GROUP else [])
    plugins._published.clear()
    assert load_cfg(None, ["DISTILLER.TYPE", "POINT"]).POINT.WEIGHT == 0.5
    assert "warning: plugin b of a_package.nothing is skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"c.yaml:1: PLUGINS names mine.py; no such file: put it at .*/mine.py, or correct the path"),
        ("import nowhere_at_all", "PLUGINS names mine.py; importing it raised ModuleNotFoundError"),
        ("1 / 0", "PLUGINS names mine.py; importing it raised ZeroDivisionError"),
        ("def f(:", "PLUGINS names mine.py; importing it raised SyntaxError"),
        (
            "from mdistiller_dfpt import DISTILLERS, Distiller\nDISTILLERS.register('KD')(Distiller)",
            "importing it raised KeyError: \"there is a method 'KD' already",
        ),
        (
            "from mdistiller_dfpt import DISTILLERS\nfrom mdistiller_dfpt.config.limits import POSITIVE\n"
            "@DISTILLERS.register('MINE')\nclass Mine(DISTILLERS['KD']):\n    limits = {'TEMPERATUR': POSITIVE}\n",
            r"importing it raised KeyError: \"MINE: a limit is given for 'TEMPERATUR'; did you mean .*mine.py:3",
        ),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(tmp_path, text, message):
    if text is not None:
        write(tmp_path, "mine.py", text)
    with pytest.raises(ConfigError, match=message):
        load_cfg(write(tmp_path, "c.yaml", "PLUGINS: [mine.py]\n"))
    assert load_cfg().PLUGINS == [], "a config that does not name it is unaffected"


def test_a_plugin_that_is_a_module_which_is_not_found_or_a_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "some_folder").mkdir()
    for name, message in (
        (
            "gone_module",
            r"c.yaml:2: PLUGINS names gone_module; there is no such module .* ./gone_module.py",
        ),
        ("some_folder", r"c.yaml:2: PLUGINS names some_folder, which is a folder .* without __init__.py"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_cfg(write(tmp_path, "c.yaml", f"SOLVER: {{EPOCHS: 1}}\nPLUGINS: [{name}]\n"))
    with pytest.raises(ConfigError, match=r"^PLUGINS names gone.py; no such file"):
        load_cfg(None, ["PLUGINS", "[gone.py]"])


def test_a_plugin_that_failed_is_imported_again_when_it_is_mended(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "plugin_helper.py", "from mdistiller_dfpt import SCHEDULES\n@SCHEDULES.register('mine')\n"
                                        "def mine(progress, plan):\n    return 0.1\n")  # fmt: skip
    helped = "import plugin_helper\n" + FOR_MDISTILLER.format(name="MINE") + "distiller_dict['MINE'] = Mine\n"
    own = (
        "from yacs.config import CfgNode as CN\nfrom mdistiller_dfpt import DISTILLERS, MODELS\n"
        "@DISTILLERS.register('MINE2')\nclass Mine(DISTILLERS['NONE']):\n    config = CN({'WEIGHT': 1.0})\n"
        "MODELS.register('cifar/mine')(MODELS['cifar/resnet8'])\n"
    )
    path = write(tmp_path, "c.yaml", "PLUGINS: [mine.py, own.py]\n")
    for fault in ("1 / 0\n", "raise SystemExit\n"):
        write(tmp_path, "mine.py", helped + fault)
        write(tmp_path, "own.py", own)
        with pytest.raises(ConfigError, match="importing it raised"):
            load_cfg(path)
        assert not {"MINE", "mine"} & {*DISTILLERS, *SCHEDULES, *load_cfg()}
        assert "plugin_helper" not in sys.modules
        write(tmp_path, "mine.py", "x = 1\n")
        write(tmp_path, "own.py", own + fault)
        with pytest.raises(ConfigError, match="own.py; importing it raised"):
            load_cfg(path)
        assert not {"MINE2", "cifar/mine"} & {*DISTILLERS, *MODELS, *load_cfg()}
        plugins._loaded.clear()
    write(tmp_path, "mine.py", helped)
    write(tmp_path, "own.py", own)
    cfg = load_cfg(path, ["SOLVER.SCHEDULE", "mine", "DISTILLER.TYPE", "MINE2"])
    assert (cfg.MINE.WEIGHT, cfg.MINE2.WEIGHT) == (0.5, 1.0)
    assert SCHEDULES["mine"](0, None) == 0.1


TWO_VIEWS = """
import torch
from mdistiller.distillers._base import Distiller

class Mine(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)

    def forward_train(self, {parameters}):
        weak, strong = self.student(image_weak)[0], self.student(image_strong)[0]
        loss = torch.nn.functional.cross_entropy
        return weak, {{"loss_ce": loss(weak, target) + loss(strong, target)}}
"""


@pytest.mark.parametrize("more", ["", ", **kwargs"])
def test_a_method_written_for_two_views_gets_the_strong_view(more, tmp_path):
    write(tmp_path, "mine.py", TWO_VIEWS.format(parameters="image_weak, image_strong, target" + more))
    load_cfg(write(tmp_path, "c.yaml", "PLUGINS: [mine.py]\n"))
    distiller = tiny_distiller("MINE")
    assert distiller.needs_strong_view
    batch = replace(tiny_batch(), strong=tiny_batch().image.flip(3))
    _, terms = distiller(batch)
    loss = torch.nn.functional.cross_entropy
    logits = (distiller.student(image)[0] for image in (batch.image, batch.strong))
    torch.testing.assert_close(terms["loss_ce"].value, sum(loss(one, batch.target) for one in logits))
    words = ["DISTILLER.TYPE", "MINE", "LOG.PREFIX", str(tmp_path / "out")]
    assert len(fit(Trainer(tiny_cfg(*words), tiny_distiller("MINE"), tiny_data()))["epochs"]) == 2


def test_a_method_that_needs_other_data_is_refused_with_what_is_supported(tmp_path):
    write(tmp_path, "mine.py", TWO_VIEWS.format(parameters="image, target, neighbours, *, k=1, **kwargs"))
    with pytest.raises(PluginError, match=r"mine.py:5: Mine: `forward_train` requires neighbours; supported are "
                                          "image, target, index, .*image_strong, contrastive_index"):  # fmt: skip
        load_cfg(write(tmp_path, "c.yaml", "PLUGINS: [mine.py]\n"))


CONTRASTED = """
import torch

from mdistiller.distillers._base import Distiller

class Mine(Distiller):
    def __init__(self, student, teacher, cfg, num_data):
        super().__init__(student, teacher)
        self.num_data, self.rows = num_data, []

    def forward_train(self, image, target, index, contrastive_index, **kwargs):
        self.rows.append(contrastive_index)
        logits = self.student(image)[0]
        return logits, {"loss_ce": torch.nn.functional.cross_entropy(logits, target)}
"""


def rows_of_a_run(cfg):
    distiller, data = tiny_distiller("MINE", *cfg), tiny_data()
    torch.manual_seed(1)
    assert distiller.method.num_data == data.num_train
    batches = [batch for epoch in (0, 1) for batch in data.train.epoch(epoch)]
    for batch in batches:
        distiller(batch)
        distiller.after_step(batch)
    return batches, distiller.method.rows


def test_a_method_with_a_memory_bank_gets_the_rows_that_mdistillers_loader_draws(tmp_path):
    write(tmp_path, "mine.py", CONTRASTED)
    load_cfg(write(tmp_path, "c.yaml", "PLUGINS: [mine.py]\n"))
    batches, rows = rows_of_a_run(["CRD.NCE.K", "5"])
    labels = {int(i): int(y) for batch in batches for i, y in zip(batch.index, batch.target, strict=True)}
    for batch, drawn in zip(batches, rows, strict=True):
        assert drawn.shape == (len(batch.index), 6)
        assert drawn[:, 0].equal(batch.index)
    # From the second epoch on all labels are known
    for batch, drawn in list(zip(batches, rows, strict=True))[len(batches) // 2 :]:
        for row, own_label in zip(drawn[:, 1:].tolist(), batch.target.tolist(), strict=True):
            assert all(labels[other] != own_label for other in row)
    again = rows_of_a_run(["CRD.NCE.K", "5"])[1]
    assert all(a.equal(b) for a, b in zip(rows, again, strict=True))
    assert not rows[0].equal(rows[len(batches) // 2])
    positives = rows_of_a_run(["CRD.NCE.K", "5", "CRD.MODE", "relax"])
    drawn = torch.cat([r[:, 0] for r in positives[1]]).tolist()
    own = torch.cat([batch.index for batch in positives[0]]).tolist()
    assert [labels[i] for i in drawn] == [labels[i] for i in own]
    assert drawn != own


def labels_after_a_step(rows, total):
    distiller, batch = tiny_distiller("MINE"), tiny_batch(8).rows(rows, total=total)
    distiller.after_step(batch)
    return distiller.labels


def test_each_process_draws_by_the_labels_that_all_have_met(tmp_path):
    write(tmp_path, "mine.py", CONTRASTED)
    load_cfg(write(tmp_path, "c.yaml", "PLUGINS: [mine.py]\n"))
    whole = labels_after_a_step(slice(None), None)
    assert (whole >= 0).sum() == 8
    found = in_processes(lambda rank: labels_after_a_step(slice(rank, None, 2), 8).tolist(), tmp_path)
    assert found[0] == found[1] == whole.tolist()


def test_foreign_classes_are_distinguished_from_ours():
    assert foreign.is_foreign(type("X", (MdistillerBase,), {"forward_train": None}))
    assert not foreign.is_foreign(DISTILLERS["KD"])
