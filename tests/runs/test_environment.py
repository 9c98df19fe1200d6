"""The environment of a run: what can change its bits is measured, and a run that goes on in another one says so."""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from mdistiller_dfpt.environment import arithmetic, continued_in, environment, facts_over, packages_of
from mdistiller_dfpt.report import load_results, markdown_table
from mdistiller_dfpt.runs.checkpoint import checkpoints, read_manifest

from ..tiny_runs import fit, run_of, stopped_after
from .test_checkpoint import THREE, vouch

HERE = {"world_size": 1, "device": "cpu", "threads": 1, "versions": {"torch": "2.1", "python": "3.11"}, "commit": "a"}
THERE = HERE | {"threads": 2}
OF_PROGRESS = {"epoch": 0, "step": 0, "prepared": 0}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def measured():
    return arithmetic()


def in_a_process(**variables):
    code = "from mdistiller_dfpt.environment import arithmetic; print(arithmetic())"
    env = os.environ | variables
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_arithmetic_is_the_same_in_each_process_and_changes_no_random_number(measured):
    state = torch.get_rng_state()
    assert arithmetic() == in_a_process(OMP_NUM_THREADS="1") == measured
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(arithmetic().startswith("DEFAULT"), reason="a CPU whose instructions PyTorch does not choose among")
@pytest.mark.parametrize("variables", [
    {"ATEN_CPU_CAPABILITY": "default"}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}, {"DNNL_MAX_CPU_ISA": "SSE41"},
    {"MKL_CBWR": "COMPATIBLE"},
], ids=lambda one: next(iter(one)))  # fmt: skip
def test_an_environment_variable_that_changes_the_arithmetic_of_the_cpu_is_seen(variables, measured):
    found = in_a_process(**variables)
    assert found.split()[1] != measured.split()[1]
    assert (found.split()[0] == "DEFAULT") == ("ATEN_CPU_CAPABILITY" in variables)


def test_a_program_that_changes_the_arithmetic_is_seen(measured):
    torch.backends.mkldnn.set_flags(False)
    try:
        assert arithmetic() != measured
    finally:
        torch.backends.mkldnn.set_flags(True)
    assert arithmetic() == measured


def test_only_where_a_run_goes_on_in_another_environment_is_one_added():
    first = {**OF_PROGRESS, **HERE}
    assert continued_in(HERE, [first], {"epoch": 2}) == [first]
    second = {**OF_PROGRESS, "epoch": 2, **THERE}
    assert continued_in(THERE, [first], {"epoch": 2}) == [first, second]
    third = {**OF_PROGRESS, "epoch": 2, "step": 1, **HERE}
    assert continued_in(HERE, [first, second], {"epoch": 2, "step": 1}) == [first, second, third]
    assert continued_in(HERE, [first, second], {"epoch": 2}) == [first], "the second one has computed nothing"
    assert continued_in(THERE, [first], {"prepared": 2}) == [first, {**OF_PROGRESS, "prepared": 2, **THERE}]
    assert continued_in(THERE, [], {"epoch": 2}) == [second], "an earlier version did not record what was before"


def test_facts_that_changed_are_told_with_the_progress():
    on_gpu = HERE | {"device": "GPU", "threads": 9, "versions": {"torch": "2.2", "python": "3.12", "timm": "1"}}
    found = facts_over([{**OF_PROGRESS, **HERE}, {"epoch": 2, "step": 5, **THERE}, {"epoch": 4, **on_gpu}])
    assert found == {
        "world_size": "1", "device": "cpu, then GPU after epoch 4", "threads": "1, then 2 after epoch 2, step 5",
        "torch": "2.1, then 2.2 after epoch 4", "timm": "1",
    }  # fmt: skip
    assert facts_over([HERE, {"prepared": 3, **THERE}])["threads"] == "1, then 2 after pass 3"


