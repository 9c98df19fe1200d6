"""The command `tools/gpu_acceptance.py`: in miniature on a CPU, as on a GPU but for the sizes."""

import json
import re
import signal
import subprocess
import sys

import pytest

from mdistiller_dfpt.regular_files import read_json
from tools.acceptance.gpu_tests import PART, Recorder
from tools.acceptance.main import PAGE, TOOL, main
from tools.acceptance.plan import MINIATURE, PLANS, SHARES
from tools.acceptance.processes import compared
from tools.acceptance.record import FAILED, FILE, HELD, SKIPPED, UNFINISHED, Record

from ..test_house import MOST_LINES, ROOT
from ..waits import LIMIT, wait_until

COMMAND = [sys.executable, TOOL, "--miniature", "--minutes", "60"]


def command(folder, *words):
    return [*COMMAND, "--output", str(folder), *words]


@pytest.mark.slow
@pytest.mark.timeout(LIMIT * 10)
def test_the_whole_plan_in_miniature_and_a_further_call_that_has_nothing_to_do(tmp_path):
    out = tmp_path / "out"
    taught = ["DISTILLER.TEACHER_CKPT", str(out / "processes/teacher/digits/vanilla/res20/seed1"), "SOLVER.EPOCHS", "1"]
    done = subprocess.run(command(out, *taught), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = read_json(out / FILE)
    states = {name: part["state"] for name, part in record["parts"].items()}
    assert states == {**dict.fromkeys(SHARES, HELD), "tests": SKIPPED}
    of = {name: part["pieces"] for name, part in record["parts"].items()}
    assert len([name for name in of["tests"] if "every_method_trains_on_a_gpu" in name]) > 60
    assert {name.partition(" ")[0] for name in of["smoke"]} == {"method", "teacher"}
    rows = of["bench"]["digits/dfptkd/res20_res8, batch size 8"]["figures"]["rows"]
    assert {(row["measure"], row["side"]) for row in rows} == {
        (measure, side) for measure in ("step", "both", "work") for side in ("this", *MINIATURE.variants)
    }
    assert of["processes"]["one process"]["figures"]["processes"] == 1
    assert of["processes"]["two processes"]["figures"]["processes"] == 2
    assert of["processes"]["the same losses"]["figures"]["largest_difference"] < 0.02
    (run,) = of["training"]["digits/dfptkd/res20_res8"]["figures"]["runs"].values()
    assert (run["state"], run["epochs"]) == ("finished", 1)
    assert record["calls"][0]["machine"]["torch"]
    page = (out / PAGE).read_text()
    assert "this says that the plan runs, and nothing of a GPU" in page
    assert page.count("| 1 | digits/dfptkd/res20_res8, batch size 8 |") == 2
    # Again: only what was skipped is tried
    done = subprocess.run(command(out, *taught), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["tests", "tests"]
    again = read_json(out / FILE)
    assert [again["parts"][name] for name in SHARES if name != "tests"] == [
        record["parts"][name] for name in SHARES if name != "tests"
    ]


@pytest.mark.slow
@pytest.mark.timeout(LIMIT * 2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_one_line_and_what_was_measured_is_on_the_disk(number, tmp_path):
    with subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        log = tmp_path / "logs/smoke.txt"
        wait_until(lambda: log.is_file() and "smoke: method MLLD" in log.read_text())  # its second piece
        process.send_signal(number)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == "error: interrupted; repeat the same command to go on"
    part = json.loads((tmp_path / FILE).read_text())["parts"]["smoke"]
    assert part["pieces"]["method ABKD"]["state"] == HELD
    assert part["state"] == UNFINISHED
    assert re.search(r"\| out of time \| [12] held, [12] not begun \| .* interrupted: ", (tmp_path / PAGE).read_text())


TESTS = """
import pytest

def test_holds(): pass
def test_fails(): assert 1 + 1 == 3, "no sum"
def test_skips(): pytest.skip("no card")
@pytest.fixture
def broken(): raise OSError("no room")
def test_cannot_begin(broken): pass
"""


def test_each_test_is_recorded_with_its_reason_and_not_run_again_in_a_call(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    record = Record(tmp_path)
    record.begin_call("gpu", 1)
    words = ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", "/dev/null", str(tmp_path / "test_some.py")]
    pytest.main(words, plugins=[Recorder(record, has_gpu=True)])
    pieces = {name.partition("::")[2]: one for name, one in record.part(PART)["pieces"].items()}
    assert {name: (one["state"], one.get("reason", "")) for name, one in pieces.items()} == {
        "test_holds": (HELD, ""),
        "test_fails": (FAILED, "AssertionError: no sum"),
        "test_skips": (SKIPPED, "Skipped: no card"),
        "test_cannot_begin": (FAILED, "OSError: no room"),
    }
    assert pytest.main(words, plugins=[Recorder(record, has_gpu=True)]) == pytest.ExitCode.NO_TESTS_COLLECTED
    record.begin_call("gpu", 1)
    pytest.main(words, plugins=[Recorder(record, has_gpu=True)])
    assert {name.partition("::")[2]: one["call"] for name, one in record.part(PART)["pieces"].items()} == {
        "test_holds": 0, "test_fails": 1, "test_skips": 1, "test_cannot_begin": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "--minutes N is missing"),
        (["--minutes", "0"], 2, "--minutes N is missing, or no number of minutes > 0"),
        (["--minutes", "1", "--data", "nowhere"], 2, "--data nowhere: no such folder"),
        (["--minutes", "1", "--miniature", "SOLVER.EPOHCS", "1"], 2, "unknown key SOLVER.EPOHCS"),
    ],
)
def test_bad_usage_is_one_line_before_anything_begins(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == code
    err = capsys.readouterr().err.splitlines()
    assert message in err[-1]
    assert len(err) == 1
    assert list(tmp_path.iterdir()) == []


def test_losses_that_rounding_does_not_explain_fail(tmp_path):
    for name, losses in (("one", [2.0, 1.0]), ("two", [2.0, 1.01])):
        (tmp_path / name).mkdir()
        epochs = [{"train": {"loss": loss}} for loss in losses]
        (tmp_path / name / "results.json").write_text(json.dumps({"epochs": epochs}))
    assert compared(tmp_path / "one", tmp_path / "two") == {"largest_difference": pytest.approx(0.01)}
    (tmp_path / "two/results.json").write_text(json.dumps({"epochs": [{"train": {"loss": v}} for v in (2.0, 1.5)]}))
    with pytest.raises(RuntimeError, match="the losses of two processes differ from those of one by 50.00%"):
        compared(tmp_path / "one", tmp_path / "two")
    with pytest.raises(RuntimeError, match="1 of the two runs have ended"):
        compared(tmp_path / "one", tmp_path / "three")


def test_both_plans_have_the_same_parts_of_other_sizes():
    big, small = PLANS["gpu"], PLANS["miniature"]
    assert [name.split("/")[1] for name in big.bench_cfgs] == [name.split("/")[1] for name in small.bench_cfgs]
    assert big.batches == (64, 1024)
    assert any("SOLVER.COMPILE True" in words for words in big.variants)
    assert big.smoke_every == 1


@pytest.mark.parametrize("path", sorted((ROOT / "tools/acceptance").glob("*.py")), ids=lambda path: path.name)
def test_no_file_is_too_long_to_read(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES
