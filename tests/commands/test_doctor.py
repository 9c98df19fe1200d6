"""`doctor` says what this machine can do and what to set."""

import importlib.metadata

import pytest
import torch

from mdistiller_dfpt.commands import doctor
from mdistiller_dfpt.config.keys import KEYS
from mdistiller_dfpt.training import speed


def said(capsys):
    assert doctor.main([]) == 0
    return capsys.readouterr().out


def test_it_names_software_cpu_gpu_and_compiler(capsys):
    text = said(capsys)
    for word in (
        f"torch {torch.__version__.partition('+')[0]}",
        "CPU: ",
        "bfloat16 instructions: ",
        "GPU",
        "C++ compiler: ",
    ):
        assert word in text


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_recommended_where_it_is_fast(has, capsys, monkeypatch):
    for module in (doctor, speed):
        monkeypatch.setattr(module, "has_bfloat16", lambda: has)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text = said(capsys)
    assert f"bfloat16 instructions: {'yes' if has else 'no'}" in text
    assert ("SOLVER.AMP bf16\n" in text) == has


def test_it_recommends_keys_that_exist(capsys):
    advice = said(capsys).partition("settings that suit this machine:")[2]
    words = [word for word in advice.replace(";", " ").split() if word.startswith(("SOLVER.", "EXPERIMENT."))]
    assert words
    assert set(words) <= set(KEYS)


def test_a_missing_extra_is_named_with_the_command_that_installs_it(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "requires", lambda name: ['absent-package>=1; extra == "plot"', "torch"])
    assert 'extra plot: absent-package>=1 missing: pip install "mdistiller_dfpt[plot]"' in said(capsys)


def test_it_runs_without_an_installation(capsys, monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", none)
    assert said(capsys).startswith("mdistiller-dfpt (not installed), Python 3.")
