"""SOLVER.COMPILE: the same numbers, few graphs, and one line where it cannot be done."""

import errno
import os
import shutil
import signal

import pytest
import torch
from torch._dynamo.utils import counters

from mdistiller_dfpt.distillers import build_distiller
from mdistiller_dfpt.errors import ConfigError, DataError
from mdistiller_dfpt.launch.networks import build_network
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.regular_files import read_json
from mdistiller_dfpt.runs.directory import RESULTS
from mdistiller_dfpt.teachers import TEACHERS
from mdistiller_dfpt.testing import CLASSES, prepare, tiny_batch, tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.testing.make import run_seeded
from mdistiller_dfpt.training.compiled import CompilationError, compile_method, static
from mdistiller_dfpt.training.signals import Stopped
from mdistiller_dfpt.training.trainer import Trainer

CPU = torch.device("cpu")
# Graphs of a step in five epochs: a warm-up has a second one, CRD draws its negatives between two
GRAPHS = {"NONE": 1, "KD": 1, "AT": 1, "FITNET": 1, "DKD": 2, "REVIEWKD": 2, "CRD": 5, "DFPTKD": 1}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_step_is_one_graph_in_all_epochs(name):
    torch.compiler.reset()
    counters.clear()
    method = tiny_distiller(name).train()
    method.set_precision(torch.bfloat16, torch.bfloat16)
    prepare(method)
    compile_method(method, CPU, "eager")
    for number in range(10):
        batch = static(tiny_batch(epoch=1 + number // 2, step=1 + number % 2))
        run_seeded(method, batch)
        for part in method.hooked():
            part.after_step(batch)
            part.take_logged()
    assert counters["stats"]["unique_graphs"] == GRAPHS[name]


@pytest.mark.parametrize("kind", sorted(TEACHERS))
def test_every_kind_of_teacher_teaches_the_same_once_compiled(kind):
    words = ["DISTILLER.TEACHER_KIND", kind, "DISTILLER.OTHER_TEACHERS", "[resnet20]"]
    try:
        plain, compiled = (tiny_distiller("KD", *words).train() for _ in range(2))
    except ConfigError as e:
        if "OTHER_TEACHERS" not in str(e):
            raise
        plain, compiled = (tiny_distiller("KD", *words[:2]).train() for _ in range(2))
    torch.compiler.reset()
    compile_method(compiled, CPU, "aot_eager")
    for step in (1, 2):
        batch, gradients = static(tiny_batch(step=step)), []
        for method in (plain, compiled):
            if step == 1:
                prepare(method)
            terms = run_seeded(method, batch)[1]
            total(terms).backward()
            gradients.append([p.grad for p in method.parameters() if p.grad is not None])
            for part in method.hooked():
                part.after_step(batch)
        torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("method", "student", "teacher"),
    [
        ("KD", "torchvision/shufflenet_v2_x0_5", "torchvision/resnet18"),
        ("FITNET", "torchvision/vgg11", "timm/resnet10t"),  # with dropout
        ("DFPTKD", "timm/mobilenetv3_small_050", "timm/convnext_atto"),
        ("KD", "timm/test_vit", "timm/test_vit2"),
        ("DFPTKD", "timm/test_vit", "timm/test_vit2"),
    ],
)
def test_networks_of_other_libraries_compute_the_same_once_compiled(method, student, teacher):
    words = ("DISTILLER.TYPE", method, "DISTILLER.STUDENT", student, "DISTILLER.TEACHER", teacher)
    cfg, shape = tiny_cfg(*words), (3, 32, 32)

    def made():
        torch.manual_seed(1)
        networks = (build_network(cfg, role, "", CLASSES, shape) for role in ("student", "teacher"))
        return build_distiller(cfg, *networks, 48, image_shape=shape).train()

    plain, compiled, gradients = made(), made(), []
    torch.compiler.reset()
    compile_method(compiled, CPU, "aot_eager")
    batch = static(tiny_batch().replaced(image=torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))))
    for one in (plain, compiled):
        prepare(one, batch)
        total(run_seeded(one, batch)[1]).backward()
        gradients.append([p.grad for p in one.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)


def test_a_last_batch_of_another_size_has_a_graph_of_constants():
    torch.compiler.reset()
    counters.clear()
    method = tiny_distiller("KD").train()
    compile_method(method, CPU, "eager")
    for size in (8, 5, 8, 5):
        logits, _ = method(static(tiny_batch(size)))
        assert logits.shape[0] == size
    assert counters["stats"]["unique_graphs"] == 2


def test_micro_batches_of_each_size_have_a_graph_of_constants(tmp_path, monkeypatch):
    torch.compiler.reset()
    graphs = []

    def counting(graph, inputs):
        graphs.append([value for value in inputs if not isinstance(value, torch.Tensor)])
        return graph

    monkeypatch.setattr("mdistiller_dfpt.training.state.compile_method", lambda m, d: m.compile(backend=counting))
    cfg = tiny_cfg("DISTILLER.TYPE", "KD", "SOLVER.COMPILE", "True", "SOLVER.ACCUMULATE", "3")
    Trainer(cfg, tiny_distiller("KD"), tiny_data(42)).fit(tmp_path / "run")
    assert graphs == [[]] * 3, "of 6, 4 and 2 images"


def trainer(*words):
    cfg = tiny_cfg("DISTILLER.TYPE", "KD", "SOLVER.COMPILE", "True", "SOLVER.EPOCHS", "2", *words)
    return Trainer(cfg, tiny_distiller("KD", *words), tiny_data())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_run_is_the_run_to_rounding_and_resumes_to_the_last_bit(tmp_path, capsys):
    torch.compiler.reset()
    compiled = trainer().fit(tmp_path / "whole")
    said = capsys.readouterr().out
    assert said.count("SOLVER.COMPILE: the first step, compiled in ") == 1
    assert " s, is 1 graph\n" in said
    plain = trainer("SOLVER.COMPILE", "False").fit(tmp_path / "plain")
    assert [e["train"]["loss"] for e in compiled["epochs"]] == pytest.approx(
        [e["train"]["loss"] for e in plain["epochs"]], rel=1e-3
    )
    assert compiled["fingerprint"] != plain["fingerprint"]
    stopping = trainer()
    stopping.requests.stop = signal.SIGTERM
    with pytest.raises(Stopped):
        stopping.fit(tmp_path / "stopped")
    again = trainer().fit(tmp_path / "stopped", resume=True)
    assert again["student_sha256"] == compiled["student_sha256"]


def test_without_a_compiler_it_is_refused_before_the_first_step(tmp_path, monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none():
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(ConfigError, match=r"^SOLVER.COMPILE is True; .* needs a C\+\+ compiler .* install g\+\+"):
        trainer().fit(tmp_path / "run")


def failing(graph, inputs):
    raise RuntimeError("no registers left\nand so on")


def test_a_step_that_cannot_be_compiled_is_one_line(tmp_path, monkeypatch):
    torch.compiler.reset()
    one = trainer()
    monkeypatch.setattr("mdistiller_dfpt.training.state.compile_method", lambda m, d: m.compile(backend=failing))
    with pytest.raises(CompilationError, match=r"a step \(RuntimeError: no registers left.*\); set it to False"):
        one.fit(tmp_path / "run")


def test_a_stop_that_ends_the_compiler_too_is_a_stop(tmp_path, monkeypatch):
    """As by Ctrl-C, which the terminal sends to all processes."""
    torch.compiler.reset()
    one = trainer()

    def interrupted(graph, inputs):
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("g++ was interrupted")

    monkeypatch.setattr("mdistiller_dfpt.training.state.compile_method", lambda m, d: m.compile(backend=interrupted))
    with pytest.raises(Stopped, match="stopped by SIGINT in epoch 1, after step 0; continue with --resume"):
        one.fit(tmp_path / "run")
    monkeypatch.undo()
    torch.compiler.reset()
    assert trainer("SOLVER.COMPILE", "True").fit(tmp_path / "run", resume=True)["epochs"][-1]["epoch"] == 2
    assert read_json(tmp_path / "run" / RESULTS)["epochs"][0]["epoch"] == 1


def test_a_full_disk_under_what_is_compiled_names_its_folder(tmp_path, monkeypatch):
    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    one = trainer()

    def full(graph, inputs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mdistiller_dfpt.training.state.compile_method", lambda m, d: m.compile(backend=full))
    with pytest.raises(DataError, match=rf"^{tmp_path}/compiled: .* \(No space left on device\); name another folder"):
        one.fit(tmp_path / "run")
