"""The tables of our runs in the documentation are those of the result files."""

import json
import statistics

import pytest

from tools import study_tables

STUDY = study_tables.ROOT / "results/study"


@pytest.mark.parametrize("path", study_tables.pages(), ids=lambda path: path.name)
def test_the_tables_of_a_page_are_up_to_date(path):
    assert path.read_text() == study_tables.page(path), "run `python tools/study_tables.py`"


def of_seeds(run, seeds):
    """The accuracies of the last epoch, read from the files alone."""
    return [json.loads((STUDY / run / f"seed{s}/results.json").read_text())["final"]["top1"]["last"] for s in seeds]


def test_a_row_has_the_accuracies_of_its_runs_their_mean_and_the_paired_difference():
    rows = study_tables.written("second_teacher.yaml").splitlines()
    own, reference = of_seeds("dfptkd/w4", (1, 2, 3)), of_seeds("kd/two_teachers", (1, 2, 3))
    mean, difference = statistics.mean(own), statistics.mean(a - b for a, b in zip(own, reference, strict=True))
    row = next(row for row in rows if row.startswith("| DFPT-KD, 1 / 4 + 4 |"))
    seeds = ", ".join(f"{value:.2f}" for value in own)
    assert f"| {seeds} | {mean:.2f} ± {statistics.stdev(own):.2f} | {difference:+.2f} (" in row
