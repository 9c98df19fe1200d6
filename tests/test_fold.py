"""Folding BatchNorm into convolutions: the same function to rounding, fewer layers, nothing else changed."""

import pytest
import torch
from torch import Tensor, nn

from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.distillers.build import AMP_DTYPES
from mdistiller_dfpt.distillers.foreign import adapt
from mdistiller_dfpt.dual_path import DualPathTeacher
from mdistiller_dfpt.engine import Trainer
from mdistiller_dfpt.engine.hashing import state_hash
from mdistiller_dfpt.models import MODELS, build_model
from mdistiller_dfpt.models.complexity import count_macs
from mdistiller_dfpt.models.fold import fold_batch_norm

from .conftest import TinyNet, tiny_cfg, tiny_data, tiny_distiller

NAMES = sorted(key.removeprefix("cifar/") for key in MODELS if key.startswith("cifar/"))
TAUGHT = sorted(n for n, m in DISTILLERS.items() if m.needs_teacher)


def lived_in(network: nn.Module) -> nn.Module:
    """With BatchNorm layers that do something."""
    generator = torch.Generator().manual_seed(0)
    for m in network.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3, generator=generator)
            m.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(m.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(m.bias, 0, 0.3, generator=generator)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def tensors(result):
    logits, features = result
    for value in [logits, *features.values()]:
        yield from value if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", NAMES)
def test_every_network_says_the_same_when_it_is_folded(name):
    network = lived_in(build_model(name, "cifar", 100))
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, before = list(tensors(network(image))), state_hash(network.state_dict())
        folded = fold_batch_norm(network, (3, 32, 32))
        found = list(tensors(network(image)))
    assert state_hash(network.state_dict()) == before
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item())
    # In a WRN a block's first one reads a sum, and the second one alone a convolution
    assert folded == ((norms(network) - 1) // 2 if name.startswith("wrn") else norms(network))
    assert norms(network.forward.__self__) == norms(network) - folded


class Shared(TinyNet):
    """The map before BatchNorm goes elsewhere too, one layer is called twice, and one norm reads another's output."""

    def __init__(self):
        super().__init__(4)
        self.twice, self.twice_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.after = nn.BatchNorm2d(4)

    def _stem(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.conv1(x)
        out = self.after(self.bn1(raw)) + raw
        for _ in range(2):
            out = self.twice_norm(self.twice(out))
        return torch.relu(out), out


def test_what_somebody_else_reads_or_is_called_twice_is_left():
    network = lived_in(Shared())
    image = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = network(image)[0]
        assert fold_batch_norm(network, (3, 8, 8)) == 2, "layer1 and layer2"
        torch.testing.assert_close(network(image)[0], expected, rtol=1e-4, atol=1e-5)


def trainer(name, *words):
    words = ("DISTILLER.TYPE", name, *words)
    distiller = tiny_distiller(name, *words)
    for network in distiller.frozen():
        lived_in(network)
    return Trainer(tiny_cfg(*words), distiller, tiny_data(), "tiny")


FOLDED = ("DISTILLER.TEACHER_FOLD_BN", "True")


@pytest.mark.parametrize("name", TAUGHT)
def test_every_method_trains_on_a_folded_teacher_as_on_it_and_leaves_it_as_it_is(name):
    torch.manual_seed(0)
    expected = trainer(name).one_epoch()
    torch.manual_seed(0)
    run = trainer(name, *FOLDED)
    before, sha = [state_hash(n.state_dict()) for n in run.distiller.frozen()], run.teacher_sha256
    calls = []
    for network in run.distiller.frozen():
        network.bn1.register_forward_hook(lambda *a: calls.append(1))
    assert run.one_epoch() == pytest.approx(expected, rel=2e-3, abs=2e-3)
    assert calls == []
    assert [state_hash(n.state_dict()) for n in run.distiller.frozen()] == before
    assert sha == trainer(name).teacher_sha256


@pytest.mark.parametrize("name", ["KD", "DFPTKD"])
def test_a_run_on_a_folded_teacher_reports_what_one_on_the_teacher_does(name, tmp_path, capsys):
    runs = [trainer(name, "LOG.PREFIX", str(tmp_path / str(i)), *words) for i, words in enumerate(((), FOLDED))]
    said = []
    for run in runs:
        run.fit()
        said.append([line for line in capsys.readouterr().out.splitlines() if "MMAC" in line])
    assert said[0] == said[1]
    folded = runs[1].distiller.teacher.forward
    with count_macs(runs[1].distiller.teacher) as macs:
        runs[1].distiller.teacher(torch.zeros(1, 3, 8, 8))
    assert len(macs) == 4
    assert runs[1].distiller.teacher.forward == folded


def test_a_prompt_path_over_a_folded_teacher_is_a_network_of_its_own():
    teacher = lived_in(TinyNet(6))
    fold_batch_norm(teacher, (3, 8, 8))
    own = DualPathTeacher(teacher, finetune=True, bn="running").eval().own
    with torch.no_grad():
        own.fc.bias += 1
        torch.testing.assert_close(own(torch.ones(1, 3, 8, 8))[0] - 1, teacher(torch.ones(1, 3, 8, 8))[0])


class Their(nn.Module):
    """A method as mdistiller writes them."""

    def __init__(self, student, teacher, cfg):
        super().__init__()
        self.student, self.teacher = student, teacher

    def get_learnable_parameters(self):
        return list(self.student.parameters())

    def forward_train(self, image, target, **kwargs):
        logits, _ = self.student(image)
        with torch.no_grad():
            taught, _ = self.teacher(image)
        return logits, {"loss": nn.functional.mse_loss(logits, taught)}


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_a_method_written_for_mdistiller_runs_on_a_folded_teacher(amp):
    student, teacher = TinyNet(4), lived_in(TinyNet(6))
    distiller = adapt(Their)(student, teacher, cfg=tiny_cfg())
    distiller.set_precision(AMP_DTYPES[amp], AMP_DTYPES[amp])
    run = Trainer(tiny_cfg("SOLVER.AMP", amp, *FOLDED), distiller, tiny_data(), "tiny")
    folded, calls = teacher.forward, []
    teacher.bn1.register_forward_hook(lambda *a: calls.append(1))
    run.one_epoch()
    assert calls == []
    assert teacher.forward == folded
    assert "forward" not in vars(student)
