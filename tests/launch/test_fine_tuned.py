"""A teacher that is fine-tuned before it teaches: a run of its own, trained once and found by what it computes."""

import pytest

from mdistiller_dfpt import build_data, load_cfg
from mdistiller_dfpt.errors import CheckpointError
from mdistiller_dfpt.launch.build import identity_of_run
from mdistiller_dfpt.launch.run import run
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.weights import load_weights

FIRST = """DATASET: {TYPE: digits}
SOLVER: {EPOCHS: 1, BATCH_SIZE: 256}
LOG: {TENSORBOARD: false}
"""
FINE_TUNED = "_BASE_: first.yaml\nDISTILLER: {STUDENT: resnet14, TEACHER: resnet14, TEACHER_CFG: teacher.yaml, "
METHODS = {
    "MCMI": "TYPE: MCMI}\n",
    "AID": "TYPE: AID, OTHER_TEACHERS: [resnet8], OTHER_TEACHER_CFGS: [student.yaml]}\n",
}
LAST = "_BASE_: first.yaml\nDISTILLER: {TYPE: KD, STUDENT: resnet8, TEACHER: resnet14, TEACHER_CFG: tuned.yaml}\n"


@pytest.mark.parametrize("method", METHODS)
def test_it_is_trained_once_and_found_by_what_it_computes(method, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.yaml").write_text(FIRST)
    for name, network in (("teacher", "resnet14"), ("student", "resnet8")):
        (tmp_path / f"{name}.yaml").write_text(f"_BASE_: first.yaml\nDISTILLER: {{TYPE: NONE, STUDENT: {network}}}\n")
    tuned, last = FINE_TUNED + METHODS[method], LAST
    (tmp_path / "tuned.yaml").write_text(tuned)
    (tmp_path / "last.yaml").write_text(last)
    # Each teacher of the chain is asked for by the command that trains it
    with pytest.raises(CheckpointError, match="teacher resnet14 is not trained yet: run .*--cfg teacher.yaml"):
        run(load_cfg("last.yaml"))
    expected = run(load_cfg("tuned.yaml", ["DISTILLER.TEACHER_AUTO_TRAIN", "True"]))["student_sha256"]
    capsys.readouterr()
    found = run(load_cfg("last.yaml"))
    assert "training it first" not in capsys.readouterr().out
    assert found["protocol"]["teacher"]["sha256"] == expected
    weights = {state_hash(load_weights(p.parent)) for p in (tmp_path / "output").rglob("results.json")}
    assert expected in weights
    assert len(weights) == {"MCMI": 3, "AID": 4}[method]
    # With other values, it is another teacher
    (tmp_path / "tuned.yaml").write_text(f"{tuned}{method}: {{LOSS: {{CE_WEIGHT: 2.0}}}}\n")
    with pytest.raises(CheckpointError, match="teacher resnet14 is not trained yet: run .*--cfg tuned.yaml"):
        run(load_cfg("last.yaml"))


def test_a_teacher_of_another_recipe_is_found_by_its_own_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.yaml").write_text(FIRST.replace("digits", "digits, SIZE: 8, NUM_WORKERS: 0"))
    (tmp_path / "teacher.yaml").write_text(
        "_BASE_: first.yaml\nDATASET: {RECIPE: imagenet, ERASING: 0.25}\nDISTILLER: {TYPE: NONE, STUDENT: resnet14}\n"
    )
    (tmp_path / "last.yaml").write_text(LAST.replace("tuned", "teacher"))
    looked_for = []
    monkeypatch.setattr("mdistiller_dfpt.launch.trained.find_finished", lambda _, identity: looked_for.append(identity))
    with pytest.raises(CheckpointError, match="teacher resnet14 is not trained yet"):
        run(load_cfg("last.yaml"))
    cfg = load_cfg("teacher.yaml")
    assert looked_for == [identity_of_run(cfg, build_data(cfg), ())]
    assert looked_for[0]["config"]["DATASET.ERASING"] == 0.25
