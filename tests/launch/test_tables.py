"""Tables defined by yaml files: values, flags and paired tests; training of missing cells; smoke tests of all cells."""

import csv
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean

import pytest

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.commands import plot, table
from mdistiller_dfpt.config import keywords
from mdistiller_dfpt.config.effect import deciding_values
from mdistiller_dfpt.distillers.choice import choice, situation
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.jobs import Job, watched_jobs
from mdistiller_dfpt.launch.launchers import Local
from mdistiller_dfpt.launch.smoke import smoke
from mdistiller_dfpt.launch.table_jobs import cell_configs
from mdistiller_dfpt.models.published import TEACHERS, compare_with_record
from mdistiller_dfpt.report.cells import evaluate_table
from mdistiller_dfpt.report.spec import load_table
from mdistiller_dfpt.runs.directory import run_name

from ..waits import LIMIT, has_ended, wait_until

ROOT = Path(__file__).parents[2]
TABLE = table.main
PLOT = plot.main
TABLES = sorted((ROOT / "configs/tables").glob("*.yaml"))
SPEC = f"""
title: Digits
configs: {ROOT}/configs/digits
metric: last
seeds: [1, 2, 3]
reference: kd
sources: {{X: "a paper & its table 1"}}
columns:
  res20_res8: {{title: ResNet20 -> ResNet8}}
rows:
  kd: {{title: KD, published: {{res20_res8: [71.5, X]}}}}
  dfptkd: {{title: DFPT-KD}}
  cold: {{title: KD at T 1, config: "kd/{{pair}}", overrides: {{KD.TEMPERATURE: 1.0}}}}
"""


