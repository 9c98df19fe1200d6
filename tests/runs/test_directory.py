"""Which of several runs of one name is taken: the newest that computed the same."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mdistiller_dfpt.errors import CheckpointError, ConfigError
from mdistiller_dfpt.launch.run import _earlier_run, _new_run
from mdistiller_dfpt.runs.directory import (
    existing_runs,
    find_finished,
    find_resumable,
    is_finished,
    new_run,
    other_runs,
    restore_config,
    run_name,
)
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.runs.identity import differences, fingerprint, identity_of, read_identity, write_identity
from mdistiller_dfpt.testing import tiny_cfg, tiny_data

from ..tiny_runs import fit, run_of, stopped_after


def config(folder, *words):
    return tiny_cfg("LOG.PREFIX", str(folder), "EXPERIMENT.NAME", "tiny", *words)


def identity(cfg, teacher="a", **data):
    return identity_of(cfg, tiny_data(**data), [("resnet20", teacher)])


def make_run(folder, name, of, *, finished=True, begun=True):
    """The directory of a run as it is left behind; `of`: its identity, None for an earlier version."""
    run = folder / "tiny" / name
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    if of is not None:
        write_identity(run, of)
    if begun:
        (run / "checkpoints/epoch-00001").mkdir(parents=True)
    if finished:
        weights = {"w": torch.zeros(2)}
        save_file(weights, run / "student.safetensors")
        known = {} if of is None else {"fingerprint": fingerprint(of), "student_sha256": state_hash(weights)}
        (run / "results.json").write_text(json.dumps(known))
    return run


def test_the_newest_finished_run_is_found_by_its_number(tmp_path):
    cfg = config(tmp_path)
    mine = identity(cfg)
    for name in ("seed1", "seed1-2", "seed1-10", "seed11", "seed1-x"):
        make_run(tmp_path, name, mine)
    make_run(tmp_path, "seed1-11", mine, finished=False)
    make_run(tmp_path, "seed1-12", identity(config(tmp_path, "SOLVER.EPOCHS", "1")))
    (tmp_path / "tiny/seed1-13").mkdir()
    assert [p.name for p in existing_runs(cfg)] == [f"seed1{n}" for n in ("", "-2", "-10", "-11", "-12", "-13")]
    assert find_finished(cfg, mine).name == "seed1-10"
    assert find_resumable(cfg, mine).name == "seed1-11"


@pytest.mark.parametrize(
    ("tag", "folder"),
    [
        ("UniML&KR,res56", "UniML_KR,res56-"),
        ("x-x,[12, 1, -2]", "x-x,_12,_1,_-2_-"),
        ("v1/a b", "v1/a_b-"),
        ("ü_$(x)", "ü__x_-"),
    ],
)
def test_any_tag_has_a_directory_of_its_own(tag, folder, tmp_path):
    cfg = config(tmp_path, "EXPERIMENT.TAG", tag)
    assert tag == cfg.EXPERIMENT.TAG
    run = new_run(cfg).relative_to(tmp_path / "tiny").as_posix()
    assert re.fullmatch(re.escape(folder) + "[0-9a-f]{6}/seed1", run)
    # Also beside tags that become the same name
    others = [folder.removesuffix("-"), tag.replace(" ", "&").replace("(", "[").replace("&", ";")]
    for other in others:
        assert new_run(config(tmp_path, "EXPERIMENT.TAG", other)).name == "seed1"


def test_a_new_run_comes_after_all_others_also_where_some_were_deleted(tmp_path):
    cfg = config(tmp_path)
    first = new_run(cfg)
    for name in ("seed1-3", "seed1-10", "seed1-x", "seed12"):
        first.with_name(name).mkdir()
    first.rmdir()
    assert [run.name for run in existing_runs(cfg)] == ["seed1-3", "seed1-10"]
    assert new_run(cfg).name == "seed1-11"


def test_a_teacher_of_a_file_above_does_not_lead_out_of_the_prefix(tmp_path):
    cfg = tiny_cfg("EXPERIMENT.NAME", "", "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "../../../../../nets.py:Net")
    assert ".." not in run_name(cfg)
    assert run_name(cfg).endswith("/nets.py:Net_resnet32/seed1")


def test_a_run_is_finished_if_results_and_weights_are_there_and_belong_together(tmp_path):
    cfg = config(tmp_path)
    mine = identity(cfg)
    run = make_run(tmp_path, "seed1", mine)
    assert is_finished(run)
    assert find_finished(cfg, mine) == run
    save_file({"w": torch.ones(2)}, run / "student.safetensors")
    with pytest.raises(CheckpointError, match="student.safetensors: not the weights whose results are in results.json"):
        find_finished(cfg, mine)
    (run / "student.safetensors").unlink()
    assert not is_finished(run)
    assert find_finished(cfg, mine) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"words": ["SOLVER.LR", "0.01"]}, "SOLVER.LR 0.05 in this command, 0.01 in that run"),
        ({"words": ["SOLVER.CHANNELS_LAST", "False"]}, "SOLVER.CHANNELS_LAST True in this command, False in that run"),
        ({"words": ["SOLVER.ACCUMULATE", "2"]}, "SOLVER.ACCUMULATE 1 in this command, 2 in that run"),
        ({"words": ["SOLVER.SYNC_BN", "True"]}, "SOLVER.SYNC_BN False in this command, True in that run"),
        ({"words": ["SOLVER.TRAINER", "dot"]}, "SOLVER.TRAINER base in this command, dot in that run"),
        (
            {"words": ["DISTILLER.TYPE", "KD", "KD.TEMPERATURE", "2"]},
            "KD.TEMPERATURE 4 in this command, 2 in that run",
        ),
        ({"data": {"train": 52}}, "the dataset has 48 train images in this command, 52 in that run"),
        ({"teacher": "b"}, "the teacher resnet20 has other weights"),
    ],
)
def test_a_run_that_computed_something_else_is_never_taken_and_the_difference_is_said(change, why, tmp_path):
    words = ["DISTILLER.TYPE", "KD"]
    cfg = config(tmp_path, *words)
    other = config(tmp_path, *words, *change.get("words", []))
    run = make_run(tmp_path, "seed1", identity(other, change.get("teacher", "a"), **change.get("data", {})))
    assert is_finished(run)
    mine = identity(cfg)
    assert find_finished(cfg, mine) is None
    assert other_runs(cfg, mine) == {run: f"{run} is a different run: {why}"}
    with pytest.raises(CheckpointError, match=f"nothing to resume: .*{why}; to continue that one"):
        find_resumable(cfg, mine)


def test_of_many_other_runs_the_newest_are_said_and_how_many_more_there_are(tmp_path):
    cfg = config(tmp_path)
    other = identity(config(tmp_path, "SOLVER.LR", "0.3"))
    names = ["seed1", *(f"seed1-{number}" for number in range(2, 13))]
    runs = [make_run(tmp_path, name, other) for name in names]
    with pytest.raises(CheckpointError) as info:
        find_resumable(cfg, identity(cfg))
    *lines, more = str(info.value).splitlines()
    assert [line.rpartition("--resume ")[2] for line in lines] == [f"{run}`" for run in runs[-3:]]
    assert more == "9 older runs have this name"


def test_a_new_run_names_the_newest_of_its_name_and_how_each_of_them_is_continued(tmp_path, capsys):
    cfg = config(tmp_path)
    mine, other = identity(cfg), identity(config(tmp_path, "SOLVER.LR", "0.3"))
    kinds = {"": mine, "-2": mine, "-3": other, "-10": mine}
    runs = [make_run(tmp_path, f"seed1{number}", of, finished=False) for number, of in kinds.items()]
    assert _new_run(cfg, mine).name == "seed1-11"
    assert capsys.readouterr().out.splitlines() == [
        f"note: {runs[1]} is the same run, unfinished: --resume {runs[1]} continues it",
        f"note: {runs[2]} is a different run: SOLVER.LR 0.05 in this command, 0.3 in that run",
        f"note: {runs[3]} is the same run, unfinished: --resume continues it",
        "note: 1 older run has this name",
    ]
    assert find_resumable(cfg, mine) == runs[3]


def test_what_decides_no_result_makes_no_other_run(tmp_path):
    mine = identity(config(tmp_path))
    for words in (
        ["EXPERIMENT.TAG", "t"], ["EXPERIMENT.THREADS", "1"], ["DATASET.NUM_WORKERS", "0"], ["LOG.EVAL_FREQ", "2"],
        ["DATASET.TEST.BATCH_SIZE", "5"], ["SOLVER.DOT.DELTA", "0.1"], ["SOLVER.TRAINER", "crd"],
        ["SOLVER.SCHEDULE", "step"], ["DKD.T", "2.0"], ["DISTILLER.TEACHER_CKPT", "x"],
    ):  # fmt: skip
        assert differences(mine, identity(config(tmp_path, *words))) == [], words


def test_a_run_of_an_earlier_version_is_never_matched(tmp_path):
    cfg = config(tmp_path)
    run = make_run(tmp_path, "seed1", None)
    assert (read_identity(run), is_finished(run), find_finished(cfg, identity(cfg))) == (None, False, None)
    assert "did not record what it computed" in other_runs(cfg, identity(cfg))[run]


def test_a_finished_run_is_not_resumed_without_its_name(tmp_path):
    cfg = config(tmp_path)
    make_run(tmp_path, "seed1", identity(cfg))
    with pytest.raises(CheckpointError, match="seed1 is finished; to train it for longer: `--resume .*seed1 SOL"):
        find_resumable(cfg, identity(cfg))


DAMAGE = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:150]),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("also_the_newest_manifest", [False, True])
def test_a_run_whose_identity_or_config_is_damaged_is_known_by_its_checkpoints(
    kind, also_the_newest_manifest, tmp_path, capsys
):
    trainer = stopped_after(2, "KD", tmp_path)
    run, identity = trainer.run, trainer.identity
    config = (run / "config.yaml").read_text()
    for name in ("identity.json", "config.yaml"):
        DAMAGE[kind](run / name)
    if also_the_newest_manifest:
        DAMAGE[kind](run / "checkpoints/epoch-00002/manifest.json")
    assert find_resumable(trainer.cfg, identity) == run
    restore_config(run)
    assert (run / "config.yaml").read_text() == config
    assert "was missing or damaged: written anew from the newest checkpoint" in capsys.readouterr().out
    restore_config(run)
    assert capsys.readouterr().out == ""


def test_a_value_that_changed_in_an_identity_is_noticed(tmp_path):
    trainer = stopped_after(1, "KD", tmp_path)
    path = trainer.run / "identity.json"
    record = json.loads(path.read_text())
    record["data"]["test_images"] += 1
    path.write_text(json.dumps(record))
    assert read_identity(trainer.run) == trainer.identity


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints", "results.json"])
def test_no_run_begins_in_a_directory_with_a_part_of_another(name, tmp_path):
    run = stopped_after(1, "KD", tmp_path).run
    part = tmp_path / "part"
    part.mkdir()
    (run / "results.json").touch()
    (run / name).rename(part / name)
    with pytest.raises(ConfigError, match="part is the directory of a run: continue it by"):
        run_of("KD", tmp_path).fit(part)


def test_a_run_that_goes_on_for_longer_is_not_finished_until_then(tmp_path):
    cfg = config(tmp_path)
    run = make_run(tmp_path, "seed1", identity(cfg))
    longer = config(tmp_path, "SOLVER.EPOCHS", "9")
    write_identity(run, identity(longer))
    assert not is_finished(run)
    assert find_resumable(longer, identity(longer)) == run


def test_another_plugins_code_is_another_run(tmp_path):
    cfg = config(tmp_path)
    mine = identity_of(cfg, tiny_data(), [], {"mine.py": "a"})
    run = make_run(tmp_path, "seed1", identity_of(cfg, tiny_data(), [], {"mine.py": "b"}))
    assert find_finished(cfg, mine) is None
    assert other_runs(cfg, mine)[run].endswith("is a different run: the plugin mine.py has other code")
    assert read_identity(run)["code"] == {"mine.py": "b"}
    without, more = (
        identity_of(cfg, tiny_data(), [], {}),
        identity_of(cfg, tiny_data(), [], {"mine.py": "b", "x.py": ""}),
    )
    assert other_runs(cfg, without)[run].endswith("is a different run: the plugin mine.py only in that run")
    assert other_runs(cfg, more)[run].endswith("is a different run: the plugin x.py only in this command")


OTHERS = {
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a FIFO": os.mkfifo,
    "a file": Path.touch,
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("place", ["tiny/seed1/checkpoints", "tiny/seed1", "tiny/seed1-2", "tiny", "."])
def test_what_is_no_folder_in_the_place_of_one_is_named_and_not_taken_for_nothing(place, kind, tmp_path):
    """A run may be behind it, on a disk that is not mounted."""
    prefix = tmp_path / "prefix"
    cfg = config(prefix)
    mine = identity(cfg)
    make_run(prefix, "seed1", mine, finished=False)
    path = prefix / place
    if path.exists():
        path.rename(tmp_path / "gone away")
    OTHERS[kind](path)
    error = CheckpointError if path.name == "checkpoints" else ConfigError
    for use in (
        lambda: _earlier_run(cfg, mine, "auto"),
        lambda: find_resumable(cfg, mine),
        lambda: _new_run(cfg, mine),
    ):
        with pytest.raises(
            error, match=f"{re.escape(str(path))}: is (no folder|a link to .*, where nothing is): bring"
        ):
            use()


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_checkpoint_and_has_the_name_of_one_is_named_and_set_aside(kind, tmp_path, capsys):
    trainer = stopped_after(2, "KD", tmp_path)
    OTHERS[kind](trainer.run / "checkpoints/epoch-00003")
    fit(run_of("KD", tmp_path, "SOLVER.EPOCHS", "3"), resume=True)
    assert re.search(r"warning: .*epoch-00003: no readable .*kept as damaged-1-epoch-00003\n", capsys.readouterr().err)


def test_links_to_folders_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "prefix").symlink_to("disk")
    saved = stopped_after(1, "KD", tmp_path / "prefix").run / "checkpoints"
    saved.rename(tmp_path / "elsewhere")
    saved.symlink_to(tmp_path / "elsewhere")
    found = fit(run_of("KD", tmp_path / "prefix", "SOLVER.EPOCHS", "3"), resume=True)
    assert len(found["epochs"]) == 3
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["epoch-00002", "epoch-00003"]
    assert saved.is_symlink()


def test_a_finished_run_needs_no_checkpoints(tmp_path):
    cfg = config(tmp_path)
    mine = identity(cfg)
    run = make_run(tmp_path, "seed1", mine, begun=False)
    OTHERS["a link to nothing"](run / "checkpoints")
    assert _earlier_run(cfg, mine, "auto") == run
    assert _new_run(cfg, mine).name == "seed1-2"
