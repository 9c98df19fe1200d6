"""Benchmark: windows that alternate, variants that do the same work, and counts of operations."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.bench import counts, timing, workload
from mdistiller_dfpt.bench.counts import flops_per_image, operators_per_step
from mdistiller_dfpt.bench.timing import Spread, Window, cpu_seconds, in_turns, ratio
from mdistiller_dfpt.bench.workload import Workload
from mdistiller_dfpt.commands import bench
from mdistiller_dfpt.models.complexity import count_macs, total
from mdistiller_dfpt.models.dummy import dummy_image, probing
from mdistiller_dfpt.teachers.dual_path import DualPath

PAIR = "res32x4_res8x4"
SMALL = ["DATASET.TYPE", "digits", "DISTILLER.STUDENT", "resnet8", "DISTILLER.TEACHER", "resnet14", "SOLVER.BATCH_SIZE",
         "8", "EXPERIMENT.THREADS", "1"]  # fmt: skip


@pytest.fixture
def variant_of(tmp_path, monkeypatch):
    """Builds the workload of a method's config; no step depends on the number of images."""
    monkeypatch.setitem(workload.IMAGES, "cifar100", 20_000)

    def build(method, *words, pair=PAIR, kind=Workload):
        return kind(load_cfg(f"configs/cifar100/{method}/{pair}.yaml", ["EXPERIMENT.THREADS", "1", *words]), tmp_path)

    return build


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# Gates: the cost of a step is counted, not timed


def macs(network, image):
    with probing(network), count_macs(network) as counts:
        network(image)
    return counts


def parts(variant):
    """MACs per image: the teacher's stem and first stage, its remainder, prompt and fusion blocks, the student."""
    distiller = variant.trainer.distiller
    network = distiller.teacher.network
    image = dummy_image(network, (3, 32, 32))
    teacher, student = macs(network, image), macs(distiller.student, image)
    first = total(teacher, network.conv1) + total(teacher, network.layer1)
    prompts = 0
    if isinstance(dual := distiller.teacher, DualPath):
        with probing(dual), count_macs(dual) as both:
            dual.prompt_path(image, network(image)[1])
        prompts = total(both, dual.prompts) + total(both, dual.fusions)
    return first, total(teacher, network) - first, prompts, total(student, distiller.student)


FLOORS = {
    "kd": lambda t1, rest, prompts, student: t1 + rest + 3 * student,
    "dfptkd": lambda t1, rest, prompts, student: t1 + 3 * (rest + prompts + student),
    "dfptkd_plus": lambda t1, rest, prompts, student: 4 * (t1 + rest) + 3 * (prompts + student),
}


@pytest.mark.parametrize("method", FLOORS)
def test_a_step_costs_no_more_than_the_method_requires(method, variant_of):
    variant = variant_of(method, "SOLVER.BATCH_SIZE", "2")
    floor = 2 * FLOORS[method](*parts(variant))
    assert flops_per_image(variant.trainer, variant.batch) == pytest.approx(floor, rel=0.01)


COUNTED = {"vanilla": 129, "kd": 302, "dfptkd": 742, "dfptkd_plus": 848, "crd": 420, "reviewkd": 514}
VERSIONS = 1.05  # PyTorch versions differ by a few operators


@pytest.mark.parametrize("method", COUNTED)
def test_a_step_calls_no_more_operators_than_were_counted_and_reads_nothing_from_the_device(method, variant_of):
    variant = variant_of(method, "SOLVER.BATCH_SIZE", "2", pair="resnet8x4" if method == "vanilla" else PAIR)
    operators, reads = operators_per_step(variant.trainer, variant.batch)
    assert reads == 0
    assert operators <= VERSIONS * COUNTED[method]


class _OnGpu:
    """Stands in for a trainer on a GPU, whose step waits twice in one line."""

    class training:
        device = torch.device("cuda")


def test_waits_are_counted_each_and_the_debug_mode_is_as_before(monkeypatch):
    modes = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step(training, batch):
        if modes[-1] == "warn":
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
            for _ in range(2):
                warnings.warn(f"{counts.OF_A_WAIT} (Triggered internally)", stacklevel=1)
            if batch == "fails":
                raise RuntimeError("no")

    monkeypatch.setattr(counts, "take_step", step)
    assert counts.waits_per_step(_OnGpu, "batch") == 2
    assert modes == [0, "warn", 0]
    with pytest.raises(RuntimeError, match="no"):
        counts.waits_per_step(_OnGpu, "fails")
    assert modes[-1] == 0


def test_on_a_cpu_nothing_waits_for_a_gpu(variant_of):
    variant = variant_of("kd", *SMALL)
    assert counts.waits_per_step(variant.trainer, variant.batch) is None


# The tool itself


def test_sides_alternate_and_drift_affects_all_equally():
    order = []
    done = in_turns({"a": lambda: order.append("a") or 3, "b": lambda: order.append("b") or 3}, 3)
    assert "".join(order) == "abbaab"
    assert [w.images for w in done["b"]] == [3, 3, 3]


def test_a_ratio_is_taken_window_by_window_and_a_spread_is_median_and_range():
    first, second = [Window(10, 1, 1), Window(10, 2, 2), Window(10, 4, 4)], [Window(30, 1, 1)] * 3
    assert ratio(first, second) == Spread(6.0, 3.0, 12.0)


def test_the_time_of_workers_counts():
    code = "import time\nwhile time.process_time() < 0.7: pass\nprint(1, flush=True)\ninput()"
    before = cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        worker.stdout.readline()
        spent = cpu_seconds() - before
        worker.communicate(b"\n")
    assert spent >= 0.5
    assert timing.window(lambda: time.sleep(0.05) or 1).cpu < 0.05


