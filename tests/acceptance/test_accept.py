"""The parts of an acceptance: their time, what fails, what is missing; with stand-ins for their processes."""

import json
import signal

import pytest

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.jobs import Interrupted
from tools.acceptance.main import PAGE, accept
from tools.acceptance.plan import GPU, MINIATURE, SHARES
from tools.acceptance.record import FAILED, HELD, NOT_BEGUN, SKIPPED, UNFINISHED, Record, Skipped, Unfinished

FIGURES = {
    "tests": None,
    "smoke": {"loss": 1.0},
    "bench": {"rows": []},
    "processes": {"largest_difference": 0.001},
    "training": {"runs": {"vanilla": {"state": "stopped", "epochs": 3, "images_per_second": 12.5}}},
}


class Parts:
    """Stands in for the processes of parts: each piece takes a second and does as `acts` says, by its name.

    "dies": its process ends with -9. "fails": it raises. A number: it takes so many seconds.
    """

    def __init__(self, folder, pieces=("a", "b", "c"), **acts):
        self.folder, self.pieces, self.acts = folder, pieces, acts
        self.now, self.started, self.budgets, self.ran = 0.0, [], {}, []

    def clock(self):
        return self.now

    def __call__(self, job, watch):
        part = job.words[1]
        self.started.append(part)
        self.budgets.setdefault(part, float(job.words[3]))
        if self.acts.get(part) == "dies":
            job.log.parent.mkdir(exist_ok=True)
            job.log.write_text("loading\nerror: no driver\n")
            return -9
        try:
            Record(self.folder).run(part, {name: lambda name=name: self.act(part, name, watch) for name in self.pieces})
        except KeyboardInterrupt:
            return 143
        except _Died:
            return -6
        except RuntimeError:
            return 1
        return 0

    def act(self, part, name, watch):
        act = self.acts.get(f"{part}_{name}", 1)
        self.ran.append(f"{part}_{name}")
        self.now += act if isinstance(act, int) else 1
        if watch(0):
            raise KeyboardInterrupt
        if isinstance(act, Exception):
            raise act
        if act == "dies":
            raise _Died
        return FIGURES[part]


class _Died(BaseException):
    pass


def accepted(parts, minutes=2.0, plan=MINIATURE):
    return accept(plan, parts.folder, minutes, [], parts, parts.clock)


def states(record):
    return {name: record.part(name)["state"] for name in SHARES}


def test_a_part_has_its_share_of_the_time_that_is_left(tmp_path):
    parts = Parts(tmp_path)
    assert set(states(accepted(parts)).values()) == {HELD}
    left = 120 - 12  # less a tenth, in which the last part ends
    for number, name in enumerate(SHARES):
        behind = list(SHARES.values())[number:]
        assert parts.budgets[name] == pytest.approx((left - 3 * number) * behind[0] / sum(behind), abs=0.06)
    assert parts.budgets["training"] == pytest.approx(left - 4 * 3, abs=0.06)


def test_a_part_that_fails_does_not_end_the_others_and_says_why(tmp_path):
    record = accepted(Parts(tmp_path, smoke="dies"))
    assert states(record) == {**dict.fromkeys(SHARES, HELD), "smoke": FAILED}
    assert record.part("smoke")["reason"] == "its process ended with -9: error: no driver"


def test_behind_a_piece_that_fails_or_kills_its_process_the_next_begin_in_new_ones(tmp_path):
    parts = Parts(tmp_path, bench_a="dies", bench_b=RuntimeError("CUDA error: out of luck\nand more"))
    record = accepted(parts)
    pieces = record.part("bench")["pieces"]
    assert [one["state"] for one in pieces.values()] == [FAILED, FAILED, HELD]
    assert pieces["a"]["reason"] == "its process ended with -6: "
    assert pieces["b"]["reason"] == "RuntimeError: CUDA error: out of luck and more"
    assert parts.started.count("bench") == 3
    assert states(record) == {**dict.fromkeys(SHARES, HELD), "bench": FAILED}


