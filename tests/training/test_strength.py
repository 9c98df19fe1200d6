"""The total weight of the distillation terms, its scaling, and the ratio of gradients to KD's."""

import pytest
import torch

from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses import distillation, label, own
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.strength import matching_factor, scaled, strength, total_weight
from mdistiller_dfpt.training.trainer import Trainer

ONE = torch.ones(())
CPU = torch.device("cpu")


def test_warm_ups_and_weights_inside_a_term_count_and_other_kinds_do_not():
    terms = {
        "ce": label(ONE, 5),
        "a": distillation(ONE, 2.0, ramp=0.1),
        "b": distillation(ONE, 0.5, inside=6),
        "p": own(ONE),
    }
    assert total_weight(terms) == 5
    assert matching_factor(terms, 8.0, CPU) == 8 / 5
    found = scaled(terms, 8 / 5)
    assert total_weight(found) == 8
    assert {name: term.weighted.item() for name, term in found.items()} == pytest.approx(
        {"ce": 5, "a": 0.32, "b": 0.8, "p": 1}
    )


def test_a_weight_of_nothing_or_an_unknown_one_cannot_be_matched():
    with pytest.raises(ConfigError, match=r"DISTILLER.MATCH_WEIGHT is 8; the terms of distillation have no weight"):
        matching_factor({"kd": distillation(ONE, 0.0)}, 8.0, CPU)
    terms = {"kd": distillation(ONE, inside=None)}
    with pytest.raises(ConfigError, match=r"DISTILLER.MATCH_WEIGHT is 8; the weights of this method are unknown"):
        matching_factor(terms, 8.0, CPU)
    assert total_weight(terms) is None


@pytest.mark.parametrize(
    ("words", "weight", "ratio"),
    [
        (["KD"], 0.9, 0.9),
        (["KD", "KD.LOSS.KD_WEIGHT", "8.0"], 8.0, 8.0),
        (["KD", "KD.TEMPERATURE", "8.0"], 0.9, None),
        (["DKD", "DKD.ALPHA", "1.0", "DKD.BETA", "8.0", "DKD.WARMUP", "20"], 9.0, None),
        (["DIST", "DIST.LOSS.INTER_WEIGHT", "2.0", "DIST.LOSS.INTRA_WEIGHT", "2.0"], 4.0, None),
        (["DFPTKD", "DFPTKD.LOSS.TEACHER_WEIGHT", "3.0"], 7.0, None),
    ],
)
def test_total_weight_and_gradient_of_a_method(words, weight, ratio):
    distiller, batch = tiny_distiller(*words), tiny_batch()
    logits, terms = distiller(batch)
    found = strength(distiller, logits, terms, batch)
    assert found["distillation_weight"].item() == pytest.approx(weight)
    if ratio is not None:
        assert found["gradient_to_kd"].item() == pytest.approx(ratio, rel=1e-5)
    # The same by backward passes
    teacher = distiller.teacher_network(batch.image)[0].detach()
    mine = sum(t.value * t.weight for t in terms.values() if t.kind == "distillation")
    norms = [norm_after_backward(value, distiller.student) for value in (mine, kd_loss(logits, teacher, 4.0))]
    torch.testing.assert_close(found["gradient_to_kd"], norms[0] / norms[1])


def norm_after_backward(value, student):
    student.zero_grad()
    value.backward(retain_graph=True)
    return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]).norm()


def trained(folder, *words):
    cfg = tiny_cfg("DISTILLER.TYPE", *words)
    return Trainer(cfg, tiny_distiller(*words), tiny_data()).fit(folder)


def test_a_run_reports_both_once(tmp_path):
    first, second = (record["train"] for record in trained(tmp_path / "run", "KD")["epochs"])
    assert first["distillation_weight"] == pytest.approx(0.9)
    assert first["gradient_to_kd"] == pytest.approx(0.9, rel=1e-5)
    assert "distillation_weight" not in second
    alone = trained(tmp_path / "alone", "NONE")["epochs"][0]["train"]
    assert not {"distillation_weight", "gradient_to_kd"} & alone.keys()


@pytest.mark.parametrize("method", ["KD", "DKD", "DFPTKD", "DIST", "RKD"])
def test_a_matched_run_is_that_of_the_matched_weights(method, tmp_path):
    matched = trained(tmp_path / "matched", method, "DISTILLER.MATCH_WEIGHT", "8.0")
    assert matched["epochs"][0]["train"]["distillation_weight"] == pytest.approx(8)
    plain = {"KD": ["KD.LOSS.KD_WEIGHT", "8.0"], "DFPTKD": []}
    if method in plain:  # 1 / 4 + 4 has that weight already
        same = trained(tmp_path / "same", method, *plain[method])
        assert matched["student_sha256"] == same["student_sha256"]
        assert matched["fingerprint"] != same["fingerprint"]


def test_matching_goes_on_after_a_resume_where_distillation_has_ended(tmp_path):
    words = ["ESKD", "ESKD.STOP_EPOCH", "1", "DISTILLER.MATCH_WEIGHT", "2.0"]
    whole = trained(tmp_path / "whole", *words)
    cfg = tiny_cfg("DISTILLER.TYPE", *words)
    short = cfg.clone()
    short.defrost()
    short.SOLVER.EPOCHS = 1
    Trainer(short, tiny_distiller(*words), tiny_data()).fit(tmp_path / "parts")
    run = Trainer(cfg, tiny_distiller(*words), tiny_data())
    assert run.fit(tmp_path / "parts", resume=True)["student_sha256"] == whole["student_sha256"]


@pytest.mark.parametrize("together", ["[KD, ESKD]", "[ESKD, KD]"])
def test_the_factor_of_the_first_step_stays_after_a_resume(together, tmp_path):
    words = [together, "ESKD.STOP_EPOCH", "1", "DISTILLER.MATCH_WEIGHT", "2.0"]
    cfg = tiny_cfg("DISTILLER.TYPE", *words)
    whole = Trainer(cfg, tiny_distiller(*words), tiny_data()).fit(tmp_path / "whole")
    short = cfg.clone()
    short.defrost()
    short.SOLVER.EPOCHS = 1
    Trainer(short, tiny_distiller(*words), tiny_data()).fit(tmp_path / "parts")
    again = Trainer(cfg, tiny_distiller(*words), tiny_data()).fit(tmp_path / "parts", resume=True)
    assert again["student_sha256"] == whole["student_sha256"]


def test_a_key_without_effect_or_a_weight_of_nothing_is_said(tmp_path):
    with pytest.raises(ConfigError, match="DISTILLER.MATCH_WEIGHT is 8; the terms of distillation have no weight"):
        trained(tmp_path / "none", "KD", "KD.LOSS.KD_WEIGHT", "0.0", "DISTILLER.MATCH_WEIGHT", "8.0")
