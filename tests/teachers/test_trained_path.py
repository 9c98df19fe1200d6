"""A prompt path that is trained before the student: what is trained when, and a stop between two passes."""

import signal
from dataclasses import replace

import pytest
import torch

from mdistiller_dfpt.data.loader import Epoch
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.teachers.dual_path import DualPath
from mdistiller_dfpt.teachers.trained_path import TrainedPath
from mdistiller_dfpt.testing import (
    changed,
    check_teacher,
    snapshot,
    tiny_batch,
    tiny_cfg,
    tiny_data,
    tiny_distiller,
    tiny_teacher,
)
from mdistiller_dfpt.training.signals import Stopped
from mdistiller_dfpt.training.trainer import Trainer

from ..forks import in_processes

WORDS = ("DISTILLER.TEACHER_KIND", "trained_path", "TRAINED_PATH.FIRST.EPOCHS", "3")


def loss_of(path, batch):
    outputs = path.train()(batch)
    return total(DualPath.losses(path, outputs["teacher"], outputs, batch)).item()


def test_passes_train_the_path_and_nothing_else(capsys):
    torch.manual_seed(0)
    path, data = tiny_teacher(TrainedPath, first_epochs=3), tiny_data()
    network, before, at_first = snapshot(path.network), snapshot(path.prompts), loss_of(path, tiny_batch())
    for epoch in (-2, -1, 0):
        path.prepare(Epoch(data.train, epoch))
    assert changed(network, path.network.state_dict()) == []
    assert {name for name, _ in path.prompts.named_parameters()} <= set(changed(before, path.prompts.state_dict()))
    assert loss_of(path, tiny_batch()) < at_first
    assert [line.split(":")[1] for line in capsys.readouterr().out.splitlines()] == [
        f" prompt path, epoch {n}/3" for n in (1, 2, 3)
    ]


def prompts_after(rows, total):
    """One clipped step with a path that has no batch statistics, which processes do not share."""
    torch.manual_seed(0)
    path = tiny_teacher(TrainedPath, first_epochs=1, first_lr=1.0, bn="running", prompt_norm=False,
                        prompt_clip_norm=0.01)  # fmt: skip
    path.prepare([replace(tiny_batch(8).rows(rows, total=total), epoch=0)])
    return torch.cat([p.detach().flatten() for p in path.prompts.parameters()])


def test_two_processes_clip_the_gradient_of_the_whole_batch(tmp_path):
    whole = prompts_after(slice(None), None)
    found = in_processes(lambda rank: prompts_after(slice(rank, None, 2), 8), tmp_path)
    for rank in range(2):
        torch.testing.assert_close(found[rank], whole, rtol=1e-4, atol=1e-6)


def test_then_it_stays_as_it_is():
    path, batch = tiny_teacher(TrainedPath).train(), tiny_batch()
    assert not [p for p in path.parameters() if p.requires_grad]
    assert path.losses(path(batch)["teacher"], path(batch), batch) == {}
    state = snapshot(path)
    first = path(batch)["prompt"].logits
    assert changed(state, path.state_dict()) == [], "the running statistics too"
    # Those of a batch would depend on the other samples
    torch.testing.assert_close(path(tiny_batch(4))["prompt"].logits, first[:4])


def test_a_student_cannot_teach_it():
    for words in (["TRAINED_PATH.PROMPT.LOSS.STUDENT_WEIGHT", "1.0"], ["TRAINED_PATH.PROMPT.HAND_OVER_EPOCHS", "2"]):
        with pytest.raises(ConfigError, match="TRAINED_PATH.PROMPT.LOSS.STUDENT_WEIGHT is not 0; .* no student"):
            tiny_distiller("KD", *WORDS, *words)
    with pytest.raises(ConfigError, match="TRAINED_PATH.FINETUNE_BACKBONE is True"):
        tiny_distiller("KD", *WORDS, "TRAINED_PATH.FINETUNE_BACKBONE", "True")


def test_a_run_resumes_between_two_passes(tmp_path, monkeypatch):
    cfg = tiny_cfg("DISTILLER.TYPE", "KD", *WORDS)

    def trainer():
        return Trainer(cfg, tiny_distiller("KD", *WORDS), tiny_data())

    expected = trainer().fit(tmp_path / "whole")["student_sha256"]
    stopped, prepare = trainer(), TrainedPath.prepare

    def asked(self, batches):
        prepare(self, batches)
        stopped.requests.stop = signal.SIGTERM

    with monkeypatch.context() as patch:
        patch.setattr(TrainedPath, "prepare", asked)
        with pytest.raises(Stopped, match="before the first epoch; continue with"):
            stopped.fit(tmp_path / "parts")
    assert trainer().fit(tmp_path / "parts", resume=True)["student_sha256"] == expected


def test_laws():
    check_teacher(TrainedPath)
