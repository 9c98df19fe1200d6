"""Terms of a loss: value, weight, kind; and the error for a class that returns something else."""

import re

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt import DISTILLERS, TEACHERS, Distiller, distillation, label, load_cfg
from mdistiller_dfpt.errors import PluginError
from mdistiller_dfpt.losses.term import own, total
from mdistiller_dfpt.teachers import Frozen
from mdistiller_dfpt.testing import tiny_batch, tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.trainer import Trainer


def test_a_loss_is_the_weighted_sum_of_its_terms():
    x = torch.tensor(3.0, requires_grad=True)
    terms = {"a": label(x, 2.0), "b": distillation(x**2, 0.5), "c": own(x)}
    loss = total(terms)
    loss.backward()
    assert (loss, x.grad) == (6.0 + 4.5 + 3.0, 2.0 + 3.0 + 1.0)
    assert [term.kind for term in terms.values()] == ["label", "distillation", "teacher"]
    more = terms["b"].times(4)
    assert (more.weighted, more.value, more.kind) == (18, 9, "distillation")


FAULTY = '''
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from mdistiller_dfpt import DISTILLERS, Distiller, Method, distillation, label


def losses(student, target):
    ce = F.cross_entropy(student, target, reduction="none")
    return {expression}


@DISTILLERS.register("TAUGHT")
class Taught(Distiller):
    """A class with invalid losses."""

    def losses(self, student, teacher, batch):
        return losses(student.logits, batch.target)


@DISTILLERS.register("UNTAUGHT")
class Untaught(Method):
    """The same without a teacher."""

    def forward(self, batch):
        logits = self.forward_student(batch.image).logits
        return logits, losses(logits, batch.target)
'''
FAULTS = [
    ('{"ce": ce.mean()}', "the term 'ce' is a Tensor; write label(value, weight) for a term with the labels"),
    ('{"ce": label(ce)}', "the term 'ce' has shape (16,); a term must be a scalar, such as a mean over the batch"),
    ('{"ce": label(0.5)}', "the term 'ce' has shape float; a term must be a scalar"),
    ("label(ce.mean())", "its losses are a Term; they must be a dict from names to terms"),
]


@pytest.mark.parametrize("kind", ["TAUGHT", "UNTAUGHT", "[KD, TAUGHT]"])
@pytest.mark.parametrize(("expression", "message"), FAULTS, ids=lambda v: v.split("; ")[0])
def test_a_users_class_that_returns_no_terms_is_named_with_its_line(expression, message, kind, tmp_path, registries):
    file = tmp_path / "mine.py"
    file.write_text(FAULTY.replace("{expression}", expression))
    load_cfg(None, ["PLUGINS", f"[{file}]"])
    words = ("DISTILLER.TYPE", kind)
    trainer = Trainer(tiny_cfg(*words), tiny_distiller(kind), tiny_data())
    with pytest.raises(PluginError) as info:
        trainer.one_epoch()
    name = "Untaught" if kind == "UNTAUGHT" else "Taught"
    line = next(i for i, text in enumerate(file.read_text().splitlines(), 1) if f"class {name}(" in text)
    found = re.fullmatch(r"(.*):(\d+): (\w+): (.*)", str(info.value))
    assert (found[1], found[3]) == (str(file), name)
    assert int(found[2]) in (line - 1, line), "the class, or its decorator"
    assert message in found[4]
    assert info.value.exit_code == 2


def test_a_kind_of_teacher_that_returns_no_terms_is_named(registries):
    @TEACHERS.register("silly")
    class Silly(Frozen):
        def losses(self, student, outputs, batch):
            return {"mine": outputs["teacher"].logits.mean()}

    distiller = tiny_distiller("KD", "DISTILLER.TEACHER_KIND", "silly")
    with pytest.raises(PluginError, match=r"test_term.py:\d+: Silly: the term 'mine' is a Tensor"):
        distiller(tiny_batch())


def test_terms_of_several_processes_are_checked_before_they_are_weighted(monkeypatch):
    class Mine(Distiller):
        def losses(self, student, teacher, batch):
            return {"ce": F.cross_entropy(student.logits, batch.target)}

    monkeypatch.setattr("mdistiller_dfpt.losses.sharded.world_size", lambda: 2)
    with pytest.raises(PluginError, match="Mine: the term 'ce' is a Tensor"):
        Mine(tiny_distiller("KD").student, tiny_distiller("KD").teacher)(tiny_batch())


def test_every_built_in_term_has_its_kind():
    for name, cls in DISTILLERS.items():
        _, terms = tiny_distiller(name)(tiny_batch())
        kinds = {term.kind for term in terms.values()}
        assert kinds <= {"label", "distillation", "teacher"}
        teaches = issubclass(cls, Distiller) and name != "MCMI"  # whose terms train a teacher by the labels
        assert "distillation" in kinds or not teaches, name
        assert {term.kind for key, term in terms.items() if key in ("ce", "ce_strong")} <= {"label"}, name
    assert {term.kind for term in tiny_distiller("NONE")(tiny_batch())[1].values()} == {"label"}
