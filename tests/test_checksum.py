"""Files of numbers with a checksum: no changed digit is taken for a result."""

import json
import random
import shutil

import pytest

from mdistiller_dfpt.checksum import Damaged, read_checked_json, write_checked_json
from mdistiller_dfpt.errors import DataError
from mdistiller_dfpt.report.files import load_results, read_measured, unfinished
from mdistiller_dfpt.runs.directory import is_finished

from .test_house import ROOT
from .tiny_runs import fit, run_of

RESULTS = json.loads((ROOT / "results/digits/dkd/res20_res8/dkd_w8/seed3/results.json").read_text())


def changed_digit(path, seed=1):
    """Change one digit of a file."""
    text, drawn = path.read_text(), random.Random(seed)
    place = drawn.choice([place for place, one in enumerate(text) if one.isdigit()])
    path.write_text(text[:place] + drawn.choice([d for d in "0123456789" if d != text[place]]) + text[place + 1 :])


def test_numbers_are_read_as_they_were_written(tmp_path):
    data = {"b": [1, 2.5, 1e-300, None], "a": {10: "\u00e9", 9: True}}
    write_checked_json(tmp_path / "a.json", data)
    assert read_checked_json(tmp_path / "a.json") == json.loads(json.dumps(data))


def test_a_file_without_a_checksum_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(RESULTS))
    assert read_checked_json(tmp_path / "a.json") == RESULTS


@pytest.mark.parametrize("kind", ["bit", "digit"])
def test_no_changed_bit_or_digit_of_results_is_taken_for_a_result(kind, tmp_path):
    path, drawn = tmp_path / "results.json", random.Random(1)
    write_checked_json(path, RESULTS)
    whole = path.read_bytes()
    refused = 0
    for seed in range(300):
        path.write_bytes(whole)
        if kind == "digit":
            changed_digit(path, seed)
        else:
            damaged = bytearray(whole)
            damaged[drawn.randrange(len(whole))] ^= 1 << drawn.randrange(8)
            path.write_bytes(damaged)
        try:
            found = read_checked_json(path)
        except ValueError:
            refused += 1
        else:
            assert {key: value for key, value in found.items() if key in RESULTS} == RESULTS
    assert refused > 250


def test_results_with_a_changed_digit_are_named_and_in_no_table(tmp_path):
    for seed in (1, 2):
        run = tmp_path / f"a/seed{seed}"
        run.mkdir(parents=True)
        write_checked_json(run / "results.json", RESULTS)
    changed_digit(run / "results.json")
    assert [result.path.parent.name for result in load_results(tmp_path)] == ["seed1"]
    line = "a/seed2/results.json: damaged: it differs from its checksum; bring it back as it was written"
    assert unfinished(tmp_path) == [line]


def test_a_measurement_with_a_changed_digit_is_named(tmp_path):
    path = tmp_path / "evaluation.json"
    write_checked_json(path, {"top1": 53.29})
    assert read_measured(path, {"top1": float}, "an evaluation") == {"top1": 53.29}
    changed_digit(path)
    with pytest.raises(DataError, match=r"evaluation\.json: damaged: it differs from its checksum"):
        read_measured(path, {"top1": float}, "an evaluation")


def test_a_run_whose_results_are_damaged_writes_them_anew_when_it_is_resumed(tmp_path):
    trainer = run_of("KD", tmp_path)
    results = fit(trainer)
    path = trainer.run / "results.json"
    shutil.copy(path, tmp_path / "whole.json")
    changed_digit(path)
    with pytest.raises(Damaged):
        read_checked_json(path)
    assert not is_finished(trainer.run)
    again = run_of("KD", tmp_path)
    fit(again, resume=True)
    found = read_checked_json(path)
    assert is_finished(again.run)
    assert [found[key] for key in ("final", "epochs", "student_sha256")] == [
        json.loads(json.dumps(results[key])) for key in ("final", "epochs", "student_sha256")
    ]
