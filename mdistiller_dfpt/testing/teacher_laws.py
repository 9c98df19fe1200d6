"""The laws of kinds of teacher."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..data.batch import UNLABELLED
from ..distillers.kd import kd_loss
from ..losses.term import total
from ..models.dummy import probing
from ..models.output import as_output
from ..teachers import ORIGINAL, TEACHERS, Teacher
from .laws import holds, leaves_of, obey, tensors_of
from .make import changed, snapshot, tiny_networks, tiny_teacher, with_values
from .shards import coupling_of
from .tiny_data import IMAGE_SHAPE, tiny_batch
from .tiny_networks import CLASSES

Law = Callable[[type[Teacher]], None]


def the_same_batch_gives_the_same_outputs(cls: type[Teacher]) -> None:
    """Outputs depend on the batch and on what is saved, not on a count of calls or on the generator's state."""
    teacher, batch = tiny_teacher(cls).train(), tiny_batch()
    first, second = dict(teacher(batch)), dict(teacher(batch))
    for path, output in first.items():
        holds(torch.equal(output.logits, second[path].logits), f"the path {path!r} has other logits when it is called "
              "again with the same batch: draw random numbers from `batch.epoch` and `batch.index`")  # fmt: skip


def every_path_gives_logits(cls: type[Teacher]) -> None:
    """Each named path returns (B, classes) logits in float32, and the default paths are among the named ones."""
    teacher = tiny_teacher(cls).train()
    paths = teacher(tiny_batch())
    holds(ORIGINAL in teacher.path_names(), f"there is no path {ORIGINAL!r}")
    holds(set(paths) == set(teacher.path_names()), f"forward gives {set(paths)}, path_names {teacher.path_names()}")
    unknown = set(teacher.default_paths()) - set(teacher.path_names())
    holds(not unknown, f"the default paths {unknown} are not in path_names")
    for path in teacher.path_names():
        logits = paths[path].logits
        holds(logits.shape == (8, CLASSES), f"the logits of {path!r} are {tuple(logits.shape)}, not (8, {CLASSES})")
        holds(logits.dtype == torch.float32, f"the logits of {path!r} are {logits.dtype}")


def maps_are_those_of_the_paths_network(cls: type[Teacher]) -> None:
    """A path that `has_maps` has those of the network that `network_of` returns, as to their shapes."""
    teacher = tiny_teacher(cls).train()
    for path, output in teacher(tiny_batch()).items():
        has, says = "feats" in output.features, teacher.has_maps(path)
        holds(has == says, f"the path {path!r} has {'' if has else 'no '}features, but `has_maps` returns {says}")
        if not has:
            continue
        network = teacher.network_of(path)
        with probing(network):
            _, features = network(torch.zeros(8, *IMAGE_SHAPE))
        for key in ("feats", "preact_feats"):
            found, expected = ([tuple(m.shape) for m in f[key]] for f in (output.features, features))
            holds(found == expected, f"{key} of the path {path!r} are {found}, its network's {expected}")


def frozen_networks_never_change(cls: type[Teacher]) -> None:
    """After three training steps of the teacher, its frozen networks are bit-identical."""
    teacher = tiny_teacher(cls).train()
    around = [teacher.network] if cls.needs_network and not cls.starts_untrained else []
    networks = list({id(n): n for n in (*around, *teacher.frozen())}.values())
    before = [snapshot(network) for network in networks]
    _train(teacher, 3)
    for network, state in zip(networks, before, strict=True):
        keys = changed(state, network.state_dict())
        holds(not keys, f"{keys[:3]} of a frozen network changed")
        holds(not network.training, "a frozen network is in training mode")


def its_own_terms_train_it_and_not_the_student(cls: type[Teacher]) -> None:
    """The parameters in the terms' graph are those in `parameter_groups`; terms are of kind `teacher`."""
    teacher, (student, _) = tiny_teacher(cls).train(), tiny_networks()
    batch = tiny_batch()
    terms = teacher.losses(as_output(student(batch.image)).detach(), teacher(batch), batch)
    optimised = {id(p) for group in teacher.parameter_groups() for p in group["params"]}
    leaves = leaves_of(total(terms)) if terms else set()
    holds(leaves == optimised, f"{len(optimised - leaves)} optimised parameters affect no term, "
                               f"{len(leaves - optimised)} others affect a term but are not optimised")  # fmt: skip
    wrong = [name for name, term in terms.items() if term.kind != "teacher"]
    holds(not wrong, f"the terms {wrong} are not of kind `teacher`: use own(value, weight)")


def what_it_trains_is_saved(cls: type[Teacher]) -> None:
    """Another instance with the same state_dict returns the same outputs."""
    first, second = tiny_teacher(cls).train(), tiny_teacher(cls).train()
    _train(first, 2)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    batch = tiny_batch(step=3)
    a, b = first(batch), second(batch)
    for path in first.path_names():
        holds(torch.equal(a[path].logits, b[path].logits), f"the path {path!r} has different outputs after a resume")


def evaluation_changes_nothing(cls: type[Teacher]) -> None:
    """Evaluating its paths in eval mode changes no running statistic."""
    teacher = tiny_teacher(cls).eval()
    before = snapshot(teacher)
    with torch.no_grad():
        teacher.evaluated_paths(tiny_batch().image)
    keys = changed(before, teacher.state_dict())
    holds(not keys, f"evaluation changed {keys[:3]}")


def bfloat16_changes_rounding_alone(cls: type[Teacher]) -> None:
    """Its networks run in the configured precision, and its outputs are float32."""
    plain, other = tiny_teacher(cls).train(), tiny_teacher(cls).train()
    other.load_state_dict(plain.state_dict())
    other.dtype = torch.bfloat16
    a, b = plain(tiny_batch(16)), other(tiny_batch(16))
    for path in plain.path_names():
        holds(b[path].logits.dtype == torch.float32, f"{path!r} is {b[path].logits.dtype} under bfloat16")
        loss = kd_loss(a[path].logits, b[path].logits, 4.0).item()
        holds(loss < 0.05, f"{path!r} under bfloat16 differs from float32 by {loss:.3g}")


def frozen_networks_run_in_the_configured_precision(cls: type[Teacher]) -> None:
    """The frozen networks run under autocast to `self.dtype`, in training and in evaluation."""
    teacher, seen = tiny_teacher(cls).train(), set()
    teacher.dtype = torch.bfloat16
    for network in teacher.frozen():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    dict(teacher(tiny_batch()))
    with torch.no_grad():
        teacher.eval().evaluated_paths(tiny_batch().image)
    wrong = seen - {torch.bfloat16}
    holds(not wrong, f"a frozen network runs in {wrong} under bfloat16: use `self.run_frozen` or `self.output_of`")


def outputs_of_a_sample_do_not_depend_on_the_others(cls: type[Teacher]) -> None:
    """In eval mode, some samples of a batch have the outputs that they have alone, unless `couples_samples` is set."""
    teacher, batch = tiny_teacher(cls).eval(), tiny_batch()
    if teacher.couples_samples:
        return
    rows = slice(3, 6)
    with torch.no_grad():
        whole, some = dict(teacher(batch)), dict(teacher(batch.rows(rows)))
    for path, output in whole.items():
        same = all(
            torch.allclose(a[rows], b, rtol=1e-3, atol=1e-4)
            for a, b in zip(tensors_of(output), tensors_of(some[path]), strict=True)
        )
        holds(same, f"the outputs of the path {path!r} for a sample depend on the other samples of its batch")


def unlabelled_images_are_taught_if_declared(cls: type[Teacher]) -> None:
    """With `reads_only_images`, outputs depend neither on labels and indices nor on the batches in between."""
    teacher, batch = tiny_teacher(cls).train(), tiny_batch()
    if not teacher.reads_only_images:
        return
    expected = dict(teacher(batch))
    dict(teacher(tiny_batch(seed=1)))
    target = torch.full_like(batch.target, UNLABELLED)
    found = teacher(batch.replaced(target=target, index=batch.index + 1, epoch=batch.epoch + 1, step=batch.step + 1))
    for path, output in expected.items():
        holds(torch.equal(output.logits, found[path].logits), f"the path {path!r} has other logits for the same images "
              "with other labels, indices or epoch: set `reads_only_images = False` in the class")  # fmt: skip


def a_batch_may_be_shared_by_two_processes(cls: type[Teacher]) -> None:
    """Terms that are no mean over samples are declared by `couples_samples`, or several GPUs would compute others."""
    difference = coupling_of(tiny_teacher(cls))
    holds(not difference, difference)


def _train(teacher: Teacher, steps: int) -> None:
    student, groups = tiny_networks()[0], [g for g in teacher.parameter_groups() if g["params"]]
    teacher.prepare([tiny_batch()])
    optimizer = torch.optim.SGD(groups, lr=0.05) if groups else None
    for step in range(1, steps + 1):
        batch = tiny_batch(step=step)
        terms = teacher.losses(as_output(student(batch.image)).detach(), teacher(batch), batch)
        if optimizer is not None:
            optimizer.zero_grad()
            total(terms).backward()
            teacher.before_step()
            optimizer.step()
        teacher.after_step(batch)


TEACHER_LAWS: tuple[Law, ...] = (
    the_same_batch_gives_the_same_outputs, every_path_gives_logits, maps_are_those_of_the_paths_network,
    frozen_networks_never_change, its_own_terms_train_it_and_not_the_student, what_it_trains_is_saved,
    evaluation_changes_nothing, bfloat16_changes_rounding_alone, frozen_networks_run_in_the_configured_precision,
    outputs_of_a_sample_do_not_depend_on_the_others, unlabelled_images_are_taught_if_declared,
    a_batch_may_be_shared_by_two_processes,
)  # fmt: skip


def check_teacher(cls: type[Teacher], **values: Any) -> None:
    """Check a kind of teacher against all laws, on tiny networks; BrokenLaw with one line per broken law.

    `values` replace defaults of its config section, by the constructor's keywords; ConfigError if one is not allowed.
    """
    TEACHERS.check(cls)
    cls = with_values(cls, values)
    # Outputs that differ from call to call break most other laws too, which would hide the reason
    obey(TEACHER_LAWS[:1], cls, cls.__name__)
    obey(TEACHER_LAWS[1:], cls, cls.__name__)
