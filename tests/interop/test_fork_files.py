"""Method files of mdistiller's forks as they are: in their checkout, and out of it."""

import pytest
import torch
from torch.nn import functional as F

from mdistiller_dfpt import DISTILLERS, load_cfg
from mdistiller_dfpt.config.effect import deciding_values, without_effect
from mdistiller_dfpt.distillers.choice import situation
from mdistiller_dfpt.errors import ConfigError, PluginError
from mdistiller_dfpt.launch.cli import guarded
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.testing import take_steps, tiny_batch, tiny_distiller

RAISES = "raise RuntimeError('it imports the whole fork')\n"
CFG = """
from yacs.config import CfgNode as CN
from .helper import RATE
CFG = CN()
CFG.EXPERIMENT = CN({"PROJECT": "theirs", "STANDARDISED": False})
CFG.SOLVER = CN({"SCHEDULE": CN({"TYPE": "COSINE"}), "EXTRA": CN({"RATE": RATE}), "EPOCHS": 90})
CFG.KD = CN({"TEMPERATURE": 2, "LOSS": CN({"CE_WEIGHT": 0.1, "KD_WEIGHT": 9, "IR_WEIGHT": 0.5})})
CFG.FITNET = CN({"INPUT_SIZE": (32, 32)})
CFG.warmup = 20
CFG.folder = None
"""
BASE = """
from torch import nn
class Distiller(nn.Module):
    of_fork = "{fork}"
    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher
    def get_learnable_parameters(self):
        return list(self.student.parameters())
    def forward_test(self, image):
        return self.student(image)[0]
"""
METHOD = """
import torch
import torch.nn.functional as F
from ._base import Distiller
from ..engine.helper import RATE

class {name}(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.read = {{
            "temperature": cfg.KD.TEMPERATURE, "ir": cfg.KD.LOSS.IR_WEIGHT, "size": cfg.FITNET.INPUT_SIZE,
            "standardised": cfg.EXPERIMENT.STANDARDISED, "rate": cfg.SOLVER.EXTRA.RATE, "warmup": cfg.warmup,
            "folder": cfg.folder,
        }}
        self.weight = torch.ones(1).cuda()

    def forward_train(self, image, target, **kwargs):
        logits, _ = self.student(image)
        each = F.cross_entropy(logits, target, reduction="none")
        return logits, {{"loss_ce": self.weight.cuda() * each.mean(), "vector": each, "number": 0.25}}
"""


@pytest.fixture(autouse=True)
def _registries(registries):
    """Removes everything that a test registers or imports."""


