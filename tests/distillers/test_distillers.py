"""Rules that hold for every method; registering one enrols it here."""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn

from mdistiller_dfpt.distillers import DISTILLERS, Distiller
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import changed, snapshot, take_steps, tiny_batch, tiny_cfg, tiny_distiller, tiny_networks

METHODS = sorted(DISTILLERS)
TAUGHT = [name for name in METHODS if DISTILLERS[name].needs_teacher]


def reachable_tensors(root: object) -> dict[int, Tensor]:
    """Every tensor reachable from `root` through attributes and containers, by id."""
    found, seen, queue = {}, set(), [root]
    while queue:
        item = queue.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            found[id(item)] = item
        elif isinstance(item, dict):
            queue += item.values()
        elif isinstance(item, list | tuple | set):
            queue += item
        elif isinstance(item, nn.Module):
            queue += vars(item).values()
    return found


@pytest.mark.parametrize("name", TAUGHT)
def test_teacher_is_bit_identical_after_three_steps(name):
    distiller = tiny_distiller(name)
    before = snapshot(distiller.teacher)
    with torch.no_grad():
        logits = distiller.teacher(tiny_batch().image)[0]
    take_steps(distiller, 3)
    assert changed(before, distiller.teacher.state_dict()) == []
    with torch.no_grad():
        assert torch.equal(distiller.teacher(tiny_batch().image)[0], logits)
    assert not distiller.teacher.training
    assert not any(p.requires_grad for p in distiller.teacher.parameters())


@pytest.mark.parametrize("name", TAUGHT)
def test_construction_does_not_touch_the_networks(name):
    student, teacher = tiny_networks()
    expected = snapshot(student), snapshot(teacher)
    distiller = tiny_distiller(name)
    assert changed(expected[0], distiller.student.state_dict()) == []
    assert changed(expected[1], distiller.teacher.state_dict()) == []


@pytest.mark.parametrize("name", METHODS)
def test_every_leaf_of_the_loss_graph_is_optimised(name):
    distiller = tiny_distiller(name)
    optimised = {id(p) for group in distiller.parameter_groups() for p in group["params"]}
    _, losses = distiller(tiny_batch())
    queue, seen, leaves = [sum(losses.values()).grad_fn], set(), set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        queue += [following for following, _ in node.next_functions]
    assert leaves == optimised


@pytest.mark.parametrize("name", METHODS)
def test_every_tensor_that_changed_is_in_the_training_state(name):
    distiller = tiny_distiller(name)
    before = {key: (value, value.detach().clone()) for key, value in reachable_tensors(distiller).items()}
    take_steps(distiller, 3)
    gc.collect()
    kept = {value.data_ptr() for value in distiller.training_state().values()}
    lost = [v for v, old in before.values() if not torch.equal(v.detach(), old) and v.data_ptr() not in kept]
    assert lost == []


@pytest.mark.parametrize("name", METHODS)
def test_one_batch_can_be_overfitted(name):
    """With a teacher that knows the batch: some methods hardly look at the labels."""
    distiller = tiny_distiller(name, knowing=True)
    take_steps(distiller, 120, lr=0.02)
    batch = tiny_batch()
    distiller.train()
    logits, _ = distiller(batch)
    assert (logits.argmax(1) == batch.target).float().mean() >= 0.75


@pytest.mark.parametrize("name", METHODS)
def test_training_state_restores_another_instance_bit_for_bit(name):
    trained = tiny_distiller(name)
    take_steps(trained, 2)
    state = copy.deepcopy(trained.training_state())
    fresh = tiny_distiller(name)
    fresh.load_training_state(state)
    assert changed(snapshot(trained), fresh.state_dict()) == []
    state.pop(next(iter(state)))
    with pytest.raises(RuntimeError, match="missing"):
        fresh.load_training_state(state)


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_scalars_in_float32_under_bfloat16(name):
    distiller = tiny_distiller(name, "SOLVER.AMP", "bf16")
    logits, losses = distiller(tiny_batch())
    assert logits.dtype == torch.float32
    for value in losses.values():
        assert value.dtype == torch.float32
        assert value.shape == ()
        assert value.isfinite()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["SOLVER.AMP", "bf16", "SOLVER.AMP_STUDENT", "none"], (torch.float32, torch.bfloat16)),
        (["SOLVER.AMP_STUDENT", "bf16"], (torch.bfloat16, torch.float32)),
        (["SOLVER.AMP", "bf16"], (torch.bfloat16, torch.bfloat16)),
    ],
)
def test_the_student_has_a_precision_of_its_own(words, expected):
    distiller, seen = tiny_distiller("KD", *words), []
    for network in (distiller.student, distiller.teacher):
        network.conv1.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    distiller(tiny_batch())
    assert tuple(seen) == expected


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_and_channels_last_agree_with_float32(name):
    plain, other = tiny_distiller(name), tiny_distiller(name, "SOLVER.AMP", "bf16")
    other.to(memory_format=torch.channels_last)
    batch = tiny_batch(16)
    last = replace(batch, image=batch.image.contiguous(memory_format=torch.channels_last))
    _, expected = plain(batch)
    _, found = other(last)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0.1, atol=0.03)


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_finite_at_a_logit_gap_of_a_thousand(name):
    distiller = tiny_distiller(name)
    with torch.no_grad():
        distiller.student.fc.weight *= 1000 / distiller.student.fc.weight.abs().max()
        if distiller.teacher is not None:
            distiller.teacher.fc.weight *= 1000 / distiller.teacher.fc.weight.abs().max()
    _, losses = distiller(tiny_batch())
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [name for name in METHODS if DISTILLERS[name].min_batch == 1])
def test_a_batch_of_one_is_trained_on(name):
    _, losses = tiny_distiller(name)(tiny_batch(1))
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("name", METHODS)
def test_constructor_keywords_are_the_nodes_keys(name):
    """`KD(student, teacher, temperature=4.0, ...)` works in a notebook, and a key too many is Python's own error."""
    from mdistiller_dfpt.config.load import keywords

    method, networks = DISTILLERS[name], tiny_networks()
    arguments = keywords(tiny_cfg()[name]) if method.config else {}
    beside = {"num_data": 48, "image_shape": (3, 8, 8), "assistants": []}
    arguments |= {need: beside[need] for need in method.needs}
    networks = networks if method.needs_teacher else (networks[0], None)
    assert isinstance(method(*networks, **arguments), Distiller)
    with pytest.raises(TypeError):
        method(*networks, **arguments, no_such_key=1)


@pytest.mark.parametrize("name", METHODS)
def test_eval_mode_returns_the_logits_of_what_is_deployed(name):
    distiller = tiny_distiller(name).eval()
    image = tiny_batch().image
    with torch.no_grad():
        expected = distiller.deployed(image)[0]
        assert torch.equal(distiller(image=image), expected)
        assert torch.equal(distiller.forward_paths(image)["student"], expected)
    assert (distiller.deployed is distiller.student) == distiller.deploys_student_alone


def test_an_unknown_method_names_the_closest():
    with pytest.raises(ConfigError, match="unknown distiller 'DFTPKD'; did you mean DFPTKD"):
        DISTILLERS["DFTPKD"]
