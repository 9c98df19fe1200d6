"""The hours of a table: from a record, the operations of its cells, and the order of its runs."""

import json
import re

import pytest

from mdistiller_dfpt import build_model, load_cfg
from mdistiller_dfpt.bench.table_cost import Rate, cost_of_table, gflop_of_run, makespan, rate_of
from mdistiller_dfpt.commands import table
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.models.complexity import macs_per_image
from mdistiller_dfpt.report.spec import load_table

from ..test_house import ROOT

SPEC = f"""
title: Digits
configs: {ROOT}/configs/digits
metric: last
seeds: [1, 2, 3]
reference: kd
columns:
  res20_res8: {{title: ResNet20 -> ResNet8}}
rows:
  kd: {{title: KD}}
  short: {{title: KD in two epochs, config: "kd/{{pair}}", overrides: {{SOLVER.EPOCHS: 2}}}}
"""
STEP, BOTH = 40.0, 20.0  # images per second


def spread(median):
    return {"median": median, "low": 0.0, "high": 99.0}


def record(gpu, *measures):
    rates = {"step": STEP, "both": BOTH}
    timed = [
        {"measure": m, "side": "this", "images_per_second": spread(rates[m]),
         "images_per_cpu_second": spread(rates[m] * 10)} for m in measures
    ]  # fmt: skip
    machine = {"cpu": "a CPU", "gpu": gpu, "torch": "2", "commit": "abc"}
    work = {"measure": "work", "side": "this", "gflop_per_image": 3.0}
    return {"machine": machine, "config": "x", "overrides": ["SOLVER.AMP", "bf16"], "rows": [*timed, work]}


@pytest.mark.parametrize(
    ("gpu", "measures", "rate", "unit"),
    [("a GPU", ["step"], 120, "GPU"), ("a GPU", ["step", "both"], 60, "GPU"), ("", ["step"], 1200, "core")],
)
def test_a_rate_is_that_of_training_iterations_and_of_a_core_by_its_own_time(gpu, measures, rate, unit, tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record(gpu, *measures)))
    found = rate_of(path)
    assert (found.gflop_per_second, found.unit) == (rate, unit)
    assert found.source == f"{path}: --cfg x SOLVER.AMP bf16; {gpu or 'a CPU'}, torch 2, commit abc"


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(record("a GPU"))])
def test_a_file_that_is_no_such_record_is_refused_by_name(text, tmp_path):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ConfigError, match="--cost .*record.json: no record of `bench --what step"):
        rate_of(tmp_path / "record.json")


def test_the_last_run_ends_when_the_longest_are_begun_first():
    assert makespan([3, 5, 3, 4], 1) == 15
    assert makespan([3, 5, 3, 4], 2) == 8
    assert makespan([3, 5, 3, 4], 64) == 5


@pytest.fixture
def cells(tmp_path):
    (tmp_path / "table.yaml").write_text(SPEC)
    return load_table(tmp_path / "table.yaml").cells


def test_the_operations_of_a_run_are_those_that_its_method_needs(cells):
    cell = cells["short", "res20_res8"]
    cfg = load_cfg(cell.config, cell.overrides)
    teacher, student = (build_model(name, num_classes=10, family="cifar") for name in ("resnet20", "resnet8"))
    step = 2 * (macs_per_image(teacher, (3, 16, 16)) + 3 * macs_per_image(student, (3, 16, 16)))
    assert (cfg.DISTILLER.TEACHER, cfg.DISTILLER.STUDENT, cfg.SOLVER.EPOCHS) == ("resnet20", "resnet8", 2)
    assert gflop_of_run(cell, []) == pytest.approx(step * 1433 * 2 / 1e9, rel=0.01)


def test_a_table_takes_the_hours_of_all_its_runs(cells):
    said = []
    gflop = [gflop_of_run(cell, []) for cell in cells.values()]
    page = cost_of_table(cells, [], 3, Rate(gflop[1] / 3600, "GPU", "a record"), said.append)  # the short one: an hour
    hours = [cell / gflop[1] for cell in gflop for _ in range(3)]
    assert page.startswith(f"2 cells, 3 seeds: 6 runs of 1.00 to {hours[0]:.2f} h, {sum(hours):.1f} GPU hours")
    shown = dict(re.findall(r"\| (\d+) \| ([\d.]+) \|", page))
    assert shown == {"1": f"{sum(hours):.1f}", "8": f"{hours[0]:.1f}", "64": f"{hours[0]:.1f}"}
    assert [line.split(":")[0] for line in said] == ["[1/2] kd res20_res8", "[2/2] short res20_res8"]


def test_what_a_table_costs_is_not_asked_of_files_or_with_a_training(tmp_path, capsys):
    (tmp_path / "record.json").write_text(json.dumps(record("a GPU", "step")))
    words = ["--table", str(ROOT / "configs/tables/imagenet.yaml"), "--cost", str(tmp_path / "record.json")]
    assert table.main([*words, "--rows", "kd"]) == 2
    assert "--cost counts tables on cifar100, digits; kd r34_r18 is on imagenet" in capsys.readouterr().err
    assert table.main([*words, "--run"]) == 2
    assert "--run with --cost, which trains nothing" in capsys.readouterr().err
