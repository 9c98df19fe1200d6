"""Reports: mean and spread from result files, different protocols are flagged."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.commands import plot, table
from mdistiller_dfpt.errors import DataError
from mdistiller_dfpt.report import load_results, markdown_table
from mdistiller_dfpt.report.cells import in_words, paired_test
from mdistiller_dfpt.report.curves import plot_curves
from mdistiller_dfpt.report.difference import difference, protocol_note
from mdistiller_dfpt.report.files import shown_results, unfinished
from mdistiller_dfpt.report.result import Result
from mdistiller_dfpt.report.table import references, table_of
from mdistiller_dfpt.runs.identity import identity_of
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.trainer import Trainer

from ..tiny_runs import fit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """KD with two seeds, DFPT-KD with one, and KD with another batch size."""
    folder = tmp_path_factory.mktemp("runs")
    for name, method, *more in (
        ("kd", "KD"), ("kd", "KD", "SOLVER.SEED", "2"), ("dfptkd", "DFPTKD"), ("odd", "KD", "SOLVER.LR", "0.01"),
    ):  # fmt: skip
        words = ["DISTILLER.TYPE", method, "LOG.PREFIX", str(folder), "EXPERIMENT.NAME", name, *more]
        cfg = tiny_cfg(*words)
        fit(Trainer(cfg, tiny_distiller(method, *words), tiny_data(seed=cfg.SOLVER.SEED)))
    return folder


def test_a_row_has_mean_and_sample_deviation(runs):
    results = load_results(runs)
    values = [r.data["final"]["top1"]["last"] for r in results if r.name == "kd"]
    mean = sum(values) / 2
    deviation = abs(values[0] - values[1]) / 2**0.5
    row = next(line for line in markdown_table(results).splitlines() if line.startswith("| kd |"))
    assert f"| 1, 2 | {mean:.2f} ± {deviation:.2f} |" in row


@pytest.mark.parametrize("deep", [True, False])
def test_a_run_that_may_not_be_looked_into_is_listed(deep, runs, monkeypatch):
    scan = os.scandir

    def refuse(place):
        if Path(place).name in ("seed2", "dfptkd"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        return scan(place)

    assert unfinished(runs / "kd", deep) == []
    monkeypatch.setattr(os, "scandir", refuse)
    (result,) = load_results(runs / "kd", deep)
    assert result.seed == 1
    assert unfinished(runs / "kd", deep) == [f"{runs}/kd/seed2: cannot be read (Permission denied)"]
    with pytest.raises(DataError, match="dfptkd: cannot be read .Permission denied."):
        load_results(runs / "dfptkd")


def test_a_table_of_a_folder_has_what_was_measured_in_the_first_step(runs, tmp_path):
    head, _, *rows = markdown_table(load_results(runs)).splitlines()
    assert "| weight | gradient / kd |" in head
    columns = {line.split(" | ")[0]: line.split(" | ")[5:7] for line in rows}
    assert columns["| kd"][0] == "0.9"
    assert float(columns["| kd"][1]) == pytest.approx(0.9, rel=0.05), "KD relative to KD of weight 1"
    record = read_checked_json(runs / "kd/seed1/results.json")
    del record["epochs"][0]["train"]["gradient_to_kd"], record["epochs"][0]["train"]["distillation_weight"]
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1/results.json").write_text(json.dumps(record))
    assert "weight" not in markdown_table(load_results(tmp_path)), "an earlier version measured nothing"


def test_runs_with_other_unlabelled_images_are_no_repetitions(tmp_path):
    facts = {"protocol": {"seed": 1}, "epochs": []}
    few, many, none = (
        Result("a", tmp_path, {**facts, "identity": identity_of(tiny_cfg(), tiny_data(extra=n), [])})
        for n in (16, 32, 0)
    )
    assert len({few.what, many.what, none.what}) == 3
    assert difference(few, many, "") == "the unlabelled images are others"
    assert difference(few, none, "") == "", "a method that uses none"
    assert difference(few, none, "", of_one_method=True) == "the unlabelled images are others"


def test_another_protocol_is_flagged_and_explained(runs):
    lines = markdown_table(load_results(runs)).splitlines()
    assert next(line for line in lines if line.startswith("| odd |")).endswith("| [1] |")
    assert lines[-1] == "[1] SOLVER.LR 0.01, 0.05 in dfptkd"
    assert next(line for line in lines if line.startswith("| kd |")).endswith("|  |")


def test_repetitions_with_another_version_of_torch_are_averaged_and_flagged(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    (path,) = (r.path for r in load_results(tmp_path / "runs") if (r.name, r.seed) == ("kd", 2))
    data = read_checked_json(path)
    mine = data["environments"][0]["versions"]["torch"]
    data["environments"][0]["versions"]["torch"] = "1.13"
    path.write_text(json.dumps(data))
    table = table_of(load_results(tmp_path / "runs"))
    (row,) = (row for row in table.rows if row[0] == "kd")
    assert row[1] == "1, 2"
    assert table.notes[row[-1]] == f"torch {mine} (seeds 1), 1.13 (seeds 2), but {mine} in dfptkd"


@pytest.mark.parametrize("of_earlier_version", [False, True])
def test_another_environment_of_a_whole_row_is_flagged(of_earlier_version, runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    for result in load_results(tmp_path / "runs"):
        data = result.data
        if of_earlier_version:
            del data["environments"], data["protocol"]["arithmetic"]
        if result.name == "odd":
            where = data["protocol"] if of_earlier_version else data["environments"][0]
            where |= {"threads": 7, "arithmetic": "AVX2 00000000"}
        result.path.write_text(json.dumps(data))
    table = table_of(load_results(tmp_path / "runs"))
    (row,) = (row for row in table.rows if row[0] == "odd")
    threads = load_results(runs)[0].environment["threads"]
    arithmetic = f"; arithmetic AVX2 00000000, but {load_results(runs)[0].environment['arithmetic']} in dfptkd"
    expected = f"SOLVER.LR 0.01, 0.05 in dfptkd; threads 7, but {threads} in dfptkd"
    assert table.notes[row[-1]] == expected + ("" if of_earlier_version else arithmetic), "unknown is not compared"
    assert [row[-1] for row in table.rows if row[0] == "kd"] == [""]


def test_the_number_of_processes_of_all_parts_of_a_run_tells_repetitions_apart(tmp_path):
    facts = {
        "protocol": {"seed": 1, "world_size": 2},
        "epochs": [],
        "identity": identity_of(tiny_cfg(), tiny_data(), []),
    }  # fmt: skip
    parts = [[1], [2], [1, 2], [2, 2]]
    each = [Result("a", tmp_path, {**facts, "environments": [{"world_size": n} for n in part]}) for part in parts]
    assert len({result.what for result in each}) == 3
    assert Result("a", tmp_path, facts).what == each[1].what == each[3].what
    assert protocol_note({1: each[2]}, {1: each[0]}, "in b") == "world_size 1, then 2 after the start, but 1 in b"


def test_the_tools_print_and_draw(runs, capsys, tmp_path):
    assert table.main([str(runs)]) == 0
    assert "| dfptkd | 1 |" in capsys.readouterr().out
    for name, words in (("c", [runs / "dfptkd", "--paths"]), ("k", [runs / "kd", runs / "dfptkd"]), ("a", [runs])):
        assert plot.main([*map(str, words), "-o", str(tmp_path / f"{name}.png")]) == 0
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert plot.main([str(runs / "kd"), "--paths", "-o", str(tmp_path / "p.png")]) == 3
    assert "kd/seed1/results.json: has no trained path of a teacher; leave out --paths" in capsys.readouterr().err
    assert plot.main(["--table", "t.yaml", "--paths", "-o", str(tmp_path / "p.png")]) == 2
    assert capsys.readouterr().err == "error: --paths is for a FOLDER of runs\n"


def test_paths_of_any_name_are_drawn(runs, tmp_path):
    data = json.loads(json.dumps(read_checked_json(runs / "dfptkd/seed1/results.json")).replace("prompt", "adapter"))
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1/results.json").write_text(json.dumps(data))
    plot_curves(load_results(tmp_path), tmp_path / "c.svg", "adapter")
    assert {"teacher", "adapter", "student"} <= set(re.findall(r"<!-- (\w+) -->", (tmp_path / "c.svg").read_text()))


def test_a_folder_that_is_none_is_told_apart_from_an_empty_one(tmp_path):
    (tmp_path / "t.yaml").write_text("")
    for name, message in (("gone", "there is no such folder"), ("t.yaml", "is a file; .*by --table")):
        with pytest.raises(DataError, match=message):
            load_results(tmp_path / name)


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"protocol": {"seed": 1}, "final": {}})])
def test_files_that_are_no_results_are_named(tmp_path, text):
    with pytest.raises(DataError, match="contains no results.json"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=r"results.json: not a results file"):
        load_results(tmp_path)


EPOCHS = {
    "no epochs": ([], "it has no evaluated epoch"),
    "none evaluated": ([{"epoch": 1, "train": {"top1": 1.0}}], "it has no evaluated epoch"),
    "no student": ([{"epoch": 1, "test": {"teacher": {"top1": 1.0}}}], r"epochs\[0\].test.student is missing"),
    "no top-1": ([{"epoch": 1, "test": {"student": {"top5": 1.0}}}], r"epochs\[0\].test.student.top1 is missing"),
    "no number": ([{"epoch": 1, "test": {"student": {"top1": 1.0, "nll": "x"}}}], r"student.nll is 'x', no float"),
}


@pytest.mark.parametrize("case", EPOCHS)
def test_results_without_an_evaluated_epoch_are_named(case, runs, tmp_path):
    epochs, said = EPOCHS[case]
    data = read_checked_json(runs / "dfptkd/seed1/results.json")
    (tmp_path / "results.json").write_text(json.dumps({**data, "epochs": epochs}))
    with pytest.raises(DataError, match=said):
        load_results(tmp_path)


def test_each_dataset_has_a_reference_of_its_own(runs, tmp_path):
    folder = shutil.copytree(runs, tmp_path / "copy")
    for name in ("b1", "b2"):
        data = read_checked_json(runs / "dfptkd/seed1/results.json")
        data["protocol"]["classes"] = 7
        data["identity"]["config"]["SOLVER.LR"] = float(name[1])
        (folder / name / "seed1").mkdir(parents=True)
        (folder / name / "seed1/results.json").write_text(json.dumps(data))
    table = table_of(load_results(folder))
    names = [row[0] for row in table.rows]
    against = [names[n] for n in references(table.groups)]
    assert dict(zip(names, against, strict=True))["b2"] == dict(zip(names, against, strict=True))["b1"] == "b1"
    assert {a for name, a in zip(names, against, strict=True) if name not in ("b1", "b2")} & {"b1", "b2"} == set()
    assert not [text for text in table.notes.values() if "in b1" in text and "another dataset" in text]


def test_trials_of_a_search_are_not_shown_beside_runs(runs, tmp_path, capsys):
    folder = shutil.copytree(runs, tmp_path / "copy")
    trial = folder / "search/space/digits_kd/trial-0001"
    shutil.copytree(folder / "dfptkd", trial)
    assert {r.name for r in shown_results(folder)} == {r.name for r in load_results(runs)}
    count = len(load_results(trial.parent))
    assert f"note: {folder}: not shown: {count} runs of searches" in capsys.readouterr().err
    assert len(shown_results(trial.parent)) == count
    assert capsys.readouterr().err == ""


def test_a_damaged_file_is_listed_and_the_table_goes_on(runs, tmp_path):
    before = markdown_table(load_results(runs), unfinished(runs))
    folder = shutil.copytree(runs, tmp_path / "copy")
    (folder / "damaged/seed1").mkdir(parents=True)
    (folder / "damaged/seed1/results.json").write_text('{"protocol": {"seed"')
    table = markdown_table(load_results(folder), unfinished(folder))
    assert table.startswith(before)
    assert "- damaged/seed1/results.json: not a results file of a finished run (JSONDecodeError: " in table


def test_why_a_run_ended_makes_neither_a_row_nor_html(runs):
    status = {"state": "failed", "epoch": 1, "reason": "a\n| evil | 99.9 |\n<img src=x> [x](javascript:y) `--resume`"}
    (runs / "late/seed1").mkdir(parents=True)
    (runs / "late/seed1/status.json").write_text(json.dumps(status))
    text = markdown_table(load_results(runs), unfinished(runs))
    assert r"- late/seed1: failed after epoch 1: a | evil | 99.9 | \<img src=x> \[x](javascript:y) `--resume`" in text
    assert "\n| evil" not in text


def test_runs_evaluated_after_other_epochs_are_no_repetitions(tmp_path):
    """As with LOG.EVAL_FREQ 3 and 4 of six epochs: two evaluations each, and a best of other epochs."""
    for seed, epochs in ((1, (3, 6)), (2, (3, 6)), (3, (4, 6))):
        place = tmp_path / f"kd/seed{seed}"
        place.mkdir(parents=True)
        record = [{"epoch": e, "test": {"student": {"top1": 50.0 + e, "top5": 90.0}}} for e in epochs]
        last = {"last": 56.0, "best": 56.0, "best_epoch": 6, "mean_last_5": None}
        identity = {"config": {"DISTILLER.TYPE": "KD"}, "data": None, "teachers": []}
        (place / "results.json").write_text(json.dumps({
            "protocol": {"seed": seed}, "final": {"top1": last}, "epochs": record, "identity": identity,
        }))  # fmt: skip
    table = markdown_table(load_results(tmp_path))
    assert "| kd (seed1, seed2) | 1, 2 |" in table
    assert "| kd (seed3) | 3 |" in table
    assert "[1] evaluated 2 times, 2 in kd (seed1, seed2), after other epochs" in table


def test_a_curve_is_no_mean_of_runs_that_differ_in_more_than_their_seed(runs, tmp_path, capsys):
    for name, change in (("a", 0.5), ("b", 0.7)):
        shutil.copytree(runs / "dfptkd", tmp_path / name)
        (file,) = tmp_path.glob(f"{name}/seed*/results.json")
        data = read_checked_json(file)
        data["identity"]["config"]["DFPTKD.ALPHA"] = change
        file.write_text(json.dumps(data))
    assert plot.main([str(tmp_path), "--paths", "-o", str(tmp_path / "c.png")]) == 3
    err = capsys.readouterr().err
    assert re.search(r"b/seed1: DFPTKD.ALPHA 0.7, 0.5 in .*a/seed1; a curve is of runs that differ in their seed", err)
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize("correct", [(350, 351, 354), (300, 250), (9701, 9688, 9712)])
def test_equal_gaps_have_no_p_value_however_they_are_rounded(correct):
    for images in (364, 10_000, 50_000):
        for gap in range(1, 6):
            gaps = [100 * (one + gap) / images - 100 * one / images for one in correct]
            assert paired_test(gaps) == (None, None)
    assert paired_test([0.01, 0.02])[0] == pytest.approx(0.2048, abs=1e-4)


def test_results_carry_no_paths_of_this_machine(runs):
    text = "".join(p.read_text() for p in runs.rglob("results.json"))
    assert str(runs) not in text


@pytest.mark.parametrize(
    ("p", "words"), [(0.0412, "= 0.041"), (0.0006, "= 0.001"), (0.0004, "< 0.001"), (0, "< 0.001")]
)
def test_no_p_value_is_zero(p, words):
    assert in_words(p) == words


@pytest.mark.parametrize(("key", "value"), [("DISTILLER.STUDENT", "resnet20"), ("DISTILLER.STUDENT_SIZE", 24)])
def test_another_student_is_a_difference_of_two_methods(key, value, runs, tmp_path):
    folder = shutil.copytree(runs, tmp_path / "copy")
    file = folder / "dfptkd/seed1/results.json"
    data = read_checked_json(file)
    before = data["identity"]["config"].get(key)
    data["identity"]["config"][key] = value
    file.write_text(json.dumps(data))
    assert f"[1] {key} {before}, {value} in dfptkd" in markdown_table(load_results(folder))