def test_a_row_of_any_name_is_where_its_runs_are(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(SPEC.replace("cold:", '"cold & dark":'))
    cell = load_table(path).cells["cold & dark", "res20_res8"]
    assert run_name(load_cfg(cell.config, cell.overrides)) == f"{cell.folder}/seed1"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(SPEC)
    return path


def finished(prefix: Path, folder: str, seed: int, top1: float, data: str = "d", teacher: str = "a", **keys) -> None:
    """A result file as a run of the cell in this folder writes it, with other values of these keys."""
    target = prefix / folder / f"seed{seed}"
    target.mkdir(parents=True)
    cold = ["KD.TEMPERATURE", "1.0"] if folder.endswith("cold") else []
    cfg = load_cfg(ROOT / "configs" / f"{folder.removesuffix('/cold')}.yaml", ["SOLVER.SEED", str(seed), *cold])
    config = deciding_values(situation(cfg, in_files=False)) | {k.replace("__", "."): v for k, v in keys.items()}
    record = {
        "protocol": {"seed": seed, "teacher": {"sha256": teacher, "name": "t", "top1": 72.0}},
        "final": {"top1": {"last": top1, "best": top1 + 1, "mean_last_5": top1 - 1}},
        "epochs": [{"epoch": 1, "test": {"student": {"top1": top1}}}],
        "identity": {"config": config, "data": {"sha256": data}, "teachers": [{"name": "t", "sha256": teacher}]},
    }
    (target / "results.json").write_text(json.dumps(record))


@pytest.fixture
def prefix(tmp_path):
    out = tmp_path / "out"
    for seed, kd, dfpt in ((1, 70.0, 71.0), (2, 70.5, 71.6), (3, 69.5, 70.7)):
        finished(out, "digits/kd/res20_res8", seed, kd)
        finished(out, "digits/dfptkd/res20_res8", seed, dfpt)
    finished(out, "digits/kd/res20_res8/cold", 1, 60.0, teacher="b")
    return out


def printed(capsys, *argv, code=0) -> str:
    assert TABLE([str(a) for a in argv]) == code
    return capsys.readouterr().out


def test_a_table_has_mean_spread_difference_test_and_published_value(table, prefix, capsys):
    out = printed(capsys, "--table", table, "--prefix", prefix)
    assert "| KD | 1, 2, 3 | 70.00 ± 0.50 |  |  | 71.50 | X |  |" in out
    assert (
        "| DFPT-KD | 1, 2, 3 | 71.10 ± 0.46 | +1.10 (+0.85 to +1.35) | p = 0.003, Holm 0.003, n = 3 |  |  |  |" in out
    )
    assert "X: a paper & its table 1" in out


def test_a_trained_path_has_its_accuracy_and_divergences(table, prefix, capsys):
    for seed, top1, apart in ((1, 60.0, 0.5), (2, 62.0, 0.25)):
        path = prefix / f"digits/dfptkd/res20_res8/seed{seed}/results.json"
        record = read_checked_json(path)
        kl = {"teacher||prompt": apart, "teacher||student": 9.0, "prompt||student": 1.0}
        test = {"teacher": {"top1": 70.0}, "prompt": {"top1": top1}, "student": {"top1": 50.0}, "kl": kl}
        first = {"prompt": {"top1": 1.0}, "student": {"top1": 1.0}}
        record["epochs"] = [{"epoch": 1, "test": first}, {"epoch": 2, "test": test}]
        path.write_text(json.dumps(record))
    argv = ["--table", table, "--prefix", prefix, "--seeds", "1", "2"]
    out = printed(capsys, *argv)
    assert "| trained path |" in out
    assert "| 61.00 (KL from teacher 0.38, KL to student 1.00) |" in out
    assert "trained path" not in printed(capsys, *argv, "--rows", "cold"), "a frozen teacher has none"


GAP = f"""
title: Gap
configs: {ROOT}/configs/cifar100
metric: last
seeds: [1, 2]
reference: kd
columns:
  res56_res20: {{title: ResNet56 -> ResNet20}}
  res110_res20: {{title: ResNet110 -> ResNet20}}
rows:
  kd: {{title: KD}}
  dkd: {{title: DKD}}
"""


def test_gains_over_the_reference_are_drawn_against_the_teachers_accuracy(tmp_path, capsys):
    table, out = tmp_path / "gap.yaml", tmp_path / "out"
    table.write_text(GAP)
    argv = ["--table", str(table), "--prefix", str(out), "-o", str(tmp_path / "gains.svg")]
    for pair, gain in (("res56_res20", 1.0), ("res110_res20", 0.5)):
        for seed in (1, 2):
            finished(out, f"cifar100/kd/{pair}", seed, 70.0 + seed)
            finished(out, f"cifar100/dkd/{pair}", seed, 70.0 + seed + gain)
            if (pair, seed) == ("res56_res20", 2):
                assert PLOT(argv) == 3, "one pair is no line"
                assert "no row has finished runs on two pairs" in capsys.readouterr().err
    assert PLOT(argv) == 0
    drawn = (tmp_path / "gains.svg").read_text()
    assert "<!-- ResNet110 -&gt; ResNet20 -->" in drawn
    assert "<!-- DKD -->" in drawn
    spec = load_table(table)
    values = evaluate_table(spec, out, "last", spec.seeds, lambda cell: cell_configs(cell, ()))
    assert [(v.cell.row, v.teacher, v.delta) for v in values if v.cell.row == "dkd"] == [
        ("dkd", 72.0, 1.0), ("dkd", 72.0, 0.5),
    ]  # fmt: skip


def test_a_picture_of_gains_names_its_metric_and_says_what_its_table_would(tmp_path, capsys):
    table, out = tmp_path / "gap.yaml", tmp_path / "out"
    table.write_text(GAP)
    for pair, seeds, teacher in (("res56_res20", (1, 2), "b"), ("res110_res20", (1,), "a")):
        for seed in seeds:
            finished(out, f"cifar100/kd/{pair}", seed, 70.0 + seed)
            finished(out, f"cifar100/dkd/{pair}", seed, 71.0 + seed, teacher=teacher)
    assert PLOT(["--table", str(table), "--prefix", str(out), "-o", str(tmp_path / "gains.svg")]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "note: DKD, ResNet56 -> ResNet20: differs in protocol: taught by other weights of t (72.00 %)",
        "note: KD, ResNet110 -> ResNet20: seeds 2 missing",
        "note: DKD, ResNet110 -> ResNet20: seeds 2 missing",
    ]
    assert "<!-- top-1 (last) above KD, points -->" in (tmp_path / "gains.svg").read_text()


@pytest.mark.parametrize(("key", "option"), [("SOLVER.SEED", "--seeds"), ("LOG.PREFIX", "--prefix")])
def test_what_a_table_sets_for_its_cells_is_no_setting(key, option, table, capsys):
    assert TABLE(["--table", str(table), "--run", "SOLVER.LR", "0.1", key, "7"]) == 2
    assert f"{key} is that of all cells: give {option} instead" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "name"), [("TAG", "digits/kd/res20_res8/x"), ("NAME", "x")])
