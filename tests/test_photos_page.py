"""docs/photos.md as printed: every command of the tutorial runs, on generated photos and with tiny networks."""

import json
import re
import shlex
from dataclasses import replace

import onnxruntime
import pytest
import timm
import torch
from safetensors.torch import save_file

from mdistiller_dfpt.commands import main
from mdistiller_dfpt.launch import own_photos

from .data.test_own_photos import photos
from .test_house import ROOT

PAGE = (ROOT / "docs/photos.md").read_text()
COMMANDS = re.findall(r"^\$ mdistiller-dfpt (.*)$", PAGE, flags=re.M)
STUDENT, TEACHER = "test_efficientnet.r160_in1k", "test_resnet.r160_in1k"


def test_the_page_says_what_the_code_chooses():
    """The pair, the shares and the recipe of init are those that the page describes."""
    pair = own_photos.PAIRS["phone"]
    for words in (pair.teacher, pair.student, f"SHARE: {own_photos.TEST_SHARE}", f"VALIDATION: {own_photos.VALIDATION}",
                  own_photos.METHODS[0][0], f"LR: {pair.lr:g}"):  # fmt: skip
        assert words in PAGE, words
    assert [command.split()[0] for command in COMMANDS] == ["init", "train", "eval", "predict", "export", "export",
                                                            "report"]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_every_command_of_the_page_runs_as_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = sorted(set(re.findall(r"birds/([\w.]+)", "\n".join(COMMANDS)))) or ["a"]
    photos(tmp_path / "birds", dict.fromkeys([*names, "one", "two"], 10), shape=(48, 56))
    # Tiny networks of timm, whose weights are put in place by hand, and a single epoch
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    for network in (STUDENT, TEACHER):
        weights = timm.create_model(network.partition(".")[0]).state_dict()
        save_file(weights, tmp_path / "hub" / "checkpoints" / f"timm--{network}.safetensors")
    pair = own_photos.PAIRS["phone"]
    tiny = replace(pair, teacher=f"timm/{TEACHER}", student=f"timm/{STUDENT}", sizes=(48, 32), sizes_on_cpu=(48, 32))
    monkeypatch.setitem(own_photos.PAIRS, "phone", tiny)
    monkeypatch.setattr(own_photos, "LENGTHS", ((float("inf"), (1, 1), 8),))
    for command in COMMANDS:
        assert main.main(shlex.split(command)) == 0, capsys.readouterr().err
    assert "error" not in capsys.readouterr().err
    (quantised,) = tmp_path.glob("*.int8.onnx")
    session = onnxruntime.InferenceSession(str(quantised))
    side = session.get_inputs()[0].shape[2]
    (logits,) = session.run(None, {"images": torch.rand(2, 3, side, side).numpy()})
    assert side == 32, "the student's own size"
    assert logits.shape == (2, len({*names, "one", "two"}))
    assert (tmp_path / "report.html").stat().st_size > 1000
    # Two sets of photos are told apart by the names of their folders
    assert json.loads((tmp_path / "output/birds/seed1/results.json").read_text())["protocol"]["folder"] == "birds"
    (card,) = tmp_path.glob("*/README.md")
    assert "on the folder birds, KD\n" in card.read_text()
