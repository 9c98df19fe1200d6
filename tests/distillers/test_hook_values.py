"""What a hook of the user's returns is checked where it is called, and the class is named with its place."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from mdistiller_dfpt import DISTILLERS, TEACHERS, Distiller, Output, distillation, label
from mdistiller_dfpt.errors import PluginError
from mdistiller_dfpt.teachers import Frozen
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller

from ..tiny_runs import fit, run_of


def _matches(pattern, text):
    assert re.search(pattern, text), text
    assert len(text.splitlines()) == 1


def refused_at_construction(name, *words):
    with pytest.raises(PluginError) as info:
        tiny_distiller(name, *words)
    return str(info.value)


def refused_in_a_run(name, folder, *words):
    """The error of a run that no epoch of is finished."""
    trainer = run_of(name, folder, *words)
    with pytest.raises(PluginError) as info:
        fit(trainer)
    assert trainer.epochs == []
    return str(info.value), trainer


def method(**hooks):
    """A registered method with these methods and attributes."""

    class Mine(Distiller):
        config = CN({"WEIGHT": 1.0})

        def __init__(self, student, teacher, *, weight):
            super().__init__(student, teacher)
            self.weight = weight

        def losses(self, student, teacher, batch):
            gap = F.mse_loss(student.logits, teacher.logits)
            return {"ce": label(F.cross_entropy(student.logits, batch.target)), "gap": distillation(gap, self.weight)}

    for name, value in hooks.items():
        setattr(Mine, name, value)
    DISTILLERS.register("MINE")(Mine)
    return Mine


def kind(**hooks):
    class Mine(Frozen):
        pass

    for name, value in hooks.items():
        setattr(Mine, name, value)
    TEACHERS.register("mine")(Mine)
    return "DISTILLER.TEACHER_KIND", "mine"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("parameter_groups", lambda self: None, "`parameter_groups` returned None; it must return a list of dicts"),
        ("parameter_groups", lambda self: list(self.parameters())[:1], "`parameter_groups` returned"),
        ("parameter_groups", lambda self: [{"params": []}], r"returned \[\{'params': \[\]\}\]; it must return a list"),
        ("training_state", lambda self: None, "`training_state` returned None; it must return a dict of tensors"),
        ("frozen", lambda self: None, "`frozen` returned None; it must return a list of networks"),
        ("hooked", lambda self: self, "`hooked` returned a Mine; it must return a list of methods and teachers"),
        ("take_logged", lambda self: None, "`take_logged` returned None; it must return a dict from names to scalar"),
        ("take_logged", lambda self: {"a": 0.5}, r"`take_logged` returned \{'a': 0.5\}"),
        ("deployed", property(lambda self: None), "`deployed` returned None; it must return a torch.nn.Module"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("label_of_type", ["MINE", "[MINE, DKD]"])
def test_a_hook_without_arguments_is_tried_at_construction(label_of_type, name, value, message, registries):
    method(**{name: value})
    found = refused_at_construction(label_of_type)
    _matches(rf"test_hook_values.py:\d+: Mine: .*{message}", found)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "default_paths",
            lambda self: {},
            r"`default_paths` returned \{\}; it must return a dict \{path: weight > 0\}",
        ),
        ("default_paths", lambda self: {"teacher": 0}, "`default_paths` returned"),
        ("default_paths", lambda self: {"techer": 1.0}, "`default_paths` names techer; `path_names` returned teacher"),
        ("path_names", lambda self: "teacher", "`path_names` returned 'teacher'; it must return a tuple of names"),
        ("network_of", lambda self, path: None, "`network_of` returned None for the path 'teacher'"),
        ("parameter_groups", lambda self: None, "`parameter_groups` returned None"),
        ("frozen", lambda self: [None], r"`frozen` returned \[None\]; it must return a list of networks"),
    ],
)
def test_the_same_for_a_kind_of_teacher(name, value, message, registries):
    _matches(rf"test_hook_values.py:\d+: Mine: {message}", refused_at_construction("KD", *kind(**{name: value})))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda self, batch: None, r"`forward` returned None; it must return \(logits, terms\)"),
        (lambda self, batch: (None, {}), r"`forward` returned None; the logits must be of shape \(16, 5\)"),
        (lambda self, batch: (self.student(batch.image)[0][:, :2], {}),
         r"`forward` returned logits of shape \(16, 2\); the logits must be of shape \(16, 5\)"),
        (lambda self, batch: (self.student(batch.image)[0], None), "its losses are a NoneType; they must be a dict"),
    ],
)  # fmt: skip
def test_what_forward_returns_is_checked_in_the_first_step(value, message, tmp_path, registries):
    method(forward=value)
    found, trainer = refused_in_a_run("MINE", tmp_path)
    _matches(rf"test_hook_values.py:\d+: Mine: {message}", found)
    assert trainer.step == 0


def test_an_output_that_is_none_is_named(registries):
    method(forward_student=lambda self, image: image)
    with pytest.raises(PluginError, match=r"test_hook_values.py:\d+: Mine: `forward_student` returned Tensor; it must"):
        tiny_distiller("MINE")(tiny_batch())


def test_terms_that_are_no_dict_are_named(tmp_path, registries):
    method(terms=lambda self, student, paths, batch: None)
    _matches(r"test_hook_values.py:\d+: Mine: its losses are a NoneType", refused_in_a_run("MINE", tmp_path)[0])


def test_a_dict_of_logged_values_is_checked_at_each_step(tmp_path, registries):
    method(take_logged=lambda self: {"gap": 1.0} if self.training and hasattr(self, "ready") else {},
           prepare=lambda self, batches: setattr(self, "ready", True))  # fmt: skip
    found = refused_in_a_run("MINE", tmp_path)[0]
    _matches(r"Mine: `take_logged` returned \{'gap': 1.0\}; it must return a dict from names to scalar tensors", found)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda self, image: None, r"returned None; it must return \{path: logits\} with a 'student'"),
        (lambda self, image: {"mine": self.student(image)[0]}, "`evaluated_paths` returned a dict with 'mine'; it"),
        (lambda self, image: {"student": self.student(image)}, "`evaluated_paths` returned a tuple; the logits"),
        (lambda self, image: {"student": self.student(image)[0][:, 1:]}, r"logits of shape \(1, 4\); .* \(1, 5\)"),
    ],
)  # fmt: skip
def test_the_evaluation_is_tried_before_the_first_step(value, message, tmp_path, registries):
    method(evaluated_paths=value)
    found, trainer = refused_in_a_run("MINE", tmp_path)
    _matches(rf"test_hook_values.py:\d+: Mine: .*{message}", found)
    assert trainer.step == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda self, image: None, r"`evaluated_paths` returned NoneType; it must return \{path: logits\}"),
        (lambda self, image: {"teacher": self.network(image)[0][:, 1:]}, r"logits of shape \(1, 4\); .* \(1, 5\)"),
    ],
)  # fmt: skip
def test_the_teachers_evaluation_is_the_teachers(value, message, tmp_path, registries):
    found, trainer = refused_in_a_run("KD", tmp_path, *kind(evaluated_paths=value))
    _matches(rf"test_hook_values.py:\d+: Mine: .*{message}", found)
    assert trainer.step == 0


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (lambda x: x[:, 1:], r"the logits of 'teacher' are of shape \(16, 4\), and the student's of shape \(16, 5\)"),
        (lambda x: 3.0, "the logits of 'teacher' are float, and the student's"),
    ],
)
def test_a_teacher_with_other_logits_than_the_students_is_named(logits, message, tmp_path, registries):
    def forward(self, batch):
        return {"teacher": Output(logits(self.network(batch.image)[0]), {})}

    _matches(rf"test_hook_values.py:\d+: Mine: {message}", refused_in_a_run("KD", tmp_path, *kind(forward=forward))[0])


def test_trying_the_evaluation_changes_neither_random_numbers_nor_modes(tmp_path, registries):
    seen = []

    def evaluated_paths(self, image):
        seen.append(self.training)
        return {"student": F.dropout(self.student(image)[0])}

    method(evaluated_paths=evaluated_paths)
    trainer = run_of("MINE", tmp_path)
    trainer.distiller.train()
    before = torch.get_rng_state()
    trainer.prepare()
    assert torch.equal(torch.get_rng_state(), before)
    assert seen == [False]
    assert all(m.training for m in trainer.distiller.student.modules() if isinstance(m, nn.BatchNorm2d))
