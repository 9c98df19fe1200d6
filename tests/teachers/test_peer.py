"""DML: two networks learn from each other; both are trained, evaluated, saved and resumed."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from mdistiller_dfpt import build_model, load_cfg
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.run import run
from mdistiller_dfpt.launch.smoke import smoke
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller
from mdistiller_dfpt.testing.make import snapshot, take_steps

from ..forks import in_processes
from ..tiny_runs import continued, fit, outcome, run_of, stopped_after

KIND = ("DISTILLER.TEACHER_KIND", "peer")
MUTUAL = (*KIND, "KD.TEMPERATURE", "1.0", "KD.LOSS.CE_WEIGHT", "1.0", "KD.LOSS.KD_WEIGHT", "1.0")
DIGITS = ["DATASET.TYPE", "digits", "SOLVER.EPOCHS", "1", "SOLVER.BATCH_SIZE", "256", "LOG.TENSORBOARD", "False",
          "DISTILLER.TYPE", "KD", *KIND, "DISTILLER.STUDENT", "resnet8", "DISTILLER.TEACHER", "resnet8"]  # fmt: skip


def test_the_roles_of_the_two_networks_can_be_exchanged():
    """Each has its cross-entropy and the divergence from the other, and no gradient of the other's terms."""
    method, batch = tiny_distiller("KD", *MUTUAL), tiny_batch()
    student, peer = (network(batch.image)[0] for network in (method.student, method.teacher.network))
    terms = method(batch)[1]
    assert terms.keys() == {"ce", "kd", "peer_ce", "peer_kd"}
    expected = {
        "ce": F.cross_entropy(student, batch.target), "kd": kd_loss(student, peer, 1.0),
        "peer_ce": F.cross_entropy(peer, batch.target), "peer_kd": kd_loss(peer, student, 1.0),
    }  # fmt: skip
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].weighted, value)
    mine, its = list(method.student.parameters()), list(method.teacher.network.parameters())
    for name, (learner, other) in {"kd": (mine, its), "peer_kd": (its, mine)}.items():
        gradients = torch.autograd.grad(terms[name].weighted, [*learner, *other], retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in gradients[: len(learner)]), name
        assert all(g is None for g in gradients[len(learner) :]), name


def test_a_step_moves_both_networks_and_their_statistics():
    method = tiny_distiller("KD", *KIND)
    before = [snapshot(network) for network in (method.student, method.teacher.network)]
    take_steps(method, 1)
    for state, network in zip(before, (method.student, method.teacher.network), strict=True):
        assert all(not torch.equal(value, network.state_dict()[key]) for key, value in state.items())
        assert network.training


def test_without_a_divergence_each_network_is_trained_alone():
    words = (*MUTUAL, "PEER.LOSS.KD_WEIGHT", "0.0")
    pair, alone = tiny_distiller("KD", *words[:-4], "KD.LOSS.KD_WEIGHT", "0.0", *words[-2:]), tiny_distiller("NONE")
    for method in (pair, alone):
        take_steps(method, 3)
    for key, value in alone.student.state_dict().items():
        assert torch.equal(value, pair.student.state_dict()[key]), key


def test_a_peer_that_learns_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"PEER.LOSS.CE_WEIGHT is 0, and so is LOSS.KD_WEIGHT: the peer learns"):
        tiny_distiller("KD", *KIND, "PEER.LOSS.CE_WEIGHT", "0.0", "PEER.LOSS.KD_WEIGHT", "0.0")


@pytest.mark.parametrize("name", ["AT", "FITNET", "CRD", "OFD"])
def test_a_method_on_features_is_refused(name):
    with pytest.raises(ConfigError, match="of a teacher of kind peer has only logits|no trained network|is trained"):
        tiny_distiller(name, *KIND)


def test_a_logits_cache_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="DISTILLER.LOGITS_CACHE is .* remove this key"):
        run_of("KD", tmp_path, *KIND, "DISTILLER.LOGITS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["KD", "BDKD", "DIST"])
@pytest.mark.parametrize("words", [(), ("SOLVER.AMP", "bf16"), ("SOLVER.TRAINER", "dot")])
def test_a_resumed_run_is_an_unbroken_one_to_the_bit(name, words, tmp_path):
    words = (*KIND, *words, "SOLVER.EPOCHS", "3")
    whole = run_of(name, tmp_path / "whole", *words)
    expected = outcome(whole)
    stopped_after(1, name, tmp_path, *words)
    assert continued(name, tmp_path, *words) == expected
    saved = [load_file(folder / "teacher.safetensors") for folder in (whole.run, tmp_path / "tiny/seed1")]
    assert state_hash(saved[0]) == state_hash(saved[1]) == state_hash(whole.distiller.teacher.network.state_dict())


def test_both_are_evaluated_in_each_epoch(tmp_path):
    trainer = run_of("KD", tmp_path, *KIND)
    fit(trainer)
    for record in trainer.epochs:
        assert record["test"].keys() == {"teacher", "student", "kl"}
        assert {"accuracy_peer", "peer_ce", "peer_kd"} <= record["train"].keys()


def test_two_processes_compute_what_one_does(tmp_path):
    def gradients(rows, total):
        method = tiny_distiller("KD", *MUTUAL).eval()
        terms = method(tiny_batch().rows(rows, total=total))[1]
        parameters = [p for group in method.parameter_groups() for p in group["params"]]
        return [g.flatten().tolist() for g in torch.autograd.grad(sum(t.weighted for t in terms.values()), parameters)]

    found = in_processes(lambda rank: gradients(slice(rank, None, 2), 8), tmp_path)
    for whole, first, second in zip(gradients(slice(None), None), found[0], found[1], strict=True):
        mean = (torch.tensor(first) + torch.tensor(second)) / 2
        torch.testing.assert_close(mean, torch.tensor(whole), rtol=1e-4, atol=1e-6)


def test_a_peer_of_the_same_architecture_starts_from_other_weights_or_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*DIGITS, "DISTILLER.TEACHER_CFG", "none.yaml"]
    results = run(load_cfg(None, [*words, "EXPERIMENT.NAME", "random"]))
    assert "DISTILLER.TEACHER_CFG none.yaml has no effect here: no trained network teaches" in capsys.readouterr().out
    assert results["identity"]["teachers"] == []
    student, peer = (load_file(f"output/random/seed1/{name}.safetensors") for name in ("student", "teacher"))
    assert student.keys() == peer.keys()
    assert not torch.equal(student["conv1.weight"], peer["conv1.weight"])
    torch.save({"model": build_model("resnet8", num_classes=10).state_dict()}, "peer.pth")
    results = run(load_cfg(None, [*words, "EXPERIMENT.NAME", "file", "DISTILLER.TEACHER_CKPT", "peer.pth"]))
    assert [t["name"] for t in results["identity"]["teachers"]] == ["resnet8"]
    assert results["protocol"]["teacher"] is None


@pytest.mark.parametrize("method", ["dml", "bdkd"])
@pytest.mark.parametrize("pair", ["res56_res20", "vgg13_mv2", "res32x4_shuv1", "wrn40_2_wrn16_2"])
def test_configs_run_on_pairs_of_several_families(method, pair):
    assert {"ce", "kd", "peer_ce", "peer_kd"} <= smoke(load_cfg(f"cifar100/{method}/{pair}")).keys()
