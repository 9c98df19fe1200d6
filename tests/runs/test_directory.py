"""Which of several runs of one name is taken."""

import pytest

from mdistiller_dfpt.runs.directory import existing_runs, find_finished_weights
from mdistiller_dfpt.testing import tiny_cfg

FINISHED = ("student.safetensors", "results.json")


@pytest.fixture
def runs(tmp_path):
    """The config of some runs, and a function that makes them: {directory: names of its files}."""
    cfg = tiny_cfg("LOG.PREFIX", str(tmp_path), "EXPERIMENT.NAME", "tiny")

    def make(contents):
        for name, files in contents.items():
            (tmp_path / "tiny" / name).mkdir(parents=True)
            for file in files:
                (tmp_path / "tiny" / name / file).touch()

    return cfg, make


def test_the_newest_finished_run_is_found_by_its_number(runs):
    cfg, make = runs
    make({
        "seed1": FINISHED, "seed1-2": FINISHED, "seed1-10": FINISHED, "seed1-11": FINISHED[:1],
        "seed1-12": FINISHED[1:], "seed11": FINISHED, "seed1-x": FINISHED,
    })  # fmt: skip
    assert [path.name for path in existing_runs(cfg)] == ["seed1", "seed1-2", "seed1-10", "seed1-11", "seed1-12"]
    assert find_finished_weights(cfg).parent.name == "seed1-10"


def test_without_a_finished_run_none_is_found(runs):
    cfg, make = runs
    assert find_finished_weights(cfg) is None
    make({"seed1": FINISHED[:1]})
    assert find_finished_weights(cfg) is None
