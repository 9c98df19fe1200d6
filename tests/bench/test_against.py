"""The comparison with a checkout of mdistiller: the same computation, or no ratio."""

import json
import sys

import pytest
import torch

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.bench import workload
from mdistiller_dfpt.bench.mdistiller import Mdistiller
from mdistiller_dfpt.bench.parity import refuse_unlike, relative
from mdistiller_dfpt.bench.pil_loader import pixels
from mdistiller_dfpt.bench.workload import Workload
from mdistiller_dfpt.commands import bench
from mdistiller_dfpt.errors import ConfigError

from .stand_in import write

SMALL = ["DISTILLER.STUDENT", "resnet8", "DISTILLER.TEACHER", "resnet14", "SOLVER.BATCH_SIZE", "8",
         "EXPERIMENT.THREADS", "1", "DATASET.NUM_WORKERS", "0"]  # fmt: skip
DIGITS = ["DATASET.TYPE", "digits"]


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setitem(workload.IMAGES, "cifar100", 600)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def variant_of(tmp_path):
    def build(method, *words):
        pair = "resnet8x4" if method == "vanilla" else "res32x4_res8x4"
        return Workload(load_cfg(f"cifar100/{method}/{pair}", [*SMALL, *words]), tmp_path)

    return build


def forget():
    """Of any checkout, as another test may have imported one."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("mdistiller", "tensorboardX")]:
        del sys.modules[name]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Writes a stand-in for mdistiller whose distillation term is multiplied by `factor`."""
    monkeypatch.setattr(torch.Tensor, "cuda", torch.Tensor.cuda)
    monkeypatch.setattr(torch.nn.Module, "cuda", torch.nn.Module.cuda)
    monkeypatch.setattr(torch, "load", torch.load)
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    yield lambda factor=1.0: write(tmp_path / "checkout", factor)
    forget()


@pytest.fixture
def peer_of(tmp_path, checkout, variant_of):
    return lambda method, *words, factor=1.0: Mdistiller(checkout(factor), variant_of(method, *words), tmp_path / "its")


KINDS = {
    "vanilla": [],
    "kd": [],
    "fitnet": [],  # has modules of its own
    "crd": ["CRD.NCE.K", "16"],  # has a memory bank, and its rows come from the loader
}


@pytest.mark.parametrize("method", KINDS)
def test_mdistiller_with_the_same_computation_is_timed(method, peer_of):
    peer = peer_of(method, *KINDS[method])
    refuse_unlike(peer)
    assert peer.step(2) == 16
    assert peer.both(2) == 16


@pytest.mark.parametrize("student", ["MobileNetV2", "vgg8"])
def test_students_with_negligible_gradients_are_timed(student, peer_of):
    """Biases before BatchNorm have gradients of 1e-9, which are rounding errors."""
    refuse_unlike(peer_of("kd", "DISTILLER.STUDENT", student))


def test_its_config_has_our_values_and_inferred_shapes(peer_of):
    cfg = peer_of("fitnet", "FITNET.LOSS.FEAT_WEIGHT", "7").cfg
    assert cfg.FITNET == {"HINT_LAYER": 2, "INPUT_SIZE": [32, 32], "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 7.0}}
    # Its defaults are the integers 4 and 1
    node = peer_of("kd", "KD.TEMPERATURE", "3").cfg.KD
    assert (node.TEMPERATURE, type(node.TEMPERATURE), node.LOSS.KD_WEIGHT) == (3, int, 0.9)


def test_its_constructor_reads_our_weights_and_changes_none(peer_of):
    peer = peer_of("kd")
    ours = peer.variant.trainer
    assert torch.equal(peer.distiller.read_at_construction, next(ours.teacher.network.parameters()))
    for mine, its in ((ours.teacher.network, peer.distiller.teacher), (ours.distiller.student, peer.student)):
        torch.testing.assert_close(its.state_dict(), dict(mine.state_dict()), rtol=0, atol=0)
    assert not peer.distiller.teacher.training


def test_its_loader_has_our_images(peer_of):
    peer = peer_of("kd")
    peer.prepare_iterations()
    image, target, index = next(peer._iterations)
    ours = peer.variant.data.train
    assert torch.equal(target, ours.labels[index])
    # A pixel in the middle of a crop is one of the image
    middle = (image[0, :, 16, 16] * 255).round()
    assert (torch.from_numpy(pixels(ours))[index[0], 12:21, 12:21] == middle).all(2).any()


def test_a_different_computation_gets_no_ratio(peer_of):
    with pytest.raises(ConfigError, match="no ratio, because the losses differ"):
        refuse_unlike(peer_of("kd", factor=1.5))


def test_equal_losses_with_different_gradients_get_no_ratio(peer_of, monkeypatch):
    peer = peer_of("kd")
    loss = peer.loss
    monkeypatch.setattr(peer, "loss", lambda: 1.01 * (value := loss()) - 0.01 * value.detach())
    with pytest.raises(ConfigError, match="gradients differ by 9.9e-03"):
        refuse_unlike(peer)


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("dkd", [], "it has no DKD; it has AT, CRD, FITNET, KD, NONE"),
        ("crd_kd", [], r"it has no CRD\+KD"),
        ("kd", ["DISTILLER.STUDENT", "resnet20"], "it has no network resnet20"),
        ("dot", [], "trainer of SOLVER.TRAINER dot is unsupported"),
        ("kd", ["SOLVER.TYPE", "AdamW"], r"its trainer BaseTrainer \(NotImplementedError: AdamW\)"),
        ("at", [], r"no ratio, because mdistiller fails: resnet14 -> resnet8 with AT \(KeyError: 'preact_feats'\)"),
    ],
)
def test_what_mdistiller_cannot_compute_is_refused_in_one_line(method, words, message, peer_of):
    with pytest.raises(ConfigError, match=message) as info:
        refuse_unlike(peer_of(method, *words))
    assert "\n" not in str(info.value)