def checkout(folder, rate=0.5, **files):
    """A fork: its config, a helper, and method files {name: text}; the `__init__`s that import everything raise."""
    package = folder / "mdistiller"
    for name in ("engine", "distillers"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text(RAISES)
    names = ", ".join(f'"{name.upper()}_OF_FORK": {name}' for name in files if name != "KD")
    (package / "distillers/__init__.py").write_text(f"{RAISES}distiller_dict = {{{names}}}\n")
    (package / "engine/helper.py").write_text(f"RATE = {rate}\n")
    (package / "engine/cfg.py").write_text(CFG)
    (package / "distillers/_base.py").write_text(BASE.format(fork=folder.name))
    for name, text in files.items():
        (package / "distillers" / f"{name}.py").write_text(text)
    return package / "distillers"


def method_of(folder, name, *words):
    load_cfg(None, {"PLUGINS": [str(folder)]})
    return tiny_distiller(name, *words).method


def test_a_file_in_its_checkout_sees_the_checkout_and_none_of_its_trainers(tmp_path):
    place = checkout(tmp_path / "fork", Mine=METHOD.format(name="Mine"))
    method = method_of(place / "Mine.py", "MINE_OF_FORK")
    assert method.of_fork == "fork"
    assert method.read == {
        "temperature": 2.0, "ir": 0.5, "size": [32, 32], "standardised": False, "rate": 0.5, "warmup": 20,
        "folder": None,
    }  # fmt: skip
    assert load_cfg(None, ["DISTILLER.TYPE", "MINE_OF_FORK"]).SOLVER.EPOCHS == 90
    history = take_steps(tiny_distiller("MINE_OF_FORK"), 6)
    assert history[-1] < history[0]


def test_keys_that_a_fork_adds_anywhere_are_set_like_any_other(tmp_path, capsys):
    place = checkout(tmp_path / "fork", Mine=METHOD.format(name="Mine"))
    (tmp_path / "c.yaml").write_text(
        "PLUGINS: [fork/mdistiller/distillers/Mine.py]\nDISTILLER: {TYPE: MINE_OF_FORK}\nwarmup: 7\nfolder: here\n"
        "KD: {TEMPERATURE: 4, LOSS: {IR_WEIGHT: 0.25}}\nEXPERIMENT: {STANDARDISED: true}\nSOLVER: {EXTRA: {RATE: 2}}\n"
    )
    cfg = load_cfg(tmp_path / "c.yaml", ["FITNET.INPUT_SIZE", "[64, 64]", "SOLVER.EPOCHS", "240"])
    assert (cfg.KD.TEMPERATURE, cfg.KD.LOSS.IR_WEIGHT, cfg.warmup, cfg.folder) == (4.0, 0.25, 7, "here")
    assert (cfg.EXPERIMENT.STANDARDISED, cfg.SOLVER.EXTRA.RATE, cfg.FITNET.INPUT_SIZE) == (True, 2.0, [64, 64])
    assert cfg.SOLVER.EPOCHS == 240, "a value that is given stays, also where it is this project's default"
    assert cfg.EXPERIMENT.PROJECT == "distill", "of EXPERIMENT, DATASET, DISTILLER and LOG, the defaults stay ours"
    assert "fork: SOLVER.SCHEDULE.TYPE cannot be set here" in capsys.readouterr().out
    # What the class reads decides the run, and nothing of it is said to have no effect
    here = situation(cfg, in_files=False)
    assert without_effect(here) == []
    assert {"KD.LOSS.IR_WEIGHT": 0.25, "warmup": 7, "folder": "here"}.items() <= deciding_values(here).items()
    with pytest.raises(ConfigError, match="unknown key KD.LOSS.IR_WEIGH; did you mean KD.LOSS.IR_WEIGHT"):
        load_cfg(None, {"PLUGINS": [str(place / "Mine.py")], "KD.LOSS.IR_WEIGH": 1})


def test_a_method_of_ours_ignores_the_keys_that_a_fork_adds_to_its_section_and_says_so(tmp_path):
    place = checkout(tmp_path / "fork", Mine=METHOD.format(name="Mine"))
    words = {"PLUGINS": [str(place / "Mine.py")], "DISTILLER.TYPE": "KD"}
    cfg = load_cfg(None, words | {"KD.LOSS.IR_WEIGHT": 0.25})
    assert (cfg.KD.TEMPERATURE, cfg.SOLVER.EPOCHS) == (4.0, 240), "the fork's defaults are for its own methods"
    assert without_effect(situation(cfg, in_files=False)) == [
        "KD.LOSS.IR_WEIGHT 0.25 has no effect here: no method of this run reads it"
    ]
    tiny_distiller("KD")(tiny_batch())


def test_a_class_whose_name_is_taken_is_registered_with_its_forks_name(tmp_path, capsys):
    place = checkout(tmp_path / "fork", KD=METHOD.format(name="KD"))
    ours = DISTILLERS["KD"]
    method = method_of(place / "KD.py", "KD@fork")
    assert "fork: DISTILLER.TYPE KD is this project's own method; the one of this file is DISTILLER.TYPE KD@fork" in (
        capsys.readouterr().out
    )
    assert (DISTILLERS["KD"], method.of_fork, method.read["temperature"]) == (ours, "fork", 2.0)


def test_two_forks_with_the_same_files_each_see_their_own(tmp_path):
    for name, rate in (("one", 0.5), ("two", 0.75)):
        checkout(tmp_path / name, rate, KD=METHOD.format(name="KD"))
    for name, rate in (("one", 0.5), ("two", 0.75), ("one", 0.5)):
        file = tmp_path / name / "mdistiller/distillers/KD.py"
        method = method_of(file, f"KD@{name}")
        assert (method.of_fork, method.read["rate"]) == (name, rate)
        with pytest.raises(PluginError, match=f"{name}/mdistiller/distillers/KD.py:7: KD: x"):
            raise PluginError(type(method), "x")


def test_a_file_out_of_its_checkout_sees_stand_ins_and_its_own_folder(tmp_path):
    text = METHOD.format(name="Mine").replace("from ..engine.helper", "from .helper").replace(
        "class Mine", 'from ..engine.cfg import CFG\nCFG.EXPERIMENT.STANDARDISED = True\nCFG.warmup = 20\n'
        'CFG.folder = None\nCFG.KD.LOSS.IR_WEIGHT = 0.5\nCFG.SOLVER.EXTRA = CFG.KD.clone()\n'
        'CFG.SOLVER.EXTRA.RATE = RATE\n'
        "class Mine",
    )  # fmt: skip
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Mine.py").write_text(text.replace("class Mine", f"class Mine{name}"))
        (tmp_path / name / "helper.py").write_text(f"RATE = {1.0 if name == 'one' else 2.0}\n")
    first = method_of(tmp_path / "one/Mine.py", "MINEONE").read
    assert (first["size"], first["temperature"], first["ir"], first["standardised"]) == ([32, 32], 4.0, 0.5, True)
    second = method_of(tmp_path / "two/Mine.py", "MINETWO", "SOLVER.EXTRA.RATE", "3").read
    assert (first["rate"], second["rate"]) == (1.0, 3.0)


def test_losses_that_are_no_scalars_are_averaged_as_in_mdistillers_trainer(tmp_path):
    place = checkout(tmp_path / "fork", Mine=METHOD.format(name="Mine"))
    load_cfg(None, {"PLUGINS": [str(place / "Mine.py")]})
    logits, terms = tiny_distiller("MINE_OF_FORK")(tiny_batch())
    cross_entropy = F.cross_entropy(logits, tiny_batch().target)
    for name, value in (("loss_ce", cross_entropy), ("vector", cross_entropy), ("number", torch.tensor(0.25))):
        torch.testing.assert_close(terms[name].weighted, value)
        assert terms[name].value.shape == ()


def test_a_key_that_the_fork_sets_outside_its_config_can_be_set_and_is_asked_for(tmp_path):
    text = METHOD.format(name="Mine").replace("cfg.warmup", "cfg.scales or cfg.warmup.bit_length()")
    place = checkout(tmp_path / "fork", Mine=text)
    words = {"PLUGINS": [str(place / "Mine.py")], "DISTILLER.TYPE": "MINE_OF_FORK"}
    assert load_cfg(None, words | {"scales": "[1, 2]"}).scales == "[1, 2]"
    assert tiny_distiller("MINE_OF_FORK", "scales", "[1, 2]").method.read["warmup"] == [1, 2]
    with pytest.raises(PluginError, match="Mine.py:7: Mine: it reads cfg.scales, which no `CFG` has: set scales"):
        tiny_distiller("MINE_OF_FORK")


def test_a_loss_with_the_name_of_the_total_gets_another(tmp_path):
    place = checkout(tmp_path / "fork", Mine=METHOD.format(name="Mine").replace('"vector"', '"loss"'))
    load_cfg(None, {"PLUGINS": [str(place / "Mine.py")]})
    assert set(tiny_distiller("MINE_OF_FORK")(tiny_batch())[1]) == {"loss_ce", "loss_of_method", "number"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def __init__(self, student, cfg):", r"Mine.py:7: Mine: its constructor must take \(student, teacher, cfg\)"),
        ("def forward_train(self, image, logits_of_other):", "`forward_train` requires logits_of_other; supported"),
    ],
)
def test_a_class_that_cannot_be_called_here_is_refused_when_it_is_imported(text, message, tmp_path):
    old = "def __init__(self, student, teacher, cfg):" if "__init__" in text else (
        "def forward_train(self, image, target, **kwargs):"
    )  # fmt: skip
    place = checkout(tmp_path / "fork", Mine=METHOD.format(name="Mine").replace(old, text))
    with pytest.raises(PluginError, match=message):
        load_cfg(None, {"PLUGINS": [str(place / "Mine.py")]})
    (place / "Mine.py").write_text(METHOD.format(name="Mine"))
    assert method_of(place / "Mine.py", "MINE_OF_FORK").of_fork == "fork", "once it is mended"


