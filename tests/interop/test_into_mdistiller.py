"""The methods of this project in mdistiller's own script, on a stand-in for its checkout."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from yacs.config import CfgNode as CN

from mdistiller_dfpt import DISTILLERS
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.interop.into_mdistiller import NUM_DATA, extend
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_networks

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests/fixtures/mdistiller_standin"


def plugin(*words):
    command = [sys.executable, "-m", "mdistiller_dfpt.plugin", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=ROOT, check=False)


def run_in_mdistiller(tmp_path, name, *words):
    (tmp_path / "c.yaml").write_text("DISTILLER: {TYPE: " + name + "}\n")
    return plugin(STAND_IN, "--cfg", tmp_path / "c.yaml", *words)


def losses_of(done):
    assert done.returncode == 0, done.stderr
    return re.findall(r"^epoch (\d+) loss (\S+)", done.stdout, re.M)


@pytest.mark.parametrize(
    "words",
    [
        ["DFPTKD", "DFPTKD.FINETUNE_BACKBONE", "True"], ["CRD", "SOLVER.TRAINER", "crd"], ["CATKD"], ["KDPP"],
        ["TAKD"],
    ],
)  # fmt: skip
def test_our_methods_run_in_mdistillers_own_script_also_on_a_cpu(tmp_path, words):
    before = sorted((p, p.read_bytes()) for p in STAND_IN.rglob("*.py"))
    done = run_in_mdistiller(tmp_path, *words)
    assert len(losses_of(done)) == 3
    assert done.stdout.splitlines()[-1].startswith("logits (8, 100)")
    rates = re.search(r"lr (\[.*?\])", done.stdout)[1]
    assert set(json.loads(rates)) == {0.05}, "the loop's learning rate is unchanged between steps"
    assert sorted((p, p.read_bytes()) for p in STAND_IN.rglob("*.py")) == before
    assert ("there is no CUDA device" in done.stdout) is not torch.cuda.is_available()


@pytest.mark.parametrize("name", ["DFPTKD", "CATKD"])
def test_its_trainer_with_two_momenta_gets_the_losses_of_labels_and_of_distillation(tmp_path, name):
    """CATKD's default has one term; DFPTKD changes the gradient of its prompt path before it is stored."""
    clip = ["DFPTKD.PROMPT.CLIP_NORM", "1e-9"] if name == "DFPTKD" else []
    done = run_in_mdistiller(tmp_path, name, "SOLVER.TRAINER", "dot", *clip)
    assert len(losses_of(done)) == 3
    assert "names loss_ce,loss_kd" in done.stdout


def test_what_it_clips_is_clipped_before_the_two_momenta_store_it(tmp_path):
    """The student gets nothing from the prompt path's own loss, so that only its weight 0 leaves the prompt's."""
    words = ["SOLVER.TRAINER", "dot", "DFPTKD.LOSS.TEACHER_WEIGHT", "0.0", "DFPTKD.LOSS.PROMPT_WEIGHT", "1e-12"]
    norms = []
    for clip in ("1e-6", "0.0"):
        done = run_in_mdistiller(tmp_path, "DFPTKD", *words, "DFPTKD.PROMPT.CLIP_NORM", clip)
        losses_of(done)
        norms.append(float(re.search(r"stored norm (\S+)", done.stdout)[1]))
    assert norms[0] <= 1.001e-6
    assert norms[1] > 1e-3


def test_a_chain_of_assistants_takes_their_weights_from_files(tmp_path):
    torch.save({"model": build_model("resnet8", "cifar", 100).state_dict()}, tmp_path / "assistant.pth")
    words = ["DISTILLER.ASSISTANTS", "['resnet8']"]
    done = run_in_mdistiller(tmp_path, "DGKD", *words, "DISTILLER.OTHER_TEACHER_CKPTS", f"['{tmp_path}/assistant.pth']")
    assert len(losses_of(done)) == 3
    refused = run_in_mdistiller(tmp_path, "DGKD", *words)
    assert refused.returncode == 2
    assert "DISTILLER.ASSISTANTS names 1 networks and DISTILLER.OTHER_TEACHER_CKPTS 0 files" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_run_in_mdistiller_resumes_with_what_the_method_measured_before_it(tmp_path):
    path = ["LOG.PREFIX", tmp_path / "latest"]
    losses_of(run_in_mdistiller(tmp_path, "KDPP", *path))
    resumed = run_in_mdistiller(tmp_path, "KDPP", "--resume", *path, "SOLVER.EPOCHS", "2")
    whole = run_in_mdistiller(tmp_path, "KDPP", "SOLVER.EPOCHS", "2")
    assert losses_of(resumed) == losses_of(whole)[3:]


def test_a_method_makes_all_its_passes_over_mdistillers_training_set(tmp_path):
    done = run_in_mdistiller(tmp_path, "FT", "FT.INIT_EPOCHS", "3", "LOG.PREFIX", tmp_path / "latest")
    assert len(losses_of(done)) == 3
    passes = re.findall(r"FT: paraphraser, epoch (\d/\d): error (\S+)", done.stdout)
    assert [number for number, _ in passes] == ["1/3", "2/3", "3/3"]
    errors = [float(error) for _, error in passes]
    assert errors == sorted(errors, reverse=True), "it goes on where the last pass ended"