def test_a_folder_that_is_no_mdistiller_is_refused(tmp_path, variant_of):
    with pytest.raises(ConfigError, match="not a checkout of mdistiller"):
        Mdistiller(tmp_path, variant_of("kd"), tmp_path / "its")


def test_a_checkout_that_needs_what_is_not_installed_is_refused(tmp_path, checkout, variant_of):
    folder = checkout()
    (folder / "mdistiller/models/__init__.py").write_text("import not_installed_here\n")
    with pytest.raises(ConfigError, match=r"cannot be imported \(No module named 'not_installed_here'\): install"):
        Mdistiller(folder, variant_of("kd"), tmp_path / "its")


def test_negligible_gradients_do_not_count_as_a_difference():
    """For example those of a bias before BatchNorm, which are only rounding errors."""
    ours = {"weight": torch.ones(9), "bias": torch.tensor([1e-9])}
    assert max(relative(ours, {"weight": torch.ones(9), "bias": torch.tensor([-1e-9])})) < 1e-5
    assert max(relative(ours, {"weight": 1.1 * torch.ones(9), "bias": torch.tensor([1e-9])})) > 0.05
    for other in (None, torch.tensor([float("nan")])):
        assert max(relative(ours, {"weight": torch.ones(9), "bias": other})) == float("inf")


def test_the_command_times_steps_and_iterations_against_a_checkout(tmp_path, capsys, checkout):
    record = tmp_path / "record.json"
    words = ["--cfg", "cifar100/kd/res32x4_res8x4", *SMALL, "--windows", "2", "--seconds", "0.01", "--json",
             str(record), "--against", str(checkout()), "--what", "step", "both"]  # fmt: skip
    assert bench.main(words) == 0, capsys.readouterr().err
    content = json.loads(record.read_text())
    assert [(r["measure"], r["side"]) for r in content["rows"]] == [
        ("step", "mdistiller"), ("step", "this"), ("work", "this"), ("both", "mdistiller"), ("both", "this"),
    ]  # fmt: skip
    assert content["against"] == ""  # the stand-in is not under version control


def test_its_loader_is_refused_for_other_images_before_anything_is_timed(capsys, checkout):
    words = ["--cfg", "cifar100/kd/res32x4_res8x4", *SMALL, *DIGITS, "--against", str(checkout())]
    assert bench.main(words) == 2
    assert "its loader is for CIFAR-100; DATASET.TYPE is digits: use `--what step`" in capsys.readouterr().err
    assert bench.main([*words, "--what", "step", "--windows", "1", "--seconds", "0.01"]) == 0


def test_the_images_of_the_dataset_are_used_on_request(tmp_path, capsys):
    words = ["--cfg", "digits/kd/res20_res8", "EXPERIMENT.THREADS", "1", "SOLVER.BATCH_SIZE", "8", "--windows", "1"]
    record = tmp_path / "record.json"
    words += ["--seconds", "0.01", "--what", "both", "--real-images", "--json", str(record)]
    assert bench.main(words) == 0, capsys.readouterr().err
    assert json.loads(record.read_text())["images"] == "of the dataset"


def test_work_that_mdistiller_does_not_do_is_refused(peer_of):
    with pytest.raises(ConfigError, match=r"mdistiller has no SOLVER.CLIP_NORM 1.0, SOLVER.EMA 0.9: leave it out"):
        peer_of("kd", "SOLVER.EMA", "0.9", "SOLVER.CLIP_NORM", "1.0", "SOLVER.AMP", "none")