def test_the_config_of_a_fork_that_needs_a_missing_package_is_named(tmp_path):
    place = checkout(tmp_path / "fork", Mine=METHOD.format(name="Mine"))
    (place.parent / "engine/helper.py").write_text("import no_such_package\n")
    with pytest.raises(ConfigError, match=r"No module named 'no_such_package' .*engine/helper.py:1"):
        load_cfg(None, {"PLUGINS": [str(place / "Mine.py")]})


def test_a_fault_in_a_step_names_the_forks_file_and_line(tmp_path, capsys):
    place = checkout(tmp_path / "fork", Mine=METHOD.format(name="Mine").replace("each.mean()", "unknown_name"))
    load_cfg(None, {"PLUGINS": [str(place / "Mine.py")]})
    assert guarded(lambda argv: tiny_distiller("MINE_OF_FORK")(tiny_batch()), []) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {place}/Mine.py:20: NameError: name 'unknown_name' is not defined"), line


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("random.sample(range(2), 5)", "ValueError: Sample larger than population or is negative (an error in this"),
        ("a, b = (1,)", "ValueError: not enough values to unpack (expected 2, got 1) (an error in this file"),
        ("open('no such file')", "FileNotFoundError: [Errno 2] No such file or directory: 'no such file' (this file "
                                 "opens it; a relative path starts at the working directory, {cwd})"),
    ],
)  # fmt: skip
def test_a_fault_in_a_constructor_names_the_forks_file_and_line(statement, words, tmp_path, capsys, monkeypatch):
    text = METHOD.format(name="Mine").replace("self.weight = torch", f"import random; {statement}; self.weight = torch")
    place = checkout(tmp_path / "fork", Mine=text)
    load_cfg(None, {"PLUGINS": [str(place / "Mine.py")]})
    monkeypatch.chdir(tmp_path)
    assert guarded(lambda argv: tiny_distiller("MINE_OF_FORK"), []) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {place}/Mine.py:15: {words.format(cwd=tmp_path)}"), line


