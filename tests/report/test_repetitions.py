"""Of two runs that computed the same, the newer counts, whatever the clock was; copies of a run count once."""

import json
import os
import shutil

import pytest

from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.report import load_results
from mdistiller_dfpt.report.files import unfinished
from mdistiller_dfpt.report.repetitions import repeats, repetitions

from .test_page import write

HOUR = 3600


def result(folder, name, run, weights, written):
    """A finished run of seed 1 in `folder/name/run`, whose results a clock says to be written then."""
    write(folder, name, 1, 50.0, judged=False)
    place = (folder / name / "seed1").rename(folder / name / f".{run}")
    path = place / "results.json"
    path.write_text(json.dumps({**read_checked_json(path), "student_sha256": weights}))
    os.utime(path, (written, written))
    return place


def put(places):
    """Give the directories their own names."""
    for place in places:
        place.rename(place.with_name(place.name[1:]))


def counted(folder):
    """The directory of the run that counts; all others are listed."""
    found = load_results(folder)
    (group,) = repetitions(found)
    assert len(repeats(found)) == len(found) - 1
    return str(group[1].path.parent.relative_to(folder))


@pytest.mark.parametrize("linked", ["b", "b/seed1"])
def test_runs_are_found_behind_links_once_and_under_their_own_names(linked, tmp_path):
    folder, disk = tmp_path / "runs", tmp_path / "disk"
    write(folder, "a", 1, 50.0, judged=False)
    write(disk, "b", 1, 60.0, judged=False)
    (disk / linked / "back").symlink_to(folder)  # and round in a circle
    (folder / linked).parent.mkdir(exist_ok=True)
    (folder / linked).symlink_to(disk / linked)
    (folder / "0").symlink_to("a")
    (folder / "a/seed1/again").symlink_to("../..")
    assert [result.path for result in load_results(folder)] == [folder / f"{name}/seed1/results.json" for name in "ab"]
    assert [result.name for result in load_results(folder)] == ["a", "b"]
    assert unfinished(folder) == []
    shutil.rmtree(disk)
    assert unfinished(folder) == [f"{folder / linked}: a link to nothing"]


def test_a_cell_follows_links_to_its_runs_and_names_those_to_nothing(tmp_path):
    write(tmp_path, "disk", 1, 50.0, judged=False)
    write(tmp_path, "disk/seed1/inside", 3, 60.0, judged=False)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/seed1").symlink_to("../disk/seed1")
    (tmp_path / "a/seed2").symlink_to("../gone")
    (tmp_path / "a/notes").symlink_to("../gone")
    assert [result.seed for result in load_results(tmp_path / "a", deep=False)] == [1]
    assert unfinished(tmp_path / "a", deep=False) == [f"{tmp_path}/a/seed2: a link to nothing"]


@pytest.mark.parametrize("shift", [HOUR, 0, -HOUR], ids=["goes on", "stands still", "was set back"])
def test_of_repetitions_in_one_folder_the_last_counts_whatever_the_clock_was(shift, tmp_path):
    names = ["seed1", *(f"seed1-{n}" for n in range(2, 12))]
    put([result(tmp_path, "a", name, name, 1e9 + shift * n) for n, name in enumerate(names)])
    assert counted(tmp_path) == "a/seed1-11"


def test_of_repetitions_with_the_same_weights_the_first_counts_whatever_the_clock_was(tmp_path):
    put([result(tmp_path, "a", name, "same", 1e9 - HOUR * n) for n, name in enumerate(["seed1", "seed1-2"])])
    assert counted(tmp_path) == "a/seed1"


@pytest.mark.parametrize(("first", "second"), [(0, HOUR), (HOUR, 0)])
def test_between_folders_the_times_of_their_files_decide(first, second, tmp_path):
    places = [result(tmp_path, "a", "seed1", "1", 1e9 + first), result(tmp_path, "b", "seed1", "2", 1e9 + second)]
    put(places)
    assert counted(tmp_path) == ("b/seed1" if second > first else "a/seed1")


def test_the_copy_of_a_folder_does_not_count_though_its_clock_was_set_back(tmp_path):
    put([result(tmp_path, "a", name, name, 1e9 - HOUR * n) for n, name in enumerate(["seed1", "seed1-2"])])
    put([result(tmp_path, "b", name, name, 1e9 + HOUR * (1 - n)) for n, name in enumerate(["seed1", "seed1-2"])])
    assert counted(tmp_path) == "a/seed1-2"
