"""Every method works with every kind of teacher, on the paths set by DISTILLER.PATHS."""

import math

import pytest
import torch

from mdistiller_dfpt.config import load_cfg
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.distillers.at import at_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import own, total
from mdistiller_dfpt.teachers import TEACHERS, Frozen
from mdistiller_dfpt.testing import changed, snapshot, take_steps, tiny_batch, tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.trainer import Trainer

from ..tiny_runs import fit

KINDS = {
    "dual_path": ("DISTILLER.TEACHER_KIND", "dual_path"),
    "assistants": ("DISTILLER.TEACHER_KIND", "assistants", "DISTILLER.ASSISTANTS", "[resnet20, resnet14]"),
    "ensemble": ("DISTILLER.TEACHER_KIND", "ensemble", "DISTILLER.OTHER_TEACHERS", "[resnet20, resnet14]"),
    "noisy": ("DISTILLER.TEACHER_KIND", "noisy"),
    "views": ("DISTILLER.TEACHER_KIND", "views"),
    "adapter": ("DISTILLER.TEACHER_KIND", "adapter"),
    "prompted": ("DISTILLER.TEACHER_KIND", "prompted"),
    "trained_path": ("DISTILLER.TEACHER_KIND", "trained_path"),
}
MEMBERS = ("DISTILLER.PATHS", "{teacher1: 1.0, teacher2: 0.5, teacher3: 0.5}")
FROZEN_PATHS_ONLY = ("SIMKD", "KD3", "KDPP", "FT", "WKD", "FCFD", "FBT", "LELP", "HARD", "TGEOKD")
DEPLOY_MORE = ("SIMKD", "DEIT", "LELP", "KD3")
NOT_BY = {
    **dict.fromkeys(("dual_path", "trained_path", "prompted"), (*FROZEN_PATHS_ONLY, *DEPLOY_MORE)),
    "views": ("KDPP", "FT", "WKD", "LELP", "TGEOKD"), "noisy": DEPLOY_MORE,
}  # fmt: skip
"""Methods that match no path, or no several paths, of a kind but the original."""
TAUGHT = sorted(name for name, method in DISTILLERS.items()
                if method.needs_teacher and not method.starts_from_teacher)  # fmt: skip


def own_kind(name):
    return DISTILLERS[name].teacher_kind


def refused(*words):
    """The one-line error with which this is rejected, before or at the first step."""
    with pytest.raises(ConfigError) as info:
        take_steps(tiny_distiller(*words), 1)
    message = str(info.value)
    assert len(message.splitlines()) == 1
    assert info.value.exit_code == 2
    return message


def trains(*words, steps=3):
    """Steps change the student but no frozen network, and the loss is finite; returns the terms of the first step."""
    distiller = tiny_distiller(*words)
    student, frozen = snapshot(distiller.student), [snapshot(network) for network in distiller.frozen()]
    _, terms = distiller(tiny_batch())
    assert all(map(math.isfinite, take_steps(distiller, steps)))
    assert any(key.endswith("weight") for key in changed(student, distiller.student.state_dict()))
    for before, network in zip(frozen, distiller.frozen(), strict=True):
        assert changed(before, network.state_dict()) == []
    return terms


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TAUGHT)
def test_any_method_works_with_any_kind_of_teacher(name, kind):
    if own_kind(name) not in ("", kind):
        message = refused(name, *KINDS[kind])
        assert f"{name} requires a teacher of kind {own_kind(name)}" in message
        assert kind in message
    elif kind == "ensemble" and DISTILLERS[name].needs_teacher_maps:
        with pytest.raises(ConfigError) as info:  # when built, before a run directory exists
            tiny_distiller(name, *KINDS[kind])
        assert str(info.value) == (
            f"DISTILLER.TYPE: {name} uses the teacher's features (`needs_teacher_maps`), and the path 'teacher' of a "
            "teacher of kind ensemble has only logits: set DISTILLER.PATHS to paths that have them "
            "(teacher1, teacher2, teacher3)"
        )
    elif name in NOT_BY.get(kind, ()):
        trains(name, *KINDS[kind], "DISTILLER.PATHS", "{teacher: 1.0}")
    else:
        trains(name, *KINDS[kind])