def test_the_command_prints_what_it_timed_and_writes_it(tmp_path, capsys):
    record = tmp_path / "sub" / "record.json"
    words = ["--cfg", f"configs/cifar100/kd/{PAIR}.yaml", *SMALL, "--windows", "2", "--seconds", "0.01", "--json",
             str(record), "--versus", "SOLVER.CHANNELS_LAST False"]  # fmt: skip
    words += ["DATASET.NUM_WORKERS", "0", "--what", "loader", "step", "both"]
    assert bench.main(words) == 0, capsys.readouterr().err
    content = json.loads(record.read_text())
    rows = content["rows"]
    assert [(r["measure"], r["side"]) for r in rows] == [
        ("loader", "DataLoader of PIL images"), ("loader", "this"), ("loader", "SOLVER.CHANNELS_LAST False"),
        ("step", "this"), ("step", "SOLVER.CHANNELS_LAST False"),
        ("work", "this"), ("work", "SOLVER.CHANNELS_LAST False"),
        ("both", "this"), ("both", "SOLVER.CHANNELS_LAST False"),
    ]  # fmt: skip
    assert all(r["images_per_second"]["low"] > 0 for r in rows if "images_per_second" in r)
    assert content["images"] == "generated"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[6].endswith("0 device-to-host reads per step")


def test_a_benchmark_that_is_interrupted_in_a_step_has_no_run_to_continue(capsys, monkeypatch):
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: os.kill(os.getpid(), signal.SIGINT))
    words = ["--cfg", f"configs/cifar100/kd/{PAIR}.yaml", *SMALL, "--what", "step", "--windows", "1"]
    assert bench.main(words) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; repeat the same command to go on"


def test_records_are_printed_unchanged(tmp_path, capsys):
    spread = {"median": 2000.0, "low": 1.0, "high": 3000.0}
    row = {"side": "this", "images_per_second": spread, "images_per_cpu_second": spread, "times_the_first": spread}
    work = {"measure": "work", "side": "this", "gflop_per_image": 1.5, "operators_per_step": 7}
    waits = {"measure": "waits", "side": "this", "waits_per_step": 0}
    rows = [{"measure": "step", **row}, work, waits, {"measure": "memory", "side": "this", "bytes": 2**21}]
    (tmp_path / "kd.json").write_text(json.dumps({"rows": rows}))
    assert bench.main(["--show", str(tmp_path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("| kd | this | 2,000.0 (1.0 to 3,000.0) | 2,000.0 |")
    assert last.endswith("| 1.50 | 7 | 2 MiB |")
    for text, message in (("{}", "not a record of `bench`"), (None, "contains no records")):
        (tmp_path / "kd.json").write_text(text) if text else (tmp_path / "kd.json").unlink()
        assert bench.main(["--show", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


def test_files_are_read_by_all_loaders(capsys, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr("mdistiller_dfpt.bench.workload.FILES", 32)
    words = ["--cfg", f"configs/cifar100/kd/{PAIR}.yaml", "DATASET.TYPE", "folder", "MODEL.FAMILY", "cifar",
             "DATASET.SIZE", "32", "DATASET.NUM_WORKERS", "0", "SOLVER.BATCH_SIZE", "8", "--what", "loader",
             "--windows", "1", "--seconds", "0.01"]  # fmt: skip
    assert bench.main(words) == 0, capsys.readouterr().err
    _, *rows = capsys.readouterr().out.splitlines()
    sides = ("DataLoader of PIL images", "timm's loader", "this")
    assert [side for row, side in zip(rows, sides, strict=True) if not row.startswith(f"loader   {side} ")] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--windows", "0"], "--windows is 0; it must be > 0"),
        (["--show", "results"], "nothing to do"),
        (["SOLVER.LRR", "1"], "unknown key SOLVER.LRR"),
    ],
)
def test_bad_usage_is_one_line(words, message, capsys):
    assert bench.main(["--cfg", f"configs/cifar100/kd/{PAIR}.yaml", *SMALL, *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_users_dataset_is_measured_on_its_own_images(tmp_path, capsys, registries):
    """In this process and in the process whose memory is measured."""
    (tmp_path / "colours.py").write_text("""
import torch
from mdistiller_dfpt.data import DATASETS, ImageSource
from mdistiller_dfpt.data.in_memory import ImageSet, Recipe

@DATASETS.register("bench_colours")
def colours(cfg):
    labels = torch.arange(64) % 4
    images = (labels[:, None, None, None] * 60).expand(-1, 8, 8, 3).to(torch.uint8)
    part = ImageSet(images, labels, tuple("abcd"))
    return ImageSource(part, part, Recipe(pad=1, flip=True, mean=(0.5,) * 3, std=(0.25,) * 3))
""")
    words = [*SMALL, "PLUGINS", f"['{tmp_path}/colours.py']", "DATASET.TYPE", "bench_colours", "--what", "loader",
             "step", "memory"]  # fmt: skip
    code = bench.main(["--cfg", f"configs/cifar100/kd/{PAIR}.yaml", *words, "--windows", "1", "--seconds", "0.01"])
    assert code == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["loader", "loader", "step", "work", "memory"]
    assert re.search(r"peak [1-9]\d* MiB$", lines[-1].replace(",", ""))


def test_what_a_run_does_is_timed_for_a_method_of_two_views(variant_of):
    assert variant_of("mlld", *SMALL).both(2) == 16
