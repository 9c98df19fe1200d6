"""The page of a report: complete in one file, escaped, and true to the result files."""

import json
import re
from statistics import mean

import pytest
from scipy.stats import ttest_rel

from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.commands import plot
from mdistiller_dfpt.commands.report import main
from mdistiller_dfpt.errors import DataError
from mdistiller_dfpt.report import load_results
from mdistiller_dfpt.report.curves import curves, learning_curves
from mdistiller_dfpt.report.figures import label
from mdistiller_dfpt.report.files import apart
from mdistiller_dfpt.report.page import Entry, page
from mdistiller_dfpt.report.page import _confusion as confusion
from mdistiller_dfpt.report.table import table_of


def epoch(number, top1, paths=False):
    student = {"top1": top1, "top5": 99.0, "nll": 1.0, "ece": 3.0, "predicted_classes": 3}
    test = {"student": student}
    if paths:
        test = {"teacher": student, "prompt": student, "student": student, "kl": {"teacher||student": 0.5}}
    return {"epoch": number, "train": {}, "test": test, "seconds": 1.0}


def evaluation(top1, name="c<at>"):
    return {
        "student": "resnet8", "method": "KD", "file": "f", "on": "the test set", "images": 4, "top1": top1,
        "top5": 100.0, "nll": 0.5, "ece": 2.0, "temperature": None, "nll_half": None,
        "ece_half": None, "nll_scaled": None, "ece_scaled": None,
        "per_class": {name: 50.0, "dog": 100.0}, "most_confused": [{"class": name, "predicted": "dog", "images": 1}],
        "confusion": [[1, 1], [0, 2]], "reliability": [{"confidence": 0.7, "accuracy": 0.75, "images": 4}],
        "worst": [{"image": "3", "label": name, "predicted": "dog", "probability": 0.9,
                   "thumbnail": "data:image/png;base64,AA"}],
        "parameters": 1234567, "macs": 2_500_000, "bytes": 2**20, "milliseconds": {"1": 1.5, "64": 20.0}, "threads": 1,
    }  # fmt: skip


def write(folder, name, seed, top1, *, method="KD", paths=False, judged=True):
    place = folder / name / f"seed{seed}"
    place.mkdir(parents=True)
    last = {"last": top1, "best": top1 + 1, "best_epoch": 1, "mean_last_5": None}
    identity = {
        "config": {"DISTILLER.TYPE": method},
        "data": {"classes": 2, "train_images": 9, "test_images": 4, "sha256": "0"},
        "teachers": [{"name": "resnet20", "sha256": "1"}],
    }
    protocol = {"seed": seed, "data": "tiny", "teacher": {"name": "resnet20", "top1": 90.0}, "settings": {"X.Y": 3}}
    results = {
        "method": method, "student": "resnet8", "protocol": protocol, "final": {"top1": last, "top5": last},
        "epochs": [epoch(1, top1 + 1, paths), epoch(2, top1, paths)], "identity": identity, "fingerprint": "f",
    }  # fmt: skip
    (place / "results.json").write_text(json.dumps(results))
    if judged:
        (place / "evaluation.json").write_text(json.dumps(evaluation(top1)))


@pytest.fixture
def runs(tmp_path):
    """Two methods with three seeds each, of which one has paths, and one that has not finished."""
    for seed, (kd, ours) in enumerate([(50.0, 52.0), (51.0, 52.5), (49.5, 53.0)], start=1):
        write(tmp_path, "kd/a", seed, kd)
        write(tmp_path, "ours/<b>", seed, ours, method="DFPTKD", paths=True)
    (tmp_path / "late/seed1").mkdir(parents=True)
    (tmp_path / "late/seed1/status.json").write_text(json.dumps({"state": "failed", "epoch": 1, "reason": "no disk"}))
    return tmp_path