def test_runs_in_another_place_than_a_tables_are_refused_before_they_are_trained(key, name, table, capsys, prefix):
    words = ["--prefix", str(prefix), "--rows", "kd", "--seeds", "9", "--run", f"EXPERIMENT.{key}", "x"]
    assert TABLE(["--table", str(table), *words]) == 2
    assert f"kd res20_res8: its runs are in {name}, and a table looks for them in digits/kd/res20_res8" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either a FOLDER of runs or --table FILE"),
        (["runs", "--table", "t.yaml"], "give either a FOLDER of runs or --table FILE"),
        (["runs", "--prefix", "out"], "--prefix needs --table"),
        (["--table", "t.yaml", "--title", "x"], "--title is for a FOLDER"),
    ],
)
def test_options_of_a_plot_that_do_not_fit_are_refused(words, message, capsys):
    assert PLOT([*words, "-o", "x.png"]) == 2
    assert message in capsys.readouterr().err


def test_another_protocol_is_flagged_and_missing_seeds_are_listed(table, prefix, capsys):
    out = printed(capsys, "--table", table, "--prefix", prefix)
    assert "| KD at T 1 | 1 | 60.00 | -10.00 |  |  |  | [1] |" in out
    assert "[1] differs in protocol: taught by other weights of t (72.00 %)" in out
    assert "Missing (1 of 3 cells):\n- KD at T 1, ResNet20 -> ResNet8: seeds 2, 3" in out


def test_metrics_are_not_mixed_and_seeds_can_be_chosen(table, prefix, capsys):
    assert "| KD | 1, 2 | 71.25 ± 0.35 |" in printed(
        capsys, "--table", table, "--prefix", prefix, "--metric", "best", "--seeds", "1", "2"
    )


def test_csv_and_latex_contain_the_same_values(table, prefix, capsys):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "--table", table, "--prefix", prefix, "--format", "csv"))))
    assert [r["method"] for r in rows] == ["kd", "dfptkd", "cold"]
    assert float(rows[1]["mean"]) == pytest.approx(mean([71.0, 71.6, 70.7]))
    assert (rows[0]["published"], rows[0]["source"]) == ("71.5", "a paper & its table 1")
    assert (rows[2]["seed2"], rows[2]["protocol_differs"]) == ("", "taught by other weights of t (72.00 %)")
    latex = printed(capsys, "--table", table, "--prefix", prefix, "--format", "latex")
    assert r"DFPT-KD & 1, 2, 3 & 71.10 $\pm$ 0.46 & +1.10" in latex
    assert r"\multicolumn{8}{l}{ResNet20 $\to$ ResNet8}" in latex


def test_a_repeated_seed_counts_once_and_the_newest_is_taken(table, prefix, capsys):
    again = prefix / "digits/kd/res20_res8/seed1-2"
    first = prefix / "digits/kd/res20_res8/seed1"
    first.rename(again)
    finished(prefix, "digits/kd/res20_res8", 1, 10.0)
    os.utime(first / "results.json", (1, 1))
    line = f"KD, ResNet20 -> ResNet8: {first}: another run computed the same with seed 1"
    out = printed(capsys, "--table", table, "--prefix", prefix)
    assert "| KD | 1, 2, 3 | 70.00 ± 0.50 |" in out
    assert f"Also found, and not in the table:\n- {line}\n" in out
    assert f"% also found: {line}\n" in printed(capsys, "--table", table, "--prefix", prefix, "--format", "latex")
    assert "also found" not in printed(capsys, "--table", table, "--prefix", prefix, "--seeds", "2", "3").lower()


def test_a_cell_is_filled_by_its_config_alone_and_other_runs_are_listed(table, prefix, capsys):
    """A run of one epoch under the same name took the place of one of 240 (76.8 became 9.1)."""
    for seed in (1, 2, 3):
        (prefix / f"digits/kd/res20_res8/seed{seed}").rename(prefix / f"digits/kd/res20_res8/seed{seed}-2")
        finished(prefix, "digits/kd/res20_res8", seed, 9.1, SOLVER__EPOCHS=1)
    (prefix / "digits/kd/res20_res8/seed4").mkdir()
    status = {"state": "failed", "epoch": 3, "reason": "the loss is nan"}
    (prefix / "digits/kd/res20_res8/seed4/status.json").write_text(json.dumps(status))
    out = printed(capsys, "--table", table, "--prefix", prefix)
    assert "| KD | 1, 2, 3 | 70.00 ± 0.50 |" in out
    assert "- KD, ResNet20 -> ResNet8: seeds 1, 2, 3: SOLVER.EPOCHS 1, 10 in the table" in out
    assert "- KD, ResNet20 -> ResNet8: seed4: failed after epoch 3: the loss is nan" in out


@pytest.mark.parametrize(
    ("change", "why"), [({"data": "e"}, "another dataset"), ({"teacher": "b"}, "taught by other weights of t")]
)
def test_a_cell_never_averages_two_datasets_or_teachers(change, why, table, prefix, capsys):
    target = prefix / "digits/kd/res20_res8/seed3"
    shutil.rmtree(target)
    finished(prefix, "digits/kd/res20_res8", 3, 10.0, **change)
    out = printed(capsys, "--table", table, "--prefix", prefix)
    assert "| KD | 1, 2 | 70.25 ± 0.35 |" in out
    assert f"- KD, ResNet20 -> ResNet8: seeds 3: {why}" in out


def test_a_folder_of_mixed_runs_has_a_row_for_each_different_run(prefix, capsys):
    for seed, top1 in ((1, 9.0), (2, 10.0)):
        (prefix / f"digits/kd/res20_res8/seed{seed}").rename(prefix / f"digits/kd/res20_res8/seed{seed}-2")
        finished(prefix, "digits/kd/res20_res8", seed, top1, SOLVER__EPOCHS=1)
    out = printed(capsys, prefix)
    assert "| digits/kd/res20_res8 (seed1-2, seed2-2, seed3) | 1, 2, 3 | 70.00 ± 0.50 |" in out
    row = next(line for line in out.splitlines() if "9.50 ± 0.71" in line)
    assert row.startswith("| digits/kd/res20_res8 (seed1, seed2) | 1, 2 |")
    mark = row.split("|")[-2].strip()
    assert f"{mark} SOLVER.EPOCHS 1, 10 in digits/kd/res20_res8 (seed1-2, seed2-2, seed3)" in out


def test_sources_that_differ_are_all_printed(table, prefix, capsys):
    spec = SPEC.replace("[71.5, X]", "[[71.5, X], [74, Y]]").replace('its table 1"', 'its table 1", Y: another')
    table.write_text(spec)
    assert "| 71.50, 74.00 | X, Y |" in printed(capsys, "--table", table, "--prefix", prefix)
    rows = list(csv.DictReader(printed(capsys, "--table", table, "--prefix", prefix, "--format", "csv").splitlines()))
    assert (rows[0]["published"], rows[0]["source"]) == ("[71.5, 74.0]", "a paper & its table 1; another")
    table.write_text(spec.replace("[74, Y]", "[74, Z]"))
    with pytest.raises(ConfigError, match="has the source Z, which `sources` does not name"):
        load_table(table)


