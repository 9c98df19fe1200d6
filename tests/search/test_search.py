"""Searches: equal budgets, validation images alone, pruning, failures, interruptions, what is refused and written."""

import functools
import json
import re
import sys
import threading
from pathlib import Path

import pytest
import torch

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.commands import search
from mdistiller_dfpt.launch.jobs import Ended, Interrupted
from mdistiller_dfpt.report.spec import load_table
from mdistiller_dfpt.runs.locks import RunLock
from mdistiller_dfpt.search import tune
from mdistiller_dfpt.search.space import load_space

from .stand_in_runs import Runs

VANILLA, KD = "digits/vanilla/res8", "digits/kd/res20_res8"
EPOCHS = 6
SPACE = """\
SOLVER.LR: {float: [0.001, 1.0], log: true}
KD.TEMPERATURE: {int: [1, 8]}
"""


def by_rate(cfg):
    """The better the nearer the learning rate is to 0.1; a tenth apart by seed."""
    return 90 - 20 * abs(cfg.SOLVER.LR - 0.1) + 0.1 * cfg.SOLVER.SEED


@pytest.fixture
def run_search(tmp_path, monkeypatch, capsys):
    """Run the command with these stand-ins for runs in a folder of its own; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.setattr(tune, "run_jobs", lambda jobs, launcher, say, **how: Ended([], []))

    def run(runs, *words, configs=(VANILLA, KD), trials=4):
        monkeypatch.setattr(search, "tune", functools.partial(tune.tune, start=runs))
        code = search.main([
            "--cfg", *configs, "--space", "space.yaml", "--trials", str(trials), *words,
            "SOLVER.EPOCHS", str(EPOCHS),
        ])  # fmt: skip
        return code, *capsys.readouterr()

    return run


def record(folder="output/search/space"):
    return json.loads(Path(folder, "search.json").read_text())


def results(found):
    """What a search found, without times."""
    return {
        name: [{key: trial[key] for key in trial if key != "seconds"} for trial in one["trials"]]
        for name, one in found["configs"].items()
    }


def test_every_config_gets_the_budget_and_its_best_trains_as_written(run_search):
    runs = Runs(by_rate, test=lambda cfg: 100 * abs(cfg.SOLVER.LR - 0.1))
    code, out, err = run_search(runs, "--seeds", "1", "2", "LOG.TENSORBOARD", "False")
    assert code == 0, err
    assert len(runs.jobs) == 2 * 4 * 2, "configs, trials, seeds"
    assert {cfg.DATASET.VALIDATION for _, cfg in runs.jobs} == {0.1}
    assert f"{KD}: DATASET.VALIDATION is 0; the search sets it to 0.1" in err
    said = "the space also has KD.TEMPERATURE, for the other configs: no effect here: its method, kind of teacher or"
    assert f"{VANILLA}: {said}" in err
    found = record()["configs"]
    for name, keys in ((VANILLA, {"SOLVER.LR"}), (KD, {"SOLVER.LR", "KD.TEMPERATURE"})):
        one = found[name]
        assert [trial["state"] for trial in one["trials"]] == ["complete"] * 4
        assert one["trials"][0]["values"]["SOLVER.LR"] == 0.05, "the config's own values come first"
        assert {*one["trials"][0]["values"]} == keys
        # By validation: the runs' accuracies on the test set are in the opposite order
        best = min(one["trials"], key=lambda t: abs(t["values"]["SOLVER.LR"] - 0.1))
        assert one["best"] == best["number"]
        assert best["top1"] == pytest.approx(90.15 - 20 * abs(best["values"]["SOLVER.LR"] - 0.1))
        assert best["by_epoch"]["12"] == best["by_seed"]["2"]
        cfg = load_cfg(Path("output/search/space", name.replace("/", "_"), "best.yaml"))
        assert (best["values"]["SOLVER.LR"], EPOCHS, 0) == (cfg.SOLVER.LR, cfg.SOLVER.EPOCHS, cfg.DATASET.VALIDATION)
    table = load_table(Path("output/search/space/tuned.yaml"))
    assert (table.seeds, list(table.rows)) == ((3, 4, 5), ["digits_vanilla_res8", "digits_kd_res20_res8"])
    assert "table --table output/search/space/tuned.yaml --run LOG.EVAL_FREQ 6\n" in out
    assert re.search(rf"\| {KD} \| \d \| [\d.]+ ± 0.07 \| 89.15 ± 0.07 \| 4 \| 0 \| 0 \|", out)
    assert "141 validation images (DATASET.VALIDATION 0.1), last of 6 epochs\nseeds 1, 2; budget" in out


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(run_search):
    assert run_search(Runs(by_rate), "--out", "whole", trials=7)[0] == 0
    # Interrupted in two trials, killed between a run and its record, and asked for more trials
    assert run_search(Runs(by_rate, {3: Interrupted(15)}), "--out", "parts", trials=6)[0] == 143
    assert run_search(Runs(by_rate, {0: SystemExit(9)}), "--out", "parts", trials=6)[0] == 2
    before = len(record("parts")["configs"][VANILLA]["trials"])
    runs = Runs(by_rate)
    code, out, _ = run_search(runs, "--out", "parts", trials=6)
    assert (code, before) == (0, 2)
    assert "going on with the search in parts" in out
    assert f"- {KD} trial 1 is interrupted" in out
    assert len(runs.jobs) == 12 - 3
    assert run_search(Runs(by_rate), "--out", "parts", trials=7)[0] == 0
    assert results(record("parts")) == results(record("whole"))


@pytest.mark.parametrize("torn", [b'{"op_code": 4, "worker', bytes(200), bytes(199) + b"\n", b"\xff\xfe\n{\n"])
def test_a_run_that_ended_before_the_search_was_killed_is_used_and_a_torn_end_removed(torn, run_search):
    killed = Runs(by_rate)
    killed.killed_after = 2
    assert run_search(killed, configs=[KD], trials=3)[0] == 2
    folder = Path("output/search/space")
    with open(folder / "journal.log", "ab") as f:
        f.write(torn)
    (folder / "journal.log.lock").symlink_to("journal.log")
    runs = Runs(by_rate)
    code, _, err = run_search(runs, configs=[KD], trials=3)
    assert (code, runs.jobs) == (0, []), err
    assert [t["state"] for t in record()["configs"][KD]["trials"]] == ["complete"] * 3


@pytest.mark.parametrize(
    "line", [b"[1, 2]", b"7", b'{"op_code": 99, "worker_id": "x"}', b'{"op_code": 4}', b"\xff\xfe\n{}", b"\0\n{}"]
)
def test_a_damaged_journal_is_refused_by_its_name(line, run_search):
    assert run_search(Runs(by_rate), configs=[KD], trials=1)[0] == 0
    with open("output/search/space/journal.log", "ab") as f:
        f.write(line + b"\n")
    code, _, err = run_search(Runs(by_rate), configs=[KD], trials=2)
    assert code == 3
    assert re.search(r"^error: output/search/space/journal.log: cannot be read .*; give another --out$", err, re.M)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_trial_below_the_median_is_pruned_at_the_same_epoch_however_fast_its_run_is(ahead, run_search):
    def late(cfg):  # the first five trials are good
        return by_rate(cfg) if len(runs.jobs) <= 5 else 10.0

    runs = Runs(late)
    runs.ahead = ahead
    code, out, err = run_search(runs, configs=[KD], trials=7)
    assert code == 0, err
    trials = record()["configs"][KD]["trials"]
    assert [t["state"] for t in trials] == ["complete"] * 5 + ["pruned"] * 2
    assert trials[5]["reason"] == "after epoch 3"
    assert list(trials[5]["by_epoch"]) == ["1", "2", "3"], "half of the epochs"
    assert re.search(rf"\| {KD} \| \d \| [\d.]+ \| 89.10 \| 7 \| 2 \| 0 \|", out)


def test_a_diverged_trial_counts_and_other_errors_stop_the_search(run_search):
    runs = Runs(by_rate, {1: 4, 2: 2})
    code, _, err = run_search(runs, configs=[KD], trials=3)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"error: {KD} trial 2, seed 1: what ended with 2 (log: output/search/")
    trials = record()["configs"][KD]["trials"]
    assert [(t["state"], t["reason"]) for t in trials[:2]] == [
        ("complete", ""), ("failed", "seed 1: what ended with 4"),
    ]  # fmt: skip
    runs = Runs(by_rate, {0: -9})
    code, _, err = run_search(runs, configs=[KD], trials=3)
    assert code == 137
    assert "ended by signal 9, as when memory runs out" in err
    code, out, _ = run_search(Runs(by_rate), configs=[KD], trials=3)
    assert code == 0
    assert "| 3 | 0 | 1 |" in out
    assert f"- {KD} trial 1 failed, seed 1: what ended with 4" in out


def test_equal_values_are_trained_once(run_search):
    Path("space.yaml").write_text("SOLVER.NESTEROV: {choice: [false, true]}\n")
    runs = Runs(lambda cfg: 50.0 + cfg.SOLVER.NESTEROV)
    code, out, _ = run_search(runs, configs=[VANILLA], trials=6)
    assert code == 0
    assert len(runs.jobs) == 2
    assert "SOLVER.NESTEROV True" in out
    assert load_cfg("output/search/space/digits_vanilla_res8/best.yaml").SOLVER.NESTEROV is True


def test_trials_on_other_data_are_not_compared(run_search):
    assert run_search(Runs(by_rate), configs=[KD], trials=2)[0] == 0
    code, _, err = run_search(Runs(by_rate, data="e"), configs=[KD], trials=3)
    assert code == 3
    assert f"{KD} trial 2 cannot be compared with those before it: the dataset has changed since then" in err


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("SOLVER.LRR: {float: [0.1, 1]}", r"space.yaml:1: unknown key SOLVER.LRR; did you mean SOLVER.LR"),
        ("SOLVER: {LR: {float: [0.0, 1]}}", r"space.yaml:1: SOLVER.LR is 0.0; it must be > 0"),
        ("SOLVER.LR: {float: [0, 1], log: true}", r"space.yaml:1: SOLVER.LR: float is \[0, 1\]; with log: true, both"),
        ("SOLVER.LR: {float: [1, 0.1]}", r"two numbers, the smaller first"),
        ("SOLVER.LR: {int: [0.1, 1]}", r"two whole numbers"),
        ("SOLVER.LR: {flaot: [0.1, 1]}", r"SOLVER.LR.flaot is \[0.1, 1\]; write SOLVER.LR.flaot: \{float"),
        ("SOLVER.LR: 0.1", r"space.yaml:1: SOLVER.LR is 0.1; write SOLVER.LR: \{float: \[LOW, HIGH\]\}"),
        ("SOLVER.LR: {choice: [0.1]}", r"at least two values, each once"),
        ("KD.TEMPERATURE: {choice: [warm, cold]}", r"space.yaml:1: KD.TEMPERATURE is 'warm'; it must be a"),
        ("SOLVER.WARMUP_EPOCHS: {float: [0, 1]}\nKD.TEMPERATURE: {float: [0.5, 2000]}", r"space.yaml:2: KD.TEMPERATURE"
         r" is 2000.0; it must be in \(0, 1000\]"),
        ("DKD.BETA: {float: [1, 8]}", r"space.yaml:1: digits/kd/res20_res8: DKD.BETA has no effect here: its method"),
        ("DATASET.CROP_SCALE: {float: [0.1, 0.5]}", r"no effect here: the images of this dataset are in memory"),
        ("SOLVER.SEED: {int: [1, 9]}", r"SOLVER.SEED cannot be searched: give --seeds"),
        ("SOLVER.EPOCHS: {int: [1, 9]}", r"compared at equal length|to be searched, and is"),
        ("LOG.EVAL_FREQ: {int: [1, 9]}", r"LOG.EVAL_FREQ cannot be searched: its value changes no result"),
        ("DATASET.VALIDATION: {float: [0.1, 0.2]}", r"judged by the same images"),
        ("{}", r"space.yaml: no key to search"),
        ("SOLVER.LR: 0.1\nKD.TEMPERATURE: {float: [4, 1]}", r"yaml:1: SOLVER.LR is 0.1; .*\n.*yaml:2: KD.TEMP"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_refused_before_the_first_trial(space, message, run_search):
    Path("space.yaml").write_text(space + "\n")
    runs = Runs(by_rate)
    code, _, err = run_search(runs, configs=[KD])
    assert code == 2
    assert all(line.startswith("error: ") for line in err.splitlines() if "VALIDATION is 0" not in line)
    assert re.search(message, err), err
    assert (runs.jobs, Path("output").exists()) == ([], False)


def test_two_jobs_find_what_one_finds_and_lose_or_double_no_trial(run_search):
    """They run at once, each a trial of another config."""
    found, most = [], []
    for jobs in ("1", "2"):
        at_once: set[str] = set()
        meeting = threading.Barrier(int(jobs))

        def together(cfg, at_once=at_once, meeting=meeting):
            meeting.wait(60)  # with the run of the other config
            at_once.add(threading.current_thread().name)
            return by_rate(cfg)

        runs = Runs(together)
        code, _, err = run_search(runs, "--jobs", jobs, "--pruner", "none", "--out", f"out{jobs}")
        assert code == 0, err
        assert len(runs.jobs) == 2 * 4
        found.append(results(record(f"out{jobs}")))
        most.append(len(at_once))
    assert found[0] == found[1]
    assert [[t["number"] for t in one] for one in found[1].values()] == [[0, 1, 2, 3]] * 2
    assert most == [1, 2]


def test_where_a_job_stops_the_other_trial_is_kept_and_the_search_goes_on(run_search):
    runs = Runs(by_rate, codes={2: 2})
    assert run_search(runs, "--jobs", "2")[0] == 2
    code, _, err = run_search(runs, "--jobs", "3")
    assert code == 0
    assert "room for 3 trials at a time; a config has one at a time, so it is 2" in err
    whole = record()
    run_search(Runs(by_rate), "--out", "at_once")
    assert results(whole) == results(record("at_once"))


def test_a_search_on_gpus_is_refused_where_there_are_none(run_search, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    runs = Runs(lambda cfg: 50.0)
    code, _, err = run_search(runs, "--launcher", "torchrun", "--gpus", "2")
    assert (code, runs.jobs) == (2, [])
    assert "--launcher torchrun: no GPU here, and --gpus is 2" in err


def test_a_key_may_need_a_choice_to_have_an_effect(run_search):
    Path("space.yaml").write_text(
        "SOLVER.SCHEDULE: {choice: [cosine, step]}\nSOLVER.LR_DECAY_RATE: {float: [0.1, 1]}\n"
    )
    code, _, err = run_search(Runs(by_rate), configs=[VANILLA], trials=2)
    assert code == 0
    assert "no effect" not in err
    assert [d.key for d in load_space(Path("space.yaml"))] == ["SOLVER.SCHEDULE", "SOLVER.LR_DECAY_RATE"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["DATASET.VALIDATION", "0"], "DATASET.VALIDATION is 0.0; trials are judged by validation images, never by"),
        (["SOLVER.SEED", "3"], "SOLVER.SEED is 3; a search sets it itself: give --seeds"),
        (["EXPERIMENT.TAG", "x"], "EXPERIMENT.TAG is x; a search sets it itself"),
        (["SOLVER.LR", "0.1"], "SOLVER.LR is to be searched, and is 0.1 on the command line"),
        (["--trials", "0"], "--trials is 0; it must be > 0"),
        (["--seeds", "1", "1"], "a seed is given twice"),
        (["--cfg", KD, KD], "--cfg names two configs called digits/kd/res20_res8"),
        (["--out", "space.yaml"], "space.yaml: cannot write there"),
    ],
)  # fmt: skip
def test_bad_usage_is_refused(words, message, run_search):
    runs = Runs(by_rate)
    code, _, err = run_search(runs, *words)
    assert (code, runs.jobs) == (2, [])
    assert f"error: {message}" in err or message in err.splitlines()[-1]


def test_a_folder_has_one_search_at_a_time_and_no_other(run_search):
    assert run_search(Runs(by_rate), "--out", "here", trials=1)[0] == 0
    lock = RunLock(Path("here"))
    code, _, err = run_search(Runs(by_rate), "--out", "here")
    assert (code, err.splitlines()[-1][:51]) == (2, "error: here: another process is training here (pid ")
    lock.release()
    for words, message in (
        (
            ["SOLVER.MOMENTUM", "0.8"],
            f"{VANILLA}: the search in this folder is another one: SOLVER.MOMENTUM 0.8",
        ),
        (["--seeds", "2"], "seeds [2] now, [1] then; give another --out"),
        (["--pruner", "none"], "pruner none now, median then"),
        (["DATASET.VALIDATION", "0.2"], "DATASET.VALIDATION 0.2 now, 0.1 then"),
    ):
        code, _, err = run_search(Runs(by_rate), "--out", "here", *words)
        assert (code, message in err) == (2, True), err
    code, _, err = run_search(Runs(by_rate), "--out", "here", configs=[KD])
    assert (code, f"here: the search in this folder has {VANILLA} as well: name all configs" in err) == (2, True)


def test_optuna_is_named_with_its_extra_if_it_is_missing(run_search, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = run_search(Runs(by_rate))
    assert (code, err) == (2, 'error: a search needs optuna: pip install "mdistiller_dfpt[search]"\n')


@pytest.mark.parametrize("name", ["journal.log", "history.png"])
def test_a_link_in_a_folder_of_a_search_is_not_followed(name, run_search):
    folder, other = Path("output/search/space"), Path("other")
    folder.mkdir(parents=True)
    other.write_text("kept\nto its end")
    (folder / name).symlink_to(other.absolute())
    code, _, err = run_search(Runs(by_rate), configs=[KD], trials=2)
    assert other.read_text() == "kept\nto its end"
    if name == "journal.log":
        assert (code, "journal.log: cannot be written (Too many levels of symbolic links)" in err) == (3, True), err
    else:
        assert (code, (folder / name).is_symlink()) == (0, False), err


FELL = {
    "a kind of line that there is not": (0, "op_code", 99),
    "an attribute of another kind": (1, "user_attr", {"asked": []}),
    "two attributes in a line": (1, "user_attr", {"asked": {}, "facts": {}}),
    "a trial's values of another kind": (-1, "values", ["x"]),
    "the values of another space": (4, "param_name", "SOLVER.MOMENTUM"),
}


@pytest.mark.parametrize("case", FELL)
def test_a_journal_that_no_search_wrote_is_refused_by_its_name(case, run_search):
    assert run_search(Runs(by_rate), configs=[KD], trials=2)[0] == 0
    journal = Path("output/search/space/journal.log")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    number, key, value = FELL[case]
    assert key in lines[number], "the form of Optuna's journal"
    lines[number][key] = value
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = run_search(Runs(by_rate), configs=[KD], trials=3)
    assert (code, "journal.log: " in err, "give another --out" in err) == (3, True, True), err
