"""The learning rate as a function of progress."""

import pytest

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.build import check_config
from mdistiller_dfpt.testing import tiny_cfg, tiny_distiller
from mdistiller_dfpt.training.optim import build_optimizer, build_schedule, set_learning_rate


def test_step_schedule_is_the_literatures():
    """240 epochs, times 0.1 after 150, 180 and 210 whole epochs."""
    cfg = tiny_cfg("SOLVER.EPOCHS", "240")
    expected = {0: 0.05, 149.99: 0.05, 150: 0.005, 179.9: 0.005, 180: 0.0005, 210: 0.00005, 239.9: 0.00005}
    for progress, rate in expected.items():
        assert build_schedule(cfg)(progress) == pytest.approx(rate)


def test_a_lowest_rate_above_the_first_is_refused_before_the_data_are_loaded():
    words = ("SOLVER.LR", "0.01", "SOLVER.LR_MIN", "0.02")
    cfg = tiny_cfg(*words, "SOLVER.SCHEDULE", "cosine")
    for build in (build_schedule, check_config):
        with pytest.raises(ConfigError, match="SOLVER.LR_MIN is 0.02; SOLVER.LR, from which the rate falls, is 0.01"):
            build(cfg)
    assert build_schedule(tiny_cfg(*words))(0) == 0.01, "the schedule step does not use it"


def test_cosine_ends_at_the_lowest_rate():
    cfg = tiny_cfg("SOLVER.SCHEDULE", "cosine", "SOLVER.EPOCHS", "10", "SOLVER.LR", "0.1", "SOLVER.LR_MIN", "0.02")
    rate = build_schedule(cfg)
    assert [rate(e) for e in (0, 5, 10, 12)] == pytest.approx([0.1, 0.06, 0.02, 0.02])


def test_cosine_falls_from_the_full_rate_to_zero():
    cfg = tiny_cfg("SOLVER.SCHEDULE", "cosine", "SOLVER.EPOCHS", "10", "SOLVER.LR", "0.1")
    rates = [build_schedule(cfg)(e / 10) for e in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.05)
    assert rates[100] == pytest.approx(0)
    assert rates == sorted(rates, reverse=True)


def test_warm_up_is_linear_and_ends_on_the_schedule():
    cfg = tiny_cfg("SOLVER.WARMUP_EPOCHS", "2", "SOLVER.EPOCHS", "240")
    assert [build_schedule(cfg)(p) for p in (0, 0.5, 1, 2, 3)] == pytest.approx([0, 0.0125, 0.025, 0.05, 0.05])


def test_each_group_keeps_its_factor():
    distiller = tiny_distiller("DFPTKD", "DFPTKD.FINETUNE_BACKBONE", "True", "DFPTKD.FINETUNE_LR_FACTOR", "0.1")
    optimizer = build_optimizer(tiny_cfg(), distiller)
    set_learning_rate(optimizer, 0.2)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.2, 0.2, 0.02])