def test_a_mean_of_five_epochs_needs_five(table, prefix, capsys):
    path = prefix / "digits/kd/res20_res8/seed3/results.json"
    record = read_checked_json(path)
    record["final"]["top1"]["mean_last_5"] = None
    path.write_text(json.dumps(record))
    out = printed(capsys, "--table", table, "--prefix", prefix, "--metric", "mean_last_5")
    assert "| KD | 1, 2 | 69.25 ± 0.35 |" in out
    assert "- KD, ResNet20 -> ResNet8: seeds 3" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("reference: kd", "reference: ofd"), "reference is ofd, which is not a row"),
        (("metric: last", "metric: top"), "metric is top; it must be one of last, best"),
        (("[71.5, X]", "[71.5, Y]"), "rows.kd.published.res20_res8 has the source Y, which `sources` does not name"),
        (("{title: DFPT-KD}", "{title: D, config: nowhere}"), "rows.dfptkd names .*nowhere.yaml, which does not exist"),
        (("{title: DFPT-KD}", "{title: D, config: '{pair:2000000000}'}"), r"names .*\{pair:2000000000\}.yaml"),
        (("title: Digits", "tittle: Digits"), "unknown key tittle"),
        (("seeds: [1, 2, 3]", ""), "seeds is missing"),
        (("res20_res8: [71.5, X]", "other: [71.5, X]"), "published names other, which is not a column"),
        (("seeds: [1, 2, 3]", "seeds: 3"), "not a table"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_file_and_key(table, change, message):
    table.write_text(SPEC.replace(*change))
    with pytest.raises(ConfigError, match=message):
        load_table(table)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing is given"),
        (["--table", "no.yaml"], "no.yaml"),
        (["--rows", "ofd"], "--rows names ofd"),
        (["--jobs", "0"], "--jobs is 0"),
    ],
)
def test_bad_usage_exits_with_2(table, argv, message, capsys):
    argv = argv if not argv or argv[0] == "--table" else ["--table", str(table), *argv]
    assert TABLE(argv) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_missing_cells_are_trained_once_and_a_failing_one_stops_no_other(table, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["SOLVER.EPOCHS", "1", "LOG.TENSORBOARD", "False", "SOLVER.BATCH_SIZE", "512", "EXPERIMENT.THREADS", "1"]
    argv = ["--table", str(table), "--run", "--jobs", "2", "--seeds", "1", "--prefix", "runs", *quick]
    broken = SPEC.replace("KD.TEMPERATURE: 1.0", "SOLVER.LR: 1.0e+30")
    table.write_text(broken)
    assert TABLE(argv) == 1
    done = capsys.readouterr()
    assert "1 runs failed: cold res20_res8 seed 1" in done.err
    assert "failed with 4, see runs/table_logs" in done.err
    assert "teacher res20: done" in done.err
    assert re.search(r"\| DFPT-KD \| 8 \| [\d.]+ \| 1 \|", done.out), "total weight, gradient, seeds"
    table.write_text(SPEC)
    assert TABLE(["--table", str(table), "--prefix", "runs", "--rows", "dfptkd", "--seeds", "1", "--run", *quick]) == 0
    assert "done" not in capsys.readouterr().err, "nothing was missing"


CHILD = """
import signal, sys, time
from mdistiller_dfpt.parent import stop_with_launcher
stop = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: stop.append(number))
stop_with_launcher()
print("began", flush=True)
while not stop:
    time.sleep(0.01)
time.sleep(0.2)
print("saved", len(stop), flush=True)
sys.exit(128 + stop[0])
"""
PARENT = """
import sys
from pathlib import Path
from mdistiller_dfpt.launch import jobs as launched
from mdistiller_dfpt.launch.cli import guarded
from mdistiller_dfpt.launch.launchers import Local
launched.TRAIN = [sys.executable, "-c", sys.argv[1]]
folder = Path(sys.argv[2])
jobs = [launched.Job(f"job {i}", (str(i),), folder / f"{i}.txt", folder / f"{i}/seed1") for i in range(5)]
say = lambda line: print(line, flush=True)
sys.exit(guarded(lambda argv: launched.run_jobs(jobs, Local(2), say), []))
"""


def begun_jobs(tmp_path, *before):
    """A launcher of five jobs, two at a time, once the first two have begun; `before`: what starts its command."""
    command = [*before, sys.executable, "-c", PARENT, CHILD, str(tmp_path)]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT
    )  # fmt: skip
    logs = [tmp_path / f"{i}.txt" for i in (0, 1)]
    wait_until(lambda: all(log.exists() and "began" in log.read_text() for log in logs))
    return parent


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, False)])
def test_a_signal_to_a_table_reaches_its_jobs_once_and_no_further_job_begins(number, group, tmp_path):
    """Ctrl-C goes to the whole group of a terminal, a scheduler's signal to the process alone."""
    parent = begun_jobs(tmp_path)
    (os.killpg if group else os.kill)(parent.pid, number)
    out, err = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 128 + number, err
    assert err.splitlines() == ["error: interrupted; repeat the same command to go on"]
    assert [(tmp_path / f"{i}.txt").read_text().split() for i in (0, 1)] == [["began", "saved", "1"]] * 2
    assert not (tmp_path / "2.txt").exists()
    assert out.count("...") == 2