def test_what_is_missing_when_the_time_of_a_part_is_over_is_said(tmp_path):
    record = accepted(Parts(tmp_path, smoke_b=1000))
    assert states(record)["smoke"] == UNFINISHED
    assert record.part("smoke")["reason"] == "its time was over: 2 of 3 pieces are missing"
    assert [one["state"] for one in record.part("smoke")["pieces"].values()] == [HELD, NOT_BEGUN, NOT_BEGUN]
    assert record.part("training") | {"seconds": 0} == {
        "state": NOT_BEGUN, "reason": "no time was left", "seconds": 0, "pieces": {}
    }  # fmt: skip
    assert "its time was over: 2 of 3 pieces are missing" in (tmp_path / PAGE).read_text()


def test_a_further_call_runs_what_is_missing_or_failed_and_no_more(tmp_path):
    first = {"tests_b": RuntimeError("no"), "smoke_a": Skipped("no data"), "bench_c": 1000}
    accepted(Parts(tmp_path, **first))
    again = Parts(tmp_path, tests_b=RuntimeError("still no"))
    record = accepted(again)
    assert again.ran[:4] == ["tests_b", "smoke_a", "bench_c", "processes_a"]
    assert states(record) == {**dict.fromkeys(SHARES, HELD), "tests": FAILED}
    assert [one["call"] for one in record.part("bench")["pieces"].values()] == [0, 0, 1]
    assert len(record.data["calls"]) == 2


def test_pieces_that_are_skipped_or_go_on_later_are_no_failures(tmp_path):
    figures = FIGURES["training"]
    parts = Parts(tmp_path, ("a",), tests_a=Skipped("no GPU"), training_a=Unfinished("stopped in epoch 4", figures))
    record = accepted(parts)
    assert (states(record)["tests"], states(record)["training"]) == (SKIPPED, UNFINISHED)
    assert record.part("tests")["reason"] == "no GPU"
    assert record.part("training")["pieces"]["a"]["figures"] == figures
    text = (tmp_path / PAGE).read_text()
    assert "- out of time, stopped in epoch 4: `a`" in text
    assert "| vanilla | stopped | 3 | 12.50 |  |" in text


def test_a_piece_that_goes_on_keeps_its_figures_if_a_call_ends_before_it_does(tmp_path):
    accepted(Parts(tmp_path, ("a",), training_a=Unfinished("stopped in epoch 4", FIGURES["training"])))
    piece = accepted(Parts(tmp_path, ("a",), training_a=1000)).part("training")["pieces"]["a"]
    assert (piece["state"], piece["call"], piece["figures"]) == (UNFINISHED, 0, FIGURES["training"])


def test_an_interrupt_leaves_what_was_measured_on_the_disk(tmp_path):
    parts = Parts(tmp_path)

    def interrupted(job, watch):
        code = parts(job, watch)
        if job.words[1] == "smoke":
            raise Interrupted(signal.SIGTERM)
        return code

    with pytest.raises(Interrupted):
        accept(MINIATURE, tmp_path, 2, [], interrupted, parts.clock)
    record = json.loads((tmp_path / "acceptance.json").read_text())
    assert [one["state"] for one in record["parts"]["smoke"]["pieces"].values()] == [HELD] * 3
    assert record["parts"]["bench"]["state"] == NOT_BEGUN
    assert "3 held" in (tmp_path / PAGE).read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, r"a record of the plan 'miniature', and here it is 'gpu': name another folder"),
     ("[1]", "not a record of an acceptance"), ('{"format": 9, "calls": [], "parts": {}}', "of another version")],
)  # fmt: skip
def test_a_folder_with_something_else_is_refused(text, message, tmp_path):
    if text is None:
        accepted(Parts(tmp_path))
    else:
        (tmp_path / "acceptance.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        accepted(Parts(tmp_path), plan=GPU)