def test_a_tensor_that_the_fork_saved_on_a_cuda_device_is_loaded_on_a_cpu(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(torch.arange(3.0), tmp_path / "costs.pth")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(tmp_path / "costs.pth")
    text = METHOD.format(name="Mine").replace("torch.ones(1)", f"torch.load('{tmp_path}/costs.pth')")
    place = checkout(tmp_path / "fork", Mine=text)
    before = torch.load
    assert method_of(place / "Mine.py", "MINE_OF_FORK", "EXPERIMENT.DEVICE", "cpu").weight.tolist() == [0, 1, 2]
    assert torch.load is before


def test_what_a_constructor_itself_says_of_a_value_is_the_message(tmp_path):
    text = METHOD.format(name="Mine").replace("self.weight = torch", "raise ValueError('x is 3'); self.weight = torch")
    place = checkout(tmp_path / "fork", Mine=text)
    load_cfg(None, {"PLUGINS": [str(place / "Mine.py")]})
    with pytest.raises(ConfigError, match="^x is 3$"):
        tiny_distiller("MINE_OF_FORK")


def test_a_config_in_a_checkout_says_which_file_has_its_method(tmp_path):
    place = checkout(tmp_path / "fork", Mine=METHOD.format(name="Mine"))
    (tmp_path / "fork/configs").mkdir()
    for text in ("warmup: 7\n", ""):
        (tmp_path / "fork/configs/c.yaml").write_text("DISTILLER: {TYPE: MINE_OF_FORK}\n" + text)
        with pytest.raises(ConfigError) as e:
            load_cfg(tmp_path / "fork/configs/c.yaml")
        first, second = str(e.value).splitlines()
        assert "unknown key warmup" in first if text else "unknown method 'MINE_OF_FORK'" in first
        assert second.startswith(f"{tmp_path}/fork/configs/c.yaml: ")
        assert second.endswith(f"PLUGINS [{place}/Mine.py]")
    cfg = load_cfg(tmp_path / "fork/configs/c.yaml", {"PLUGINS": [str(place / "Mine.py")]})
    assert cfg.DISTILLER.TYPE == "MINE_OF_FORK"
    with pytest.raises(ConfigError, match="^overrides: unknown key wormup; did you mean warmup.*$"):
        load_cfg(tmp_path / "fork/configs/c.yaml", {"PLUGINS": [str(place / "Mine.py")], "wormup": 1})


def test_a_config_in_a_checkout_whose_method_cannot_be_imported_says_that_alone(tmp_path):
    place = checkout(tmp_path / "fork", Mine="import no_such_package\n" + METHOD.format(name="Mine"))
    (tmp_path / "fork/c.yaml").write_text("DISTILLER: {TYPE: MINE_OF_FORK}\n")
    with pytest.raises(ConfigError, match=r"^PLUGINS names .*No module named 'no_such_package' \(.*Mine.py:1\)$"):
        load_cfg(tmp_path / "fork/c.yaml", {"PLUGINS": [str(place / "Mine.py")]})


def test_a_section_of_a_fork_where_a_value_is_here_is_replaced_on_the_command_line(tmp_path):
    place = checkout(tmp_path / "fork", Mine=METHOD.format(name="Mine"))
    (tmp_path / "c.yaml").write_text("SOLVER: {SCHEDULE: {TYPE: COSINE}}\nDISTILLER: {TYPE: MINE_OF_FORK}\n")
    words = ["PLUGINS", f"[{place}/Mine.py]"]
    with pytest.raises(
        ConfigError,
        match=r"c.yaml:1: SOLVER.SCHEDULE is \{'TYPE': 'COSINE'\}; it must be text in UTF-8 "
        "without control characters; "
        "`SOLVER.SCHEDULE VALUE` on the command line replaces this section",
    ):
        load_cfg(tmp_path / "c.yaml", words)
    assert load_cfg(tmp_path / "c.yaml", [*words, "SOLVER.SCHEDULE", "cosine"]).SOLVER.SCHEDULE == "cosine"


def test_a_forks_trainer_is_refused_with_what_to_write_instead():
    with pytest.raises(ConfigError, match=r"SOLVER.TRAINER is 'ours'; .* base gives a method its views"):
        load_cfg(None, ["SOLVER.TRAINER", "ours"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar/resnet8", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]),
        ("cifar/resnet32x4", ["layer1.4.bn2", "layer2.4.bn2", "layer3.4.bn2"]),
        ("cifar/ResNet50", ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
        ("cifar/wrn_16_2", ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]),
        ("cifar/vgg8", ["block1.1", "block2.1", "block3.1", "block4.1"]),
        ("cifar/MobileNetV2", ["blocks.1.1.conv.7", "blocks.2.2.conv.7", "blocks.4.2.conv.7", "blocks.6.0.conv.7"]),
        ("imagenet/ResNet34", ["layer2.3.bn2", "layer3.5.bn2", "layer4.2.bn2"]),
        ("imagenet/MobileNetV1", ["model.3.4", "model.5.4", "model.11.4", "model.13.4"]),
    ],
)
def test_networks_list_the_batch_norms_that_mdistillers_list(name, expected):
    """The names are those that mdistiller's networks returned at commit a08d46f."""
    family, name = name.split("/")
    network = build_model(name, family, 10)
    names = {id(module): key for key, module in network.named_modules()}
    assert [names[id(bn)] for bn in network.get_bn_before_relu()] == expected


def test_a_network_without_such_batch_norms_says_so():
    with pytest.raises(ConfigError, match="get_bn_before_relu.*choose another teacher"):
        build_model("ShuffleV1", "cifar", 10).get_bn_before_relu()
