"""A class that the toolbox could not use is refused when it is registered, with its place."""

import functools

import pytest
import torch
from torch import nn
from yacs.config import CfgNode as CN

from mdistiller_dfpt import DISTILLERS, TEACHERS, Distiller
from mdistiller_dfpt.errors import PluginError
from mdistiller_dfpt.teachers import Frozen
from mdistiller_dfpt.testing import check_distiller, check_teacher

HERE = r"test_class_checks.py:\d+: Mine: .*"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("config", {"WEIGHT": 1.0}, "`config` is a dict; it must be a yacs CfgNode"),
        ("limits", {"TEMPERATURE": (0, 1)}, r"the limit of 'TEMPERATURE' is \(0, 1\); it must be a Limit"),
        ("limits", ["WEIGHT"], "`limits` is a list; it must be a dict"),
        ("prepare", lambda self: None, r"`prepare\(self\)` must accept the arguments of `prepare\(self, batches\)`"),
        ("before_step", lambda self, batch: None, r"`before_step\(self, batch\)` must accept"),
        ("after_step", lambda: None, r"`after_step\(\)` must accept the arguments of `after_step\(self, batch\)`"),
        ("after_step", lambda self, *, batch: None, r"`after_step\(self, \*, batch\)` must accept the arguments of"),
        ("take_logged", lambda self, step: {}, r"`take_logged\(self, step\)` must accept"),
        ("forward", lambda self, image, target: None, r"`forward\(self, image, target\)` must accept"),
        (
            "losses",
            lambda self, student, teacher: {},
            r"accept the arguments of `losses\(self, student, teacher, batch",
        ),
        ("terms", lambda self, student: {}, r"`terms\(self, student\)` must accept"),
        ("evaluated_paths", lambda self: {}, r"`evaluated_paths\(self\)` must accept"),
        ("frozen", lambda self, x: [], r"`frozen\(self, x\)` must accept"),
        ("hooked", lambda self, x: [], r"`hooked\(self, x\)` must accept"),
        ("parameter_groups", lambda self, lr: [], r"`parameter_groups\(self, lr\)` must accept"),
        ("min_batch", None, "`min_batch` is None; it must be of type int"),
        ("couples_samples", "yes", "`couples_samples` is 'yes'; it must be of type bool"),
        ("teacher_kind", 3, "`teacher_kind` is 3; it must be of type str"),
        ("deployed", lambda self: self.student, "`deployed` is a method; it must be a property"),
        ("hooked", 3, "`hooked` must accept the arguments of"),
    ],
)
def test_a_method_that_does_not_fit_is_named_with_its_place(name, value, message, registries):
    class Mine(DISTILLERS["KD"]):
        pass

    setattr(Mine, name, value)
    for refuse in (DISTILLERS.register("MINE"), check_distiller):
        with pytest.raises(PluginError, match=HERE + message):
            refuse(Mine)
    assert "MINE" not in DISTILLERS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("others_key", "ASSISTANT", "`others_key` is 'ASSISTANT', .* did you mean ASSISTANTS"),
        ("others_key", "STUDENT", "`others_key` is 'STUDENT', which is no list of networks"),
        ("path_names", lambda self, x: (), r"`path_names\(self, x\)` must accept"),
        ("default_paths", lambda self, x: {}, r"`default_paths\(self, x\)` must accept"),
        ("network_of", lambda self: None, r"must accept the arguments of `network_of\(self, path\)`"),
        ("train", lambda self: self, r"must accept the arguments of `train\(self, mode=True\)`"),
        ("train", lambda self, mode: self, r"`train\(self, mode\)` must accept"),
    ],
)
def test_a_kind_of_teacher_that_does_not_fit_is_named_with_its_place(name, value, message, registries):
    class Mine(Frozen):
        pass

    setattr(Mine, name, value)
    for refuse in (TEACHERS.register("mine"), check_teacher):
        with pytest.raises(PluginError, match=HERE + message):
            refuse(Mine)


@pytest.mark.parametrize("thing", [nn.Linear, lambda student: student, TEACHERS["frozen"], 3])
def test_what_is_no_method_is_refused(thing, registries):
    with pytest.raises(PluginError, match="a method must be a subclass of Method"):
        DISTILLERS.register("MINE")(thing)


def test_hooks_may_take_more_be_decorated_and_have_other_names_for_their_arguments(registries):
    @DISTILLERS.register("MINE")
    class Mine(Distiller):
        config = CN({"WEIGHT": 1.0})

        @torch.no_grad()
        def after_step(self, its_batch, *, momentum=0.9):
            pass

        def losses(self, *outputs_and_batch):
            return {}

        @staticmethod
        def prepare(batches):
            pass

        @functools.cached_property
        def couples_samples(self):
            return False

        hooked = Distiller.hooked

    assert DISTILLERS["MINE"] is Mine
