"""Laws of the projection of one gradient on the other."""

import pytest
import torch

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses import distillation, label, own
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.projected import backward_projected
from mdistiller_dfpt.training.trainer import Trainer

from ..golden import normal
from ..tiny_runs import fit


def gradients(terms, *parameters):
    backward_projected(terms, parameters, lambda: None)
    return [p.grad for p in parameters]


def leaves(*values):
    return [torch.nn.Parameter(torch.tensor(v).double()) for v in values]


def test_two_opposing_gradients_by_hand():
    """g = (2, 0), h = (-3, 5): h without its part along g is (0, 5)."""
    (w,) = leaves([0.0, 0.0])
    terms = {"ce": label(2 * w[0]), "kd": distillation(-3 * w[0] + 5 * w[1])}
    assert gradients(terms, w)[0].tolist() == [2.0, 5.0]


def test_gradients_that_agree_are_summed():
    (w,) = leaves([0.0, 0.0])
    assert gradients({"ce": label(2 * w[0]), "kd": distillation(3 * w[0] + 5 * w[1])}, w)[0].tolist() == [5.0, 5.0]


def test_all_parameters_are_one_vector():
    """g = (1, 2) on x and the head, h = (-5, 0): <g, h> / |g|^2 is -1, which adds g, also to the head alone."""
    x, head, auxiliary = leaves(0.0, 0.0, 0.0)
    terms = {"ce": label(x + 2 * head), "kd": distillation(-5 * x + 7 * auxiliary)}
    assert [g.item() for g in gradients(terms, x, head, auxiliary)] == [-3.0, 4.0, 7.0]


def test_a_descent_along_it_never_raises_the_labels_terms():
    for seed in range(5):
        (w,) = leaves(normal(seed, (6,)).tolist())
        targets = normal(seed + 10, (2, 6))
        ce, kd = ((w - t).pow(2).sum() for t in targets)
        before = torch.autograd.grad(ce, w, retain_graph=True)[0]
        merged = gradients({"ce": label(ce), "kd": distillation(kd, 100.0)}, w)[0]
        assert (merged * before).sum() >= before.pow(2).sum() * (1 - 1e-12)


def test_terms_of_the_teachers_own_are_left_as_they_are():
    w, teachers = leaves(0.0, 0.0)
    terms = {"ce": label(2 * w), "kd": distillation(-3 * w), "own": own(-7 * teachers)}
    assert [g.item() for g in gradients(terms, w, teachers)] == [2.0, -7.0]


@pytest.mark.parametrize("make", [label, distillation])
def test_one_kind_of_terms_alone_is_a_sum(make):
    (w,) = leaves(0.0)
    assert gradients({"a": make(2 * w), "b": make(-3 * w, 2.0)}, w)[0].item() == -4.0


def test_a_term_without_a_gradient_or_with_none_left_does_no_harm():
    (w,) = leaves(0.0)
    assert gradients({"ce": label(torch.ones(())), "kd": distillation(3 * w)}, w)[0].item() == 3.0
    (w,) = leaves(0.0)
    assert gradients({"ce": label(2 * w, 0.0), "kd": distillation(3 * w)}, w)[0].item() == 3.0


def test_what_is_not_finite_stays_so_for_the_guard():
    (w,) = leaves([0.0, 1.0])
    terms = {"ce": label(w[0] * float("nan")), "kd": distillation(3 * w[1])}
    assert gradients(terms, w)[0].isnan().any()


@pytest.mark.parametrize("words", [(), ("SOLVER.TYPE", "AdamW"), ("SOLVER.AMP", "bf16", "SOLVER.CLIP_NORM", "1.0")])
def test_a_run_trains_with_any_optimiser_and_repeats_to_the_last_bit(words, tmp_path):
    def weights(folder):
        words_ = (
            "DISTILLER.TYPE",
            "DFPTKD",
            "SOLVER.TRAINER",
            "projected",
            "LOG.PREFIX",
            str(tmp_path / folder),
            *words,
        )
        distiller = tiny_distiller("DFPTKD", *words_)
        fit(Trainer(tiny_cfg(*words_), distiller, tiny_data()))
        return distiller.state_dict()

    first, second = weights("a"), weights("b")
    assert all(value.isfinite().all() and torch.equal(value, second[key]) for key, value in first.items())


def test_without_conflicting_gradients_a_run_is_the_base_trainers(tmp_path):
    """A method with labels alone has one gradient."""

    def student(trainer):
        words = ("DISTILLER.TYPE", "NONE", "SOLVER.TRAINER", trainer, "LOG.PREFIX", str(tmp_path / trainer))
        distiller = tiny_distiller("NONE", *words)
        fit(Trainer(tiny_cfg(*words), distiller, tiny_data()))
        return distiller.student.state_dict()

    base, projected = student("base"), student("projected")
    assert all(torch.equal(value, projected[key]) for key, value in base.items())


def test_it_takes_whole_batches():
    words = ("DISTILLER.TYPE", "KD", "SOLVER.TRAINER", "projected", "SOLVER.ACCUMULATE", "2")
    with pytest.raises(ConfigError, match="SOLVER.ACCUMULATE is 2; SOLVER.TRAINER projected has no micro-batches"):
        Trainer(tiny_cfg(*words), tiny_distiller("KD"), tiny_data())