def test_the_table_has_spread_and_the_paired_test(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    assert main([".", "-o", "r.html", "--title", "A & B"]) == 0
    text = (runs / "r.html").read_text()
    assert "<title>A &amp; B</title>" in text
    kd, ours = [50.0, 51.0, 49.5], [52.0, 52.5, 53.0]
    p = ttest_rel(ours, kd).pvalue
    assert f"<td>{mean(kd):.2f} ± 0.76</td>" in text
    assert f"{mean(ours) - mean(kd):+.2f} (" in text
    assert f"p = {p:.3f}, Holm {p:.3f}, 3 seeds" in text
    assert "late/seed1: failed after epoch 1: no disk" in text


def test_it_needs_nothing_from_elsewhere_and_escapes_names(runs):
    text = page(load_results(runs), "t")
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "c&lt;at&gt;" in text
    assert "c<at>" not in text
    assert "ours/&lt;b&gt;" in text
    assert "ours/<b>" not in text


def test_names_are_no_formulas_and_none_is_left_out_of_a_legend(tmp_path):
    for number, name in enumerate(names := ["$\\frac$", "$$", "_x"]):
        write(tmp_path, name, 1, 50.0, method=f"M{number}")
        (tmp_path / name / "seed1/evaluation.json").write_text(json.dumps(evaluation(50.0, f"{name}\udcff")))
    text = page(load_results(tmp_path), "t")
    assert [f"<td>{name}</td>" in text for name in names] == [True] * 3
    assert text.encode().count(rb"\udcff") > 3
    assert (label("_x"), label("5 $ or $6")) == (" _x", r"5 \$ or \$6")
    assert label("a\r\nb") == r"a\r\nb"  # a picture has no sign for them


def test_every_part_is_there(runs):
    text = page(load_results(runs), "t")
    for part in ("Learning curves", "Paths of the teacher", "Students", "Protocols", "1,234,567", "2.5", "1.5 ms",
                 "X.Y 3", "Most confused", "data:image/png;base64,AA"):  # fmt: skip
        assert part in text, part
    assert text.count("<svg") == 1 + 1 + 1 + 2 * 2, "curves, paths, cost, and two pictures of each student"


def test_runs_without_an_evaluation_or_paths_have_the_rest(tmp_path):
    write(tmp_path, "kd/a", 1, 50.0, judged=False)
    text = page(load_results(tmp_path), "t")
    assert "Learning curves" in text
    assert "Students" not in text
    assert "Paths of the teacher" not in text


def test_a_damaged_evaluation_names_its_file(runs):
    (runs / "kd/a/seed1/evaluation.json").write_text("{}")
    with pytest.raises(DataError, match=r"seed1/evaluation.json: not an evaluation of a run \(top1 is missing"):
        page(load_results(runs), "t")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere"], 2, "no such folder: nowhere"),
        ([".", "-o", "r.pdf"], 2, "the page is HTML"),
        (["."], 3, "contains no results.json"),
    ],
)
def test_wrong_uses_are_one_line(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    assert message in capsys.readouterr().err


def test_a_copy_of_a_run_neither_counts_nor_names_a_row(runs):
    import shutil

    for path in runs.glob("kd/a/seed*/results.json"):
        data = read_checked_json(path)
        path.write_text(json.dumps(data | {"student_sha256": str(data["protocol"]["seed"])}))
    shutil.copytree(runs / "kd/a/seed2", runs / "k/seed2")
    text = page(load_results(runs), "t")
    assert "<td>kd/a</td><td>1, 2, 3</td>" in text
    assert f"{runs}/k/seed2: another run computed the same with seed 2" in text
    data = read_checked_json(runs / "k/seed2/results.json")
    data["final"]["top1"]["last"] = 60.0
    (runs / "k/seed2/results.json").write_text(json.dumps(data | {"student_sha256": "other"}))
    text = page(load_results(runs), "t")
    assert f"{runs}/kd/a/seed2: another run computed the same with seed 2" in text, "of two trainings, the newer counts"


@pytest.mark.parametrize("of", ["these weights", "others"])
def test_an_evaluation_is_shown_of_the_weights_of_the_results_alone(of, tmp_path):
    write(tmp_path, "kd", 1, 50.0)
    run = tmp_path / "kd/seed1"
    for name, key, value in (("results", "student_sha256", "these weights"), ("evaluation", "sha256", of)):
        data = read_checked_json(run / f"{name}.json")
        (run / f"{name}.json").write_text(json.dumps(data | {key: value}))
    assert ("Mistakes with the highest confidence" in page(load_results(tmp_path), "x")) == (of == "these weights")


def test_a_class_without_mistakes_is_not_among_the_lowest(tmp_path):
    """Names of classes may be numbers, so an accuracy stands in brackets."""
    write(tmp_path, "kd", 1, 50.0)
    (tmp_path / "kd/seed1/evaluation.json").write_text(json.dumps(evaluation(75.0, "8")))
    text = page(load_results(tmp_path), "t")
    assert re.search(r"Lowest accuracies: 8 \(50\.0&nbsp;%\)\.\s*Most confused", text)


def test_each_count_of_a_confusion_is_written_in_its_cell():
    entry = Entry("kd", {}, evaluation(75.0) | {"confusion": [[5, 3], [0, 12]]})
    axis = confusion(entry).axes[0]
    assert {one.get_position(): one.get_text() for one in axis.texts} == {(0, 0): "5", (1, 0): "3", (1, 1): "12"}


def test_a_protocol_has_no_empty_rows(tmp_path):
    write(tmp_path, "kd", 1, 50.0)
    data = read_checked_json(tmp_path / "kd/seed1/results.json")
    data["protocol"] |= {"teacher": None, "commit": "", "warmup_epochs": 0.0, "threads": 2}
    (tmp_path / "kd/seed1/results.json").write_text(json.dumps(data))
    rows = dict(re.findall(r"<tr><th>([^<]*)</th><td>([^<]*)</td></tr>", page(load_results(tmp_path), "t")))
    assert rows == {"seed": "1", "data": "tiny", "settings": "X.Y 3", "warmup epochs": "0", "threads": "2"}


@pytest.mark.parametrize(("other", "words"), [
    ({"threads": 1}, ["AMD X, threads: 1"]), ({"threads": 2}, ["AMD X, threads: 1", "AMD X, threads: 2"]),
    ({"cpu": "Intel Y"}, ["AMD X, threads: 1", "Intel Y, threads: 1"]),
    ({"device": "NVIDIA H100"}, ["AMD X, threads: 1", "NVIDIA H100"]),
    ({"cpu": None, "device": None}, ["AMD X, threads: 1", "cpu, threads: 1"]),
])  # fmt: skip
def test_times_are_told_with_what_they_were_measured_on(other, words, tmp_path):
    on = {"device": "cpu", "cpu": "AMD X", "threads": 1}
    for name, more in (("kd", {}), ("ours", other)):
        write(tmp_path, name, 1, 50.0, method=name)
        known = {key: value for key, value in (on | more).items() if value is not None}
        (tmp_path / name / "seed1/evaluation.json").write_text(json.dumps(evaluation(50.0) | known))
    text = page(load_results(tmp_path), "t")
    assert sorted(set(re.findall(r" ms</td><td>([^<]*)</td></tr>", text))) == words
    assert ("do not compare the times of one" in text) == (len(words) > 1)


def test_a_protocol_has_all_environments_of_its_run(tmp_path):
    write(tmp_path, "kd", 1, 50.0)
    data = read_checked_json(tmp_path / "kd/seed1/results.json")
    parts = [{"device": "cpu", "versions": {"torch": f"2.{n}", "python": "3"}, "epoch": n} for n in (1, 4)]
    data["protocol"] |= parts[1]
    del data["protocol"]["epoch"]
    (tmp_path / "kd/seed1/results.json").write_text(json.dumps(data | {"environments": parts}))
    rows = dict(re.findall(r"<tr><th>([^<]*)</th><td>([^<]*)</td></tr>", page(load_results(tmp_path), "t")))
    assert (rows["device"], rows["versions"]) == ("cpu", "torch 2.1, then 2.4 after epoch 4, python 3")


@pytest.mark.parametrize(("seeds", "title"), [([1], "ours (seed 1)"), ([1, 2], "ours (seeds 1, 2; thin: each seed)")])
def test_the_curve_of_one_seed_speaks_of_one(seeds, title, tmp_path):
    for seed in seeds:
        write(tmp_path, "ours", seed, 50.0, paths=True)
    assert curves(load_results(tmp_path), "ours").get_suptitle() == title


def test_runs_below_two_of_the_given_folders_are_there_once(runs, tmp_path_factory, capsys):
    place = tmp_path_factory.mktemp("beside")
    (place / "link").symlink_to(runs)
    assert apart([runs / "kd", runs, place / "link"]) == [runs]
    assert apart([runs / "kd", runs / "ours"]) == [runs / "kd", runs / "ours"]
    assert apart([runs, runs / "search" / "kd", runs / "search"]) == [runs, runs / "search"]
    inside = [str(runs), str(runs / "kd"), str(place / "link")]
    assert plot.main([*inside, "-o", str(place / "a.png")]) == 0
    assert "another run computed the same" not in capsys.readouterr().err
    assert main([*inside, "-o", str(place / "a.html")]) == 0
    assert "another run computed the same" not in (place / "a.html").read_text()


def test_the_learning_curves_of_any_runs_are_a_mean_and_a_band_for_each_config(runs):
    """Of the runs of the fixture: two evaluations each, the first one point above the last."""
    table = table_of(load_results(runs))
    names = [row[0] for row in table.rows]
    (axis,) = learning_curves(dict(zip(names, table.groups, strict=True))).axes
    found = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    kd, ours = [50.0, 51.0, 49.5], [52.0, 52.5, 53.0]
    assert found == {
        name: [[1, pytest.approx(mean(top1) + 1)], [2, pytest.approx(mean(top1))]]
        for name, top1 in (("kd/a", kd), ("ours/<b>", ours))
    }
    for band, top1 in zip(axis.collections, (kd, ours), strict=True):
        corners = {(x, y) for x, y in band.get_paths()[0].vertices.tolist()}
        assert {(2.0, min(top1)), (2.0, max(top1)), (1.0, min(top1) + 1), (1.0, max(top1) + 1)} <= corners
    assert axis.get_ylabel() == "top-1 of the student on the test set, %"


def test_runs_of_equal_names_in_several_folders_are_told_apart_by_their_folder(tmp_path):
    for folder, method, top1 in (("x", "KD", 50.0), ("y", "DKD", 60.0)):
        for seed in (1, 2):
            write(tmp_path / folder, "pair", seed, top1, method=method)
    found = table_of([result for folder in ("x", "y") for result in load_results(tmp_path / folder / "pair")])
    assert [row[:2] for row in found.rows] == [
        [f"{tmp_path}/{folder}/pair (seed1, seed2)", "1, 2"] for folder in ("x", "y")
    ]


def test_accuracies_on_several_datasets_are_told_apart_in_a_table(tmp_path):
    for name, folder, images in (("a", "cats", 4), ("b", "cats", 4), ("c", "dogs", 5)):
        write(tmp_path, name, 1, 50.0, method=name)
        file = tmp_path / name / "seed1/results.json"
        data = read_checked_json(file)
        data["protocol"] |= {"data": "folder", "folder": folder, "classes": 2, "test_images": images}
        file.write_text(json.dumps(data))
    table = table_of(load_results(tmp_path))
    assert table.head[:3] == ["run", "dataset", "seeds"]
    assert [row[:2] for row in table.rows] == [
        ["a", "folder cats, 2 classes, 4 test images"], ["b", "folder cats, 2 classes, 4 test images"],
        ["c", "folder dogs, 2 classes, 5 test images"],
    ]  # fmt: skip
    assert table_of([result for result in load_results(tmp_path) if result.name != "c"]).head[1] == "seeds"


def test_in_print_nothing_is_folded_away_or_cut_off(runs):
    """A closed protocol and the last columns of a wide table are on paper, too."""
    rules = page(load_results(runs), "t").partition("@media print {")[2].partition("</style>")[0]
    assert "details::details-content { content-visibility: visible; block-size: auto; }" in rules
    assert ".wide, .figure { overflow: visible; }" in rules
    assert re.search(r"\.wide th, \.wide td \{ white-space: normal;", rules)