def test_a_method_whose_student_does_not_predict_alone_is_refused(tmp_path):
    done = run_in_mdistiller(tmp_path, "SIMKD")
    assert done.returncode == 2
    assert "mdistiller saves the student alone" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_two_learning_rates_under_its_two_momenta_are_refused_before_the_first_step(tmp_path):
    done = run_in_mdistiller(tmp_path, "DFPTKD", "SOLVER.TRAINER", "dot", "DFPTKD.FINETUNE_BACKBONE", "True")
    assert done.returncode == 2
    assert done.stderr.startswith("error: SOLVER.TRAINER is dot: mdistiller's two momenta take one learning rate, and")


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_checkout_that_logs_to_wandb_runs_without_it(tmp_path):
    done = run_in_mdistiller(tmp_path, "CATKD")
    assert len(losses_of(done)) == 3
    assert "wandb is not installed: LOG.WANDB is False" in done.stdout.splitlines()


def test_help_is_the_usage():
    done = plugin("--help")
    assert (done.returncode, done.stdout[:36]) == (0, "usage: python -m mdistiller_dfpt.plu")


def test_what_a_checkout_needs_is_named_in_one_line(tmp_path):
    for file in ("mdistiller/__init__.py", "mdistiller/distillers/__init__.py", "tools/train.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("distiller_dict = {}\n")
    (tmp_path / "mdistiller/engine").mkdir()
    (tmp_path / "mdistiller/engine/__init__.py").write_text(
        "import json\nfrom no_such_b.x import y\nimport no_such_a\n"
    )
    done = plugin(tmp_path, "--cfg", "x.yaml")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path} needs no_such_a, no_such_b, not installed: pip install no_such_a no_such_b\n"
    )


def test_what_mdistiller_has_stays_its_own_and_the_rest_is_added():
    tree = CN({"DISTILLER": CN(), "KD": CN({"TEMPERATURE": 7.0}), "DIST": CN({"T": 5.0, "BETA": 9.0})})
    registry = {"KD": "theirs"}
    added = extend(registry, tree)
    assert registry["KD"] == "theirs"
    assert tree.KD.TEMPERATURE == 7.0
    assert "DFPTKD" in added
    assert DISTILLERS["DFPTKD"].config == tree.DFPTKD
    assert (tree.DIST.T, tree.DIST.BETA) == (5.0, 9.0), "a section of a fork's keeps its keys"
    assert set(DISTILLERS["DIST"].config) <= set(tree.DIST), "and gets ours"
    assert {"KDPP", "TAKD", "DGKD", "FT", "CC"} <= set(added)
    assert not {"MLLD", "NONE", "KDAIF", "KD3"} & set(added), "no views, held-out samples or unlabelled images there"
    assert NUM_DATA["cifar100"] == 50_000


def test_a_learning_rate_factor_is_applied_in_mdistillers_loop():
    registry, tree = {}, tiny_cfg("DFPTKD.FINETUNE_BACKBONE", "True", "DFPTKD.PROMPT.CLIP_NORM", "0").clone()
    tree.defrost()
    extend(registry, tree)
    exported = registry["DFPTKD"](*tiny_networks(), tree).train()
    groups = exported.get_learnable_parameters()
    optimizer = torch.optim.SGD(groups, lr=0.1)
    assert sorted(g["lr_factor"] for g in groups) == [0.1, 1.0], (
        "mdistiller's two momenta take one group, where they can"
    )
    slow, fast = (next(g["params"][0] for g in groups if g["lr_factor"] == factor) for factor in (0.1, 1.0))
    before = slow.detach().clone(), fast.detach().clone()
    batch = tiny_batch()
    _, losses = exported(image=batch.image, target=batch.target, epoch=1)
    sum(losses.values()).backward()
    optimizer.step()
    torch.testing.assert_close(slow.detach(), before[0] - 0.01 * slow.grad)
    torch.testing.assert_close(fast.detach(), before[1] - 0.1 * fast.grad)


def test_a_decay_over_the_epochs_needs_a_trainer_that_passes_them():
    registry, tree = {}, tiny_cfg().clone()
    tree.defrost()
    extend(registry, tree)
    exported, batch = registry["WKD"](*tiny_networks(), tree).train(), tiny_batch()
    exported.inner.is_prepared = True  # the costs between classes stay as they are
    _, first = exported(image=batch.image, target=batch.target, index=batch.index, epoch=1)
    assert first["loss_kd"] > 0
    with pytest.raises(ConfigError, match="WKD decays over the epochs, .*: set SOLVER.TRAINER to base"):
        exported(image=batch.image, target=batch.target, index=batch.index)


@pytest.mark.parametrize("words", [[], ["--cfg", "x"], ["no_such_folder", "--cfg", "x"]])
def test_a_wrong_checkout_is_refused(words):
    done = plugin(*words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
