"""Evaluation: every sample is counted once, top-k as defined, KL between the paths."""

import pytest
import torch
from sklearn.metrics import log_loss

from mdistiller_dfpt import DATASETS, build_data, load_cfg
from mdistiller_dfpt.testing import tiny_data, tiny_distiller
from mdistiller_dfpt.training.evaluate import correct_at, evaluate, evaluate_method, kl_divergence
from mdistiller_dfpt.training.notices import warn_of_chance

from ..golden import normal
from ..tiny_runs import final_state, fit, run_of


def test_of_equal_logits_the_first_is_predicted_as_by_argmax():
    """In bfloat16 the largest logits are often equal; a confusion matrix is of what `argmax` says."""
    logits = (3 * torch.randn(2000, 100, generator=torch.Generator().manual_seed(0))).bfloat16().float()
    ties = (logits == logits.max(1, keepdim=True).values).sum(1)
    assert (ties > 1).sum() > 10
    for predicted in (logits.argmax(1), 99 - logits.flip(1).argmax(1)):  # the first and the last of equal ones
        expected = (predicted == logits.argmax(1)).sum().item()
        assert correct_at(logits, predicted, 1).item() == expected
    order = logits.sort(dim=1, descending=True, stable=True).indices
    for k in (1, 5):
        target = order[:, 4]
        assert correct_at(logits, target, k).item() == (order[:, :k] == target[:, None]).any(1).sum().item()


def test_what_is_not_a_number_is_not_correct():
    assert correct_at(torch.full((4, 10), float("nan")), torch.arange(4), 5).item() == 0


def test_correct_at_counts_and_clips():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0]])
    target = torch.tensor([0, 0, 0])
    assert [correct_at(logits, target, k).item() for k in (1, 2, 5)] == [1, 2, 3]


def test_kl_is_the_definition_and_zero_on_the_diagonal():
    p, q = normal(1), normal(2)
    expected = (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum()
    torch.testing.assert_close(kl_divergence(p, q), expected)
    assert abs(kl_divergence(p, p).item()) < 1e-12


def test_accuracy_is_that_of_the_whole_set_at_any_batch_size():
    distiller, results = tiny_distiller("DFPTKD"), []
    for size in (1, 7, 20):
        data = tiny_data(test=20)
        data.test.batch_size = size
        results.append(evaluate_method(distiller, data.test))
    data = tiny_data(test=20)
    data.test.batch_size = 20
    batch = next(data.test.epoch())
    distiller.eval()
    with torch.no_grad():
        expected = (distiller.student(batch.image)[0].argmax(1) == batch.target).float().mean().item() * 100
    for result in results:
        assert result["student"]["top1"] == pytest.approx(expected)
        assert set(result) == {"student", "teacher", "prompt", "kl"}
        assert set(result["kl"]) == {"teacher||student", "teacher||prompt", "prompt||student"}
        assert result["kl"]["teacher||prompt"] == pytest.approx(results[0]["kl"]["teacher||prompt"], rel=1e-4)


def test_evaluation_restores_the_mode_and_moves_no_statistics():
    distiller = tiny_distiller("DFPTKD").train()
    before = {k: v.clone() for k, v in distiller.state_dict().items()}
    evaluate_method(distiller, tiny_data().test)
    assert distiller.training
    assert all(torch.equal(v, before[k]) for k, v in distiller.state_dict().items())


def test_likelihood_and_calibration_are_those_of_all_samples_at_once():
    data = tiny_data()
    samples = 3 * torch.randn(data.test.num_samples, data.num_classes, generator=torch.Generator().manual_seed(3))
    rest = iter(samples)

    def paths(image):
        return {"student": torch.stack([next(rest) for _ in image])}

    found = evaluate(paths, data.test)["student"]
    labels, p = data.test.labels, samples.double().softmax(1)
    assert found["nll"] == pytest.approx(log_loss(labels, p, labels=range(data.num_classes)), rel=1e-5)
    confidence, right = p.max(1).values, p.argmax(1) == labels
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            gap = right[inside].double().mean() - confidence[inside].mean()
            expected += inside.double().mean().item() * abs(gap.item())
    assert found["ece"] == pytest.approx(100 * expected, rel=1e-5)


def test_the_classes_that_are_predicted_at_all_are_counted():
    data = tiny_data()
    width = data.num_classes

    def paths(image):
        collapsed = torch.zeros(len(image), width).index_fill_(1, torch.tensor([2]), 1.0)
        turns = torch.eye(width)[torch.arange(len(image)) % 2]
        return {"teacher": collapsed, "student": turns}

    found = evaluate(paths, data.test)
    assert {name: found[name]["predicted_classes"] for name in ("teacher", "student")} == {"teacher": 1, "student": 2}


@pytest.mark.parametrize(("name", "key"), [("DKD", "DKD.WARMUP"), ("REVIEWKD", "REVIEWKD.WARMUP_EPOCHS")])
def test_a_warm_up_that_is_longer_than_the_run_is_said(name, key, tmp_path, capsys):
    fit(run_of(name, tmp_path / "long", "SOLVER.EPOCHS", "1", key, "4"))
    said = f"warning: {key} is 4 epochs, and the run has 1: what rises over them ends at 25 % of its value"
    assert said in capsys.readouterr().err
    fit(run_of(name, tmp_path / "short", "SOLVER.EPOCHS", "1", key, "1"))
    assert "what rises" not in capsys.readouterr().err


def test_a_collapsed_student_or_teacher_and_a_single_class_are_said(tmp_path, capsys, registries):
    run = run_of("KD", tmp_path, "SOLVER.EPOCHS", "1")
    with torch.no_grad():
        for network in (run.distiller.student, run.distiller.teacher.network):
            network.fc.weight.zero_()
            network.fc.bias.copy_(torch.arange(len(network.fc.bias)) * 1e3)
    for group in run.optimizer.param_groups:
        group["lr_factor"] = 1e-9
    fit(run)
    err = capsys.readouterr().err
    assert "warning: the teacher predicts the same class for all test images" in err
    assert "warning: the student predicts the same class for all test images" in err

    @DATASETS.register("one")
    def one(cfg):
        source = DATASETS["digits"](cfg)

        def kept(part):
            return part._replace(images=part.images, labels=torch.zeros_like(part.labels), classes=("all",))

        return source._replace(train=kept(source.train), test=kept(source.test))

    build_data(load_cfg(None, ["DATASET.TYPE", "one"]))
    assert "warning: one has a single class: every accuracy is 100 %" in capsys.readouterr().err


@pytest.mark.parametrize(("top1", "said"), [(18.9, "warning: the teacher is near chance (10.0 %)\n"), (19.0, "")])
def test_a_teacher_near_chance_is_said(top1, said, capsys):
    warn_of_chance({"top1": top1, "predicted_classes": 10.0}, 10)
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("words", [
    ("LOG.EVAL_FREQ", "2"), ("DATASET.TEST.BATCH_SIZE", "7"), ("LOG.SAVE_CHECKPOINT_FREQ", "1"),
], ids=lambda words: words[0])  # fmt: skip
@pytest.mark.parametrize(("name", "more"), [("KD", ()), ("DFPTKD", ("SOLVER.EMA", "0.9")),
                                            ("KD", ("SOLVER.REMEASURE_BN", "each"))])  # fmt: skip
def test_how_a_run_is_evaluated_and_saved_changes_no_weight(name, more, words, tmp_path):
    states = []
    for place, others in (("a", ()), ("b", words)):
        trainer = run_of(name, tmp_path / place, *more, *others)
        fit(trainer)
        states.append(final_state(trainer))
    assert states[0] == states[1]
