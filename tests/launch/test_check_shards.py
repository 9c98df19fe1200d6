"""A user's class that couples samples and does not say so ends a run of several processes before its first batch."""

import textwrap

import pytest

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.errors import PluginError
from mdistiller_dfpt.launch.check_shards import check_shards

from ..forks import in_processes

PLUGIN = """
    import torch
    from torch.nn import functional as F
    from yacs.config import CfgNode as CN
    from mdistiller_dfpt.distillers import DISTILLERS, Distiller
    from mdistiller_dfpt.losses import distillation, own
    from mdistiller_dfpt.models.output import Output
    from mdistiller_dfpt.teachers import TEACHERS, Frozen, Paths

    @DISTILLERS.register("MEANS")
    class Means(Distiller):
        config = CN({"OVER_BATCH": True})
        couples_samples = DECLARED

        def __init__(self, student, teacher, *, over_batch):
            super().__init__(student, teacher)
            self.over_batch = over_batch

        def losses(self, student, teacher, batch):
            gap = student.logits - teacher.logits
            return {"gap": distillation((gap.mean(0) if self.over_batch else gap).square().mean())}

    @DISTILLERS.register("FIFTH")
    class Fifth(Distiller):
        def losses(self, student, teacher, batch):
            return {"gap": distillation((student.features["feats"][4] - teacher.features["feats"][4]).square().mean())}

    @TEACHERS.register("mean_taught")
    class MeanTaught(Frozen):
        def __init__(self, network):
            super().__init__(network)
            self.shift = torch.nn.Parameter(torch.zeros(()))

        def forward(self, batch):
            original = self.original(batch)
            return Paths({"teacher": lambda: Output(original.logits + self.shift, original.features)})

        def losses(self, student, outputs, batch):
            return {"mean": own(F.mse_loss(outputs["teacher"].logits.mean(0), student.logits.mean(0)))}
"""


@pytest.fixture
def config(tmp_path, registries):
    def load(*words, declared=False):
        path = tmp_path / "coupling.py"
        path.write_text(textwrap.dedent(PLUGIN).replace("DECLARED", str(declared)))
        return load_cfg(None, ["PLUGINS", f"['{path}']", *words])

    return load


def test_coupled_samples_that_are_not_declared_are_refused_in_the_users_words(config, tmp_path):
    message = rf"{tmp_path}/coupling.py:10: Means: the term 'gap' .* set `couples_samples = True` in the class"
    with pytest.raises(PluginError, match=message):
        check_shards(config("DISTILLER.TYPE", "MEANS"))


def test_the_values_of_the_config_decide(config):
    check_shards(config("DISTILLER.TYPE", "MEANS", "MEANS.OVER_BATCH", "False"))


def test_a_declaration_is_believed(config):
    check_shards(config("DISTILLER.TYPE", "MEANS", declared=True))


def test_a_teacher_is_asked_too(config):
    with pytest.raises(PluginError, match=r"coupling.py:\d+: MeanTaught: the term 'mean' "):
        check_shards(config("DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_KIND", "mean_taught"))


def test_a_method_that_does_not_suit_tiny_networks_is_said(config, capsys):
    check_shards(config("DISTILLER.TYPE", "FIFTH"))
    assert capsys.readouterr().out.startswith("Fifth: whether its terms couple samples could not be tried (IndexError")


def test_two_processes_find_the_same(config, tmp_path):
    def work(rank):
        try:
            check_shards(config("DISTILLER.TYPE", "MEANS"))
        except PluginError as e:
            return str(e)

    found = in_processes(work, tmp_path)
    assert "couples_samples = True" in found[0]
    assert found[0] == found[1]
