"""The laws of methods: properties that every method must have, whatever its loss."""

import copy
import gc
from collections.abc import Callable
from typing import Any

import torch

from ..data import Batch
from ..distillers import DISTILLERS, Distiller, Method
from ..losses.term import total
from ..models.output import Output
from .compiled_law import compiled_it_computes_the_same
from .laws import BrokenLaw, Undeclared, holds, leaves_of, obey, reachable_tensors, tensors_of
from .make import changed, run_seeded, snapshot, take_steps, tiny_method, tiny_networks, with_values
from .shards import coupling_of
from .tiny_data import tiny_batch
from .tiny_networks import CLASSES

Law = Callable[[type[Method]], None]


def the_teacher_never_changes(cls: type[Method]) -> None:
    """Parameters, buffers and outputs of frozen networks are bit-identical after three steps."""
    method = tiny_method(cls)
    networks = list(method.frozen())
    teacher = getattr(method, "teacher", None)
    if teacher is not None and not teacher.starts_untrained and teacher.network not in networks:
        networks.append(teacher.network)
    before = [snapshot(network) for network in networks]
    with torch.no_grad():
        outputs = [network(tiny_batch().image)[0] for network in networks]
    take_steps(method, 3)
    for network, state, logits in zip(networks, before, outputs, strict=True):
        keys = changed(state, network.state_dict())
        holds(not keys, f"a step changed {keys[:3]} of the frozen network")
        with torch.no_grad():
            holds(torch.equal(network(tiny_batch().image)[0], logits), "a step changed the frozen network's outputs")
        holds(not network.training, "a step left the frozen network in training mode")
        holds(not any(p.requires_grad for p in network.parameters()), "a parameter of the frozen network requires grad")


def construction_leaves_the_networks_as_they_are(cls: type[Method]) -> None:
    """Building a method changes no weight and no running statistic."""
    expected, method = tiny_networks(), tiny_method(cls)
    start = expected[1 if getattr(cls, "starts_from_teacher", False) else 0]
    keys = list(changed(snapshot(start), method.student.state_dict()))
    if isinstance(method, Distiller):
        keys += changed(snapshot(expected[1]), method.teacher.network.state_dict())
    holds(not keys, f"the constructor changed {keys[:3]}")


def every_leaf_of_the_loss_is_optimised(cls: type[Method]) -> None:
    """The parameters in the loss's graph are those in `parameter_groups`."""
    method = tiny_method(cls)
    optimised = {id(p) for group in method.parameter_groups() for p in group["params"]}
    leaves = leaves_of(total(method(tiny_batch())[1]))
    names = {id(p): name for name, p in method.named_parameters()}
    idle = sorted(names[i] for i in optimised - leaves)
    lost = sorted(names.get(i, "a parameter outside of the module") for i in leaves - optimised)
    holds(not idle, f"{idle[:3]} are optimised but affect no term: freeze them with requires_grad_(False)")
    holds(not lost, f"a term depends on {lost[:3]}, which is in no parameter group: store modules as attributes")


def every_tensor_that_changes_is_saved(cls: type[Method]) -> None:
    """Everything that three steps change is in the training state, so that a resumed run restores it."""
    method = tiny_method(cls)
    before = {key: (value, value.detach().clone()) for key, value in reachable_tensors(method).items()}
    take_steps(method, 3)
    gc.collect()
    kept = {value.data_ptr() for value in method.training_state().values()}
    lost = [v for v, old in before.values() if not torch.equal(v.detach(), old) and v.data_ptr() not in kept]
    holds(not lost, f"{len(lost)} tensors that a step changes are not in state_dict: register them as buffers")


def a_restored_method_goes_on_as_the_first(cls: type[Method]) -> None:
    """Another instance with the same training state takes the same next step, also in another epoch."""
    first, second = tiny_method(cls), tiny_method(cls)
    take_steps(first, 2)
    second.load_training_state(copy.deepcopy(first.training_state()))
    keys = changed(snapshot(first), second.state_dict())
    holds(not keys, f"the training state lacks {keys[:3]}")
    for epoch in (1, 2):
        batch = tiny_batch(step=3, epoch=epoch)
        # The state of the generators is saved as well
        terms, again = (run_seeded(method, batch)[1] for method in (first, second))
        for name, term in terms.items():
            holds(
                torch.equal(term.weighted, again[name].weighted),
                f"the term {name!r} differs after a resume: it depends on something that is not saved, such as a "
                "count of calls; `batch.epoch` and `batch.step` are the same after a resume",
            )


def one_batch_can_be_overfitted(cls: type[Method]) -> None:
    """With a teacher trained on the batch, since some methods hardly use the labels."""
    method = tiny_method(cls, knowing=True)
    batch, right = tiny_batch(), 0.0
    for _ in range(3):
        take_steps(method, 40, lr=0.02)
        logits, _ = method.train()(batch)
        right = (logits.argmax(1) == batch.target).float().mean().item()
        if right >= 0.75:
            return
    raise BrokenLaw(f"after 120 steps on one batch of 8, {right:.0%} of it are right: it does not learn")