def test_a_job_that_is_killed_stops_no_other(tmp_path):
    killed = "import os, sys; sys.argv[1] == '1' and os.kill(os.getpid(), 9)"
    words = [sys.executable, "-c", PARENT, killed, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    ended = sorted(re.findall(r"\[\d/5\] (job \d: [a-z]+)", done.stdout))
    assert ended == ["job 0: done", "job 1: failed", "job 2: done", "job 3: done", "job 4: done"]
    assert "job 1: failed with -9, see" in done.stdout


def test_a_table_that_nohup_started_goes_on_at_a_hangup(tmp_path):
    parent = begun_jobs(tmp_path, "nohup")
    parent.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    parent.send_signal(signal.SIGTERM)
    _, err = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 128 + signal.SIGTERM, err
    assert [(tmp_path / f"{i}.txt").read_text().split() for i in (0, 1)] == [["began", "saved", "1"]] * 2


def test_jobs_save_and_end_when_their_launcher_is_killed(tmp_path):
    parent = begun_jobs(tmp_path)
    parent.kill()
    assert parent.communicate(timeout=LIMIT)[1] == ""
    logs = [tmp_path / f"{i}.txt" for i in (0, 1)]
    wait_until(lambda: [log.read_text().split() for log in logs] == [["began", "saved", "1"]] * 2)
    assert not (tmp_path / "2.txt").exists()


DEAF = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: print("told", flush=True))
if sys.argv[1] == "parent":
    subprocess.Popen([sys.executable, "-c", sys.argv[2], "child"])
print(sys.argv[1], os.getpid(), flush=True)
while True:
    time.sleep(0.01)