def test_where_processes_differ_their_environment_has_all_values(monkeypatch):
    others = {"threads": 5, "versions": {"torch": "1.13", "python": "3.11"}}
    monkeypatch.setattr("mdistiller_dfpt.environment.of_all_processes", lambda own: [own, own | others, own])
    found = environment(torch.device("cpu"), [], "")
    assert found["threads"] == f"{torch.get_num_threads()} and 5"
    assert found["versions"]["torch"] == f"{torch.__version__} and 1.13"
    assert (found["device"], found["commit"]) == ("cpu", "")


def test_packages_are_those_of_classes_functions_and_methods_and_what_they_name():
    class Calls:
        packages = ("PIL", "timm.data")

        def method(self):
            return 0

    Calls.__module__ = "theirs.augment"
    parts = [torch.nn.Linear(1, 1), pytest.approx, Calls(), Calls().method, packages_of]
    assert packages_of(parts) == {"_pytest", "PIL", "timm", "theirs"}
    found = environment(torch.device("cpu"), {"PIL", "no_such_package", "simplejpeg"}, "")["versions"]
    assert found.keys() == {"torch", "python", "pillow", "simplejpeg"}
    assert (found["pillow"], found["torch"]) == (version("pillow"), torch.__version__)


@pytest.mark.parametrize(("method", "libraries"), [("KD", set()), ("MLLD", {"pillow"})])
def test_versions_are_those_of_what_a_run_uses(method, libraries, tmp_path):
    """The strongly augmented views that MLLD needs are made by Pillow, also of images in memory."""
    versions = fit(run_of(method, tmp_path))["protocol"]["versions"]
    assert versions.keys() == {"torch", "python", *libraries}


def test_a_run_that_goes_on_in_another_environment_says_so_then_and_in_its_results(threads, tmp_path, capsys):
    stopped_after(1, "KD", tmp_path)
    torch.set_num_threads(threads + 1)
    resumed = run_of("KD", tmp_path, *THREE)
    capsys.readouterr()
    results = fit(resumed, resume=True)
    warning = "warning: the run goes on in another environment, which its results will say: "
    assert f"{warning}threads {threads + 1} now, {threads} before\n" in capsys.readouterr().err
    assert [(one["epoch"], one["step"], one["threads"]) for one in results["environments"]] == [
        (0, 0, threads), (1, 0, threads + 1),
    ]  # fmt: skip
    assert read_manifest(checkpoints(resumed.run / "checkpoints")[0])["environments"] == results["environments"]
    assert results["protocol"]["threads"] == threads + 1
    note = markdown_table(load_results(tmp_path)).splitlines()[-1]
    assert note == f"[1] threads {threads}, then {threads + 1} after epoch 1"


def test_a_run_that_goes_on_in_its_own_environment_says_nothing(tmp_path, capsys):
    stopped_after(1, "KD", tmp_path)
    results = fit(run_of("KD", tmp_path, *THREE), resume=True)
    assert "another environment" not in capsys.readouterr().err
    (only,) = results["environments"]
    assert only.items() <= {**OF_PROGRESS, **results["protocol"]}.items()
    assert only.keys() == {*OF_PROGRESS, *HERE, "cpu", "arithmetic"}
    assert "[1]" not in markdown_table(load_results(tmp_path))


def test_a_checkpoint_and_results_of_before_do_not_say_in_what_they_were_computed(tmp_path, capsys):
    folder = stopped_after(1, "KD", tmp_path).run / "checkpoints/epoch-00001"
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["environments"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    vouch(folder)
    resumed = run_of("KD", tmp_path, *THREE)
    results = fit(resumed, resume=True)
    assert [one["epoch"] for one in results["environments"]] == [1]
    assert "another environment" not in capsys.readouterr().err
    del results["environments"]
    (resumed.run / "results.json").write_text(json.dumps(results))
    (result,) = load_results(tmp_path)
    assert result.environment["threads"] == str(results["protocol"]["threads"])