def terms_are_float32_scalars_under_bfloat16(cls: type[Method]) -> None:
    """Losses are computed in float32 whatever the networks run in."""
    method = tiny_method(cls)
    method.set_precision(torch.bfloat16, torch.bfloat16)
    logits, terms = method(tiny_batch())
    holds(logits.dtype == torch.float32, "the logits are not in float32")
    for name, term in terms.items():
        holds(term.value.dtype == torch.float32, f"the term {name!r} is {term.value.dtype}, not float32")
        holds(bool(term.value.isfinite()), f"the term {name!r} is {term.value.item()} under bfloat16")


def bfloat16_and_channels_last_agree_with_float32(cls: type[Method]) -> None:
    """They change only rounding."""
    plain, other = tiny_method(cls), tiny_method(cls)
    other.set_precision(torch.bfloat16, torch.bfloat16)
    other.to(memory_format=torch.channels_last)
    batch = tiny_batch(16)
    last = batch.replaced(image=batch.image.contiguous(memory_format=torch.channels_last))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = plain(batch)[1]
        torch.manual_seed(0)
        found = other(last)[1]
    holds(list(expected) == list(found), f"other terms under bfloat16: {list(found)} instead of {list(expected)}")
    for name, term in expected.items():
        a, b = term.weighted.item(), found[name].weighted.item()
        holds(abs(a - b) <= 0.03 + 0.1 * abs(a), f"the term {name!r} is {b:.4g} under bfloat16 and {a:.4g} in float32")


