"""Results, status and identity with other values: left out and named, and no page or table of them fails otherwise."""

import contextlib
import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdistiller_dfpt.commands import plot, report, table
from mdistiller_dfpt.errors import UserError
from mdistiller_dfpt.report.cells import evaluate_table
from mdistiller_dfpt.report.files import load_results, unfinished
from mdistiller_dfpt.report.spec import load_table

from ..test_house import ROOT
from .strategies import changed, damaged, fuzzed

RUN = ROOT / "results/digits/dkd/res20_res8/dkd_w8/seed3/results.json"
RESULTS = json.loads(RUN.read_text())
RESULTS["epochs"] = RESULTS["epochs"][-3:]
STATUS = {"state": "running", "pid": 1, "epoch": 3, "step": 5, "reason": ""}


def written(folder, results, status=STATUS):
    for seed in (1, 2):
        run = folder / f"digits/dkd/res20_res8/seed{seed}"
        run.mkdir(parents=True, exist_ok=True)
        (run / "results.json").write_text(json.dumps(RESULTS if seed == 2 else results))
        (run / "status.json").write_text(json.dumps(status))
    return folder


def commands_end_well(folder, tmp_path, capsys):
    """No command calls what another has written a bug of its own."""
    for command, words in (
        (table.main, [str(folder)]),
        (table.main, ["--table", str(ROOT / "configs/tables/digits_tuned.yaml"), "--prefix", str(folder)]),
        (report.main, [str(folder), "-o", str(tmp_path / "report.html")]),
        (plot.main, [str(folder / "digits/dkd/res20_res8/seed1"), "-o", str(tmp_path / "plot.png")]),
    ):
        code = command(words)
        said = capsys.readouterr().err
        assert code in (0, 2, 3), (words, code, said)
        assert "Traceback" not in said


@fuzzed
@given(changed(RESULTS), changed(STATUS))
def test_results_with_other_values_are_read_or_named(tmp_path, results, status):
    folder = written(tmp_path, results, status)
    with contextlib.suppress(UserError):
        for result in load_results(folder):
            assert isinstance(result.seed, int)
            result.config, result.teachers, result.content, result.what  # noqa: B018
    unfinished(folder)
    spec = load_table(ROOT / "configs/tables/digits_tuned.yaml")
    with contextlib.suppress(UserError):
        evaluate_table(spec, folder, "last", (1, 2, 3), lambda cell: [])


@fuzzed
@given(damaged(json.dumps(RESULTS).encode()))
def test_damaged_results_are_read_or_named(tmp_path, content):
    folder = written(tmp_path, RESULTS)
    (folder / "digits/dkd/res20_res8/seed1/results.json").write_bytes(content)
    load_results(folder)
    unfinished(folder)


@pytest.mark.parametrize("part", [key for key in RESULTS if key != "epochs"])
def test_commands_on_results_with_a_part_of_another_kind_end_well(part, tmp_path, capsys):
    for other in (None, [], {}, "x", -1, float("nan")):
        results = copy.deepcopy(RESULTS)
        results[part] = other
        commands_end_well(written(tmp_path, results), tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@fuzzed
@given(st.data())
def test_commands_on_results_with_other_values_end_well(tmp_path, capsys, data):
    commands_end_well(written(tmp_path, data.draw(changed(RESULTS))), tmp_path, capsys)