@pytest.mark.parametrize("name", [n for n in TAUGHT if not own_kind(n) and n not in DEPLOY_MORE])
def test_any_method_can_match_each_member_of_an_ensemble(name):
    heads = ("FBT.ATTENTION_HEADS", "1")  # one that divides the widths of all members
    terms = trains(name, *KINDS["ensemble"], *MEMBERS, *(heads if name == "FBT" else ()))
    distilled = {key.split(".")[0] for key, term in terms.items() if term.kind == "distillation"}
    assert distilled == {"teacher1", "teacher2", "teacher3"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("SIMKD", *KINDS["dual_path"]), "SIMKD reuses the classifier of the path 'prompt', which is trained"),
        (("SIMKD", *KINDS["ensemble"], *MEMBERS),
         "DISTILLER.PATHS: SimKD adds modules to the deployed network, and matches one path: select one"),
        (("SIMKD", *KINDS["dual_path"], "DISTILLER.PATHS", "{prompt: 1}"), "select a frozen path"),
        (("KDPP", *KINDS["dual_path"]),
         "KDPP takes class means of the path 'prompt' before the first step, and the path is trained with the student"),
        (("KD", *KINDS["dual_path"], "DISTILLER.PATHS", "{promt: 1}"),
         "DISTILLER.PATHS.promt: a teacher of kind dual_path has the paths teacher, prompt"),
        (("KD", "DISTILLER.PATHS", "{prompt: 1}"),
         "DISTILLER.PATHS.prompt: a teacher of kind frozen has the paths teacher"),
        (("DGKD", "DISTILLER.PATHS", "{teacher: 1}"),
         "DISTILLER.PATHS is set; DGKD has its own keys for path weights"),
        (("[TAKD, DFPTKD]",),
         "TAKD requires a teacher of kind assistants; DFPTKD requires a teacher of kind dual_path"),
        (("KD", "DISTILLER.TEACHER_KIND", "dualpath"), "unknown kind of teacher 'dualpath'; did you mean dual_path"),
        (("KD", *KINDS["dual_path"], "DUAL_PATH.STAGES", "[9]"), "DUAL_PATH.STAGES is [9]; TinyNet has stages 1..3"),
        (("KD", "DISTILLER.PATHS", "{teacher: 0}"), "DISTILLER.PATHS.teacher is 0.0; it must be a weight > 0"),
        (("KD", "DISTILLER.PATHS", "teacher"), "DISTILLER.PATHS is 'teacher'; it must be a mapping"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(words, message):
    assert message in refused(*words)


def test_path_weights_scale_the_distillation_terms_and_labels_count_once():
    plain = tiny_distiller("KD", *KINDS["dual_path"])(tiny_batch())[1]
    heavy = tiny_distiller("KD", *KINDS["dual_path"], "DISTILLER.PATHS", "{teacher: 2, prompt: 0.5}")(tiny_batch())[1]
    labels = [name for name, term in heavy.items() if term.kind == "label"]
    assert labels == ["ce"]
    for name, factor in (("ce", 1), ("teacher.kd", 2), ("prompt.kd", 0.5), ("prompt_ce", 1), ("prompt_teacher", 1)):
        torch.testing.assert_close(heavy[name].weighted, factor * plain[name].weighted)


def test_a_single_path_keeps_the_methods_term_names_and_has_a_weight():
    expected = tiny_distiller("KD")(tiny_batch())[1]
    found = tiny_distiller("KD", "DISTILLER.PATHS", "{teacher: 3}")(tiny_batch())[1]
    assert list(found) == list(expected) == ["ce", "kd"]
    torch.testing.assert_close(found["kd"].weighted, 3 * expected["kd"].weighted)
    torch.testing.assert_close(found["ce"].weighted, expected["ce"].weighted)


def test_in_a_list_a_terms_name_is_method_path_and_term():
    terms = tiny_distiller("[KD, AT]", *KINDS["dual_path"])(tiny_batch())[1]
    assert set(terms) == {
        "KD.ce", "KD.teacher.kd", "KD.prompt.kd", "AT.ce", "AT.teacher.feat", "AT.prompt.feat",
        "prompt_teacher", "prompt_student", "prompt_ce",
    }  # fmt: skip


def test_paths_are_read_from_yaml_and_from_the_command_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("DISTILLER: {TYPE: KD, TEACHER_KIND: dual_path, PATHS: {teacher: 1, prompt: 2}}\n")
    assert dict(load_cfg(path).DISTILLER.PATHS) == {"teacher": 1.0, "prompt": 2.0}
    assert dict(load_cfg(path, ["DISTILLER.PATHS.prompt", "5"]).DISTILLER.PATHS) == {"teacher": 1.0, "prompt": 5.0}
    assert dict(load_cfg(path, ["DISTILLER.PATHS", "{prompt: 3}"]).DISTILLER.PATHS) == {"prompt": 3.0}


def test_a_method_over_maps_sees_each_paths_own():
    """The paths' maps differ, and each path has its own term."""
    distiller = tiny_distiller("AT", *KINDS["dual_path"], "DUAL_PATH.BN", "running")
    batch = tiny_batch()
    _, terms = distiller(batch)
    student = distiller.forward_student(batch.image).features["feats"]
    paths = distiller.teacher(batch)
    for path in ("teacher", "prompt"):
        expected = at_loss(student[1:], paths[path].features["feats"][1:], 2.0)
        torch.testing.assert_close(terms[f"{path}.feat"].value, expected)
    assert terms["teacher.feat"].value != terms["prompt.feat"].value


@pytest.mark.parametrize("name", ["FITNET", "VID", "OFD", "REVIEWKD", "CRD", "CC", "FT", "KDPP"])
def test_adapters_fit_the_width_of_the_path_that_they_serve(name):
    """The assistants have other widths than the teacher."""
    terms = trains(name, *KINDS["assistants"], "DISTILLER.PATHS", "{teacher: 1, assistant1: 1, assistant2: 1}")
    assert {"teacher", "assistant1", "assistant2"} <= {key.split(".")[0] for key in terms}


@pytest.mark.parametrize("name", [n for n in TAUGHT if not own_kind(n) and n not in FROZEN_PATHS_ONLY])
def test_student_terms_give_the_prompt_path_no_gradient_nor_its_own_terms_the_student(name):
    distiller = tiny_distiller(name, *KINDS["dual_path"], "DISTILLER.PATHS", "{prompt: 1}",
                               "DUAL_PATH.FINETUNE_BACKBONE", "True")  # fmt: skip
    trained = {id(p) for group in distiller.teacher.parameter_groups() for p in group["params"]}
    for teachers in (False, True):
        distiller.zero_grad(set_to_none=True)
        _, terms = distiller(tiny_batch())
        total({key: term for key, term in terms.items() if (term.kind == "teacher") == teachers}).backward()
        reached = {id(p) for p in distiller.parameters() if p.grad is not None}
        assert reached == trained if teachers else not reached & trained


def test_a_teachers_own_term_gives_the_student_no_gradient_whatever_it_computes(registries):
    @TEACHERS.register("careless")
    class Careless(Frozen):
        def __init__(self, network):
            super().__init__(network)
            self.scale = torch.nn.Parameter(torch.ones(()))

        def losses(self, student, outputs, batch):
            return {"careless": own((self.scale * student.logits).square().mean())}

    distiller = tiny_distiller("KD", "DISTILLER.TEACHER_KIND", "careless")
    logits, terms = distiller(tiny_batch())
    terms["careless"].weighted.backward()
    torch.testing.assert_close(distiller.teacher.scale.grad, 2 * logits.detach().square().mean())
    assert all(p.grad is None for p in distiller.student.parameters())


def test_the_prompt_path_learns_beside_a_method_that_matches_the_original_alone():
    distiller = tiny_distiller("SP", *KINDS["dual_path"], "DISTILLER.PATHS", "{teacher: 1}")
    before = snapshot(distiller.teacher)
    take_steps(distiller, 2)
    assert any(key.startswith("prompts.") for key in changed(before, distiller.teacher.state_dict()))


def test_the_teachers_own_terms_count_once_however_many_methods_it_teaches():
    alone = tiny_distiller("KD", *KINDS["dual_path"])(tiny_batch())[1]
    many = tiny_distiller("[KD, AT, SP]", *KINDS["dual_path"])(tiny_batch())[1]
    own = [name for name, term in many.items() if term.kind == "teacher"]
    assert own == ["prompt_teacher", "prompt_student", "prompt_ce"]
    for name in own:
        torch.testing.assert_close(many[name].weighted, alone[name].weighted)


def test_unmatched_paths_are_not_run():
    distiller = tiny_distiller("KD", *KINDS["assistants"], "DISTILLER.PATHS", "{assistant1: 1}")
    calls = []
    for number, network in enumerate(distiller.frozen()):
        network.register_forward_hook(lambda *a, number=number: calls.append(number))
    logits, terms = distiller(tiny_batch())
    assert calls == [1]
    with torch.no_grad():
        expected = kd_loss(logits, distiller.frozen()[1](tiny_batch().image)[0], 4.0)
    torch.testing.assert_close(terms["kd"].value, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_any_kind_of_teacher_resumes_bit_for_bit(kind, tmp_path):
    words = ("DISTILLER.TYPE", "KD", *KINDS[kind], "LOG.PREFIX", str(tmp_path))

    def run(*more, **how):
        cfg = tiny_cfg(*words, *more)
        return fit(Trainer(cfg, tiny_distiller("KD", *words, *more), tiny_data()), **how)

    whole = run("EXPERIMENT.TAG", "whole")
    run("SOLVER.EPOCHS", "1")
    assert run(resume=True)["student_sha256"] == whole["student_sha256"]