def terms_are_finite_at_a_logit_gap_of_a_thousand(cls: type[Method]) -> None:
    """Losses and gradients stay finite if both networks are very confident: compute in log space."""
    method = tiny_method(cls)
    with torch.no_grad():
        for network in (method.student, *method.frozen()):
            weight = network.classifier_layer.weight
            weight *= 1000 / weight.abs().max()
    terms = method(tiny_batch())[1]
    total(terms).backward()
    for name, term in terms.items():
        holds(bool(term.value.isfinite()), f"the term {name!r} is {term.value.item()}")
    bad = [n for n, p in method.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    holds(not bad, f"the gradients of {bad[:3]} are not finite")


def the_smallest_batch_is_trained_on(cls: type[Method]) -> None:
    """A step can be taken on `min_batch` samples."""
    for name, term in tiny_method(cls)(tiny_batch(cls.min_batch))[1].items():
        holds(bool(term.value.isfinite()), f"the term {name!r} is {term.value.item()} on a batch of {cls.min_batch}")


def in_eval_mode_what_is_deployed_speaks(cls: type[Method]) -> None:
    """The network evaluated as the student is the one saved for deployment."""
    method, image = tiny_method(cls).eval(), tiny_batch().image
    with torch.no_grad():
        expected, found = method.deployed(image)[0], method.evaluated_paths(image)["student"]
    holds(torch.equal(found, expected), "the evaluated logits are not those of `deployed`")


def a_batch_may_be_shared_by_two_processes(cls: type[Method]) -> None:
    """A loss that is not a mean over samples sets `couples_samples`; otherwise several GPUs compute another loss."""
    method = tiny_method(cls)
    if isinstance(method, Distiller):
        difference = coupling_of(method)
        holds(not difference, difference)


def label_terms_do_not_depend_on_the_teacher(cls: type[Method]) -> None:
    """A term that changes with the teacher's output is of kind `distillation`: DOT and reports go by the kind."""
    method, batch = tiny_method(cls).eval(), tiny_batch()
    if not isinstance(method, Distiller):
        return
    with torch.no_grad():
        student, paths = method.forward_student(batch.image), dict(method.teacher(batch))
        others = {path: Output(out.logits.flip(1) * 3, out.features) for path, out in paths.items()}
        before, after = method.terms(student, paths, batch), method.terms(student, others, batch)
    moved = [n for n, t in before.items() if t.kind == "label" and not torch.equal(t.value, after[n].value)]
    holds(not moved, f"the terms {moved} change with the teacher's logits: use distillation(value, weight) for them")


def the_logits_are_the_students(cls: type[Method]) -> None:
    """The logits of `forward`, whose accuracy is logged, do not change with the teacher's output."""
    first, second = tiny_method(cls), tiny_method(cls)
    if not isinstance(second, Distiller):
        return
    _change_outputs(second, lambda out: Output(out.logits.flip(1) * 3, out.features))
    logits, others = (run_seeded(method, tiny_batch())[0] for method in (first, second))
    holds(torch.equal(logits, others), "the logits that it returns change with the teacher's: return the student's")


def a_strong_view_is_read_only_if_declared(cls: type[Method]) -> None:
    """Batches have a strong view only if `needs_strong_view` is set."""
    without = tiny_batch().replaced(strong=None, extra=(tiny_batch().extra or tiny_batch()).replaced(strong=None))
    _do_without(cls, "the strong view", "needs_strong_view", "strong", without)


def unlabelled_images_are_read_only_if_declared(cls: type[Method]) -> None:
    """Batches have unlabelled images only if `needs_extra` is set."""
    _do_without(cls, "the unlabelled images", "needs_extra", "extra", tiny_batch().replaced(extra=None))


def _do_without(cls: type[Method], what: str, declared: str, field: str, without: Batch) -> None:
    first, second = tiny_method(cls), tiny_method(cls)
    if getattr(first, declared):
        return
    advice = f"set `{declared} = True` in the class, or `batch.{field}` is None"
    expected = run_seeded(first, tiny_batch())[1]
    try:
        found = run_seeded(second, without)[1]
    except Exception as e:
        raise BrokenLaw(f"without {what} it raises {type(e).__name__}: {e}; {advice}") from e
    same = list(expected) == list(found) and all(torch.equal(t.value, found[n].value) for n, t in expected.items())
    holds(same, f"its terms change with {what}; {advice}")


def soft_labels_replace_the_numbers_if_declared(cls: type[Method]) -> None:
    """With `takes_soft_labels`, the terms come from `batch.labels`, which may be mixed, not from `batch.target`."""
    first, second = tiny_method(cls), tiny_method(cls)
    if not first.takes_soft_labels:
        return
    batch = tiny_batch()
    soft = torch.full((len(batch.target), CLASSES), 1 / CLASSES)
    expected = run_seeded(first, batch.replaced(soft=soft))[1]
    found = run_seeded(second, batch.replaced(soft=soft, target=batch.target.flip(0)))[1]
    same = all(torch.equal(term.value, found[name].value) for name, term in expected.items())
    holds(same, "its terms use `batch.target` of mixed labels: use `batch.labels`, or `takes_soft_labels = False`")


def its_terms_have_parts_if_declared(cls: type[Method]) -> None:
    """With `has_parts`, each term of distillation is about the target class or about the others."""
    method = tiny_method(cls)
    bare = [n for n, t in method(tiny_batch())[1].items() if t.kind == "distillation" and t.part is None]
    holds(not (method.has_parts and bare), f"the terms {bare} have no `part`: give them one, or `has_parts = False`")


def the_teachers_features_are_read_only_if_declared(cls: type[Method]) -> None:
    """Without `needs_teacher_maps` the teacher's logits may come from a cache, which has no features."""
    method = tiny_method(cls)
    if method.needs_teacher_maps or not isinstance(method, Distiller):
        return
    _change_outputs(method, lambda out: Output(out.logits, Undeclared()))
    run_seeded(method, tiny_batch())


def _change_outputs(method: Distiller, change: Callable[[Output], Output]) -> None:
    """From now on, `change` is applied to the outputs of the method's teacher."""
    plain = method.teacher.forward
    vars(method.teacher).update(forward=lambda batch: {path: change(out) for path, out in plain(batch).items()})


def inputs_are_left_as_they_are(cls: type[Method]) -> None:
    """Losses change no output in place: other methods of a list, and other paths, read the same ones."""
    method = tiny_method(cls)
    if not isinstance(method, Distiller):
        return
    batch = tiny_batch()
    student, paths = method.forward_student(batch.image), dict(method.teacher(batch))
    tensors = [batch.image, *(t for output in (student, *paths.values()) for t in tensors_of(output))]
    before = [t.detach().clone() for t in tensors]
    method.terms(student, paths, batch)
    changed_ones = sum(not torch.equal(t, old) for t, old in zip(tensors, before, strict=True))
    holds(not changed_ones, f"{changed_ones} outputs are changed in place: write x = x + y instead of x += y")


def an_unknown_keyword_is_refused(cls: type[Method]) -> None:
    """The section's keys are the constructor's keywords, and no other keyword is silently accepted."""
    try:
        tiny_method(cls, no_such_keyword=1)
    except TypeError:
        return
    raise BrokenLaw("the constructor accepts any keyword; list those of the config section")


DISTILLER_LAWS: tuple[Law, ...] = (
    the_teacher_never_changes, construction_leaves_the_networks_as_they_are, every_leaf_of_the_loss_is_optimised,
    every_tensor_that_changes_is_saved, a_restored_method_goes_on_as_the_first, one_batch_can_be_overfitted,
    terms_are_float32_scalars_under_bfloat16, bfloat16_and_channels_last_agree_with_float32,
    terms_are_finite_at_a_logit_gap_of_a_thousand, the_smallest_batch_is_trained_on,
    in_eval_mode_what_is_deployed_speaks, a_batch_may_be_shared_by_two_processes,
    label_terms_do_not_depend_on_the_teacher, the_logits_are_the_students, a_strong_view_is_read_only_if_declared,
    unlabelled_images_are_read_only_if_declared, soft_labels_replace_the_numbers_if_declared,
    its_terms_have_parts_if_declared, the_teachers_features_are_read_only_if_declared, inputs_are_left_as_they_are,
    an_unknown_keyword_is_refused, compiled_it_computes_the_same,
)  # fmt: skip


def check_distiller(cls: type[Method], **values: Any) -> None:
    """Check a method's class against all laws, on tiny networks; BrokenLaw with one line per broken law.

    `values` replace defaults of its config section, by the constructor's keywords; ConfigError if one is not allowed.
    """
    DISTILLERS.check(cls)
    obey(DISTILLER_LAWS, with_values(cls, values), cls.__name__)