"""


def test_a_job_that_does_not_end_when_it_is_told_to_is_killed_with_its_processes(tmp_path):
    log = tmp_path / "job.txt"
    job = Job("deaf", ("parent", DEAF), log, tmp_path, (sys.executable, "-c", DEAF))
    with watched_jobs(Local(), grace=0.2) as start:
        code = start(job, lambda pid: {"parent", "child"} <= set(log.read_text().split()))
    assert code == -signal.SIGKILL
    assert "told" in log.read_text()
    (child,) = re.findall(r"child (\d+)", log.read_text())
    wait_until(lambda: has_ended(int(child)), "a process is left")


def test_every_cell_of_every_table_names_a_config_that_loads():
    assert {p.stem for p in TABLES} >= {"cifar100_same_family", "cifar100_different_families", "ablations"}
    faults = []
    for path in TABLES:
        for cell in load_table(path).cells.values():
            try:
                load_cfg(cell.config, cell.overrides)
            except ConfigError as e:
                faults.append(f"{path.stem} {cell.row} {cell.column}: {e}")
    assert faults == []


ROWS = sorted(p.name for p in (ROOT / "configs/cifar100").iterdir() if (p / "base.yaml").exists())


@pytest.mark.parametrize("row", ROWS)
def test_a_method_takes_two_steps_on_a_pair_of_different_families(row):
    """On all thirteen pairs: `tools/table.py --table ... --smoke`."""
    pair = "vgg13_mv2" if ROWS.index(row) % 2 else "wrn40_2_shuv1"
    cfg = load_cfg(ROOT / f"configs/cifar100/{row}/{pair}.yaml", ["LOG.TENSORBOARD", "False"])
    found = smoke(cfg)
    logged = {"temperature", "subclasses", "accuracy_prompt", "entropy_prompt", "distillation_weight", "gradient_to_kd"}
    logged |= {"sample_weight", "share", "selected", "t"}
    terms = found.keys() - {"loss", "top1", "top5", *logged}
    assert found["loss"] == pytest.approx(sum(found[name] for name in terms), rel=1e-5)
    # Random labels cost an untrained student about ln 100 in the first step, and may cost more in the second
    weight = sum(keywords(cfg[name]).get("ce_weight", 0) for name in choice(cfg).methods)
    ce = sum(found[name] for name in terms if name.rpartition(".")[2] == "ce")
    assert 0.9 * weight * math.log(100) <= ce <= 4 * weight * math.log(100)


def test_smoke_of_a_table_reports_each_cell_and_fails_with_one(table, capsys):
    table.write_text(SPEC.replace("KD.TEMPERATURE: 1.0", "SOLVER.LR: 1.0e+30"))
    assert TABLE(["--table", str(table), "--smoke", "--rows", "kd", "cold", "--jobs", "1"]) == 1
    err = capsys.readouterr().err
    assert "kd res20_res8: ok" in err
    assert "1 of 2 cells failed" in err


def test_smoke_takes_overrides_and_refuses_options_of_results(table, capsys):
    words = ["--table", str(table), "--rows", "kd", "--smoke"]
    assert TABLE([*words, "SOLVER.LR", "1.0e+30"]) == 1
    assert "kd res20_res8: the loss is" in capsys.readouterr().err
    assert TABLE([*words, "--seeds", "1", "--run"]) == 2
    assert "--seeds, --run with --smoke, which trains nothing and prints no table" in capsys.readouterr().err


def cells_begin(parent):
    """Two processes are there, and what keeps account of their semaphores."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    wait_until(lambda: len(children.read_text().split()) == 3)


def a_cell_ends(parent):
    assert ": ok" in parent.stderr.readline()


@pytest.mark.parametrize("moment", [cells_begin, a_cell_ends])
@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_ends_a_smoke_test_in_one_line_and_leaves_no_file(number, group, moment, table, tmp_path):
    """In a terminal, its processes get it too, also while they import."""
    table.write_text(SPEC + "".join(f'  kd{i}: {{title: KD, config: "kd/{{pair}}"}}\n' for i in range(30)))
    command = [sys.executable, "-m", "mdistiller_dfpt", "table", "--table", str(table), "--smoke", "--jobs", "2"]
    (temporary := tmp_path / "temporary").mkdir()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
    ) as parent:  # fmt: skip
        moment(parent)
        (os.killpg if group else os.kill)(parent.pid, number)
        _, err = parent.communicate(timeout=LIMIT)
    assert parent.returncode == 128 + number
    assert [line for line in err.splitlines() if ": ok" not in line] == [
        "interrupted; repeat the same command to go on"
    ]
    assert list(temporary.iterdir()) == []


def test_a_teacher_is_compared_with_what_is_on_record():
    assert compare_with_record("cifar100", "resnet56", 72.40, "x").startswith("published: 72.34 %")
    assert compare_with_record("cifar100", "resnet56", 70.0, "x").startswith("warning: not a teacher of the published")
    assert compare_with_record("digits", "resnet56", 70.0, "x") == ""
    for (data, network), known in TEACHERS.items():
        assert (ROOT / f"configs/{data}/vanilla/{network}.yaml").exists()
        assert all(0 < t.top1 < 100 and t.origin for t in known)


def test_a_cells_config_is_without_its_seed(table):
    cell = next(iter(load_table(table).cells.values()))
    assert cell_configs(cell, ["SOLVER.SEED", "7"]) == cell_configs(cell, [])
    assert cell_configs(cell, ["SOLVER.LR", "0.7"]) != cell_configs(cell, [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "csv", "--seeds", "5"], "--seeds, --format without --table: a FOLDER is printed as a whole"),
        (["another"], "2 folders are given: give one FOLDER of results"),
    ],
)
def test_options_of_a_table_are_refused_with_a_folder(words, message, prefix, capsys):
    assert TABLE([str(prefix), *words]) == 2
    assert message in capsys.readouterr().err
