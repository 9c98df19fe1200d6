"""Runs without a file of their own: composed of a method and a pair, listed, and found by name."""

import re
import shutil
from pathlib import Path

import pytest

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.commands import train
from mdistiller_dfpt.config.compose import composed_runs
from mdistiller_dfpt.config.yaml_reader import read_yaml
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.report.spec import load_table

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
METHOD = """_BASE_: ../base.yaml
DISTILLER: {TYPE: KD}
KD: {TEMPERATURE: 2.0}
_PAIRS_:
  big_small: {KD: {TEMPERATURE: 3.0}, SOLVER: {LR: 0.2}}
"""


@pytest.fixture
def configs(tmp_path):
    """A folder of configs with one method and two pairs."""
    files = {
        "base.yaml": "SOLVER: {EPOCHS: 7}\n", "mine/base.yaml": METHOD,
        "pairs/big_small.yaml": "DISTILLER: {TEACHER: resnet20, STUDENT: resnet8, TEACHER_CFG: ../t.yaml}\n",
        "pairs/a_b.yaml": "DISTILLER: {TEACHER: resnet20, STUDENT: MobileNetV2}\n", "t.yaml": "",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / "configs/data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "configs"


def test_a_run_is_composed_of_its_method_its_pair_and_what_the_method_says_of_the_pair(configs):
    cfg = load_cfg(configs / "data/mine/big_small.yaml")
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.LR, cfg.KD.TEMPERATURE) == (7, 0.2, 3.0)
    assert (cfg.DISTILLER.TYPE, cfg.DISTILLER.STUDENT) == ("KD", "resnet8")
    assert Path(cfg.DISTILLER.TEACHER_CFG).resolve() == (configs / "data/t.yaml").resolve()
    assert cfg.EXPERIMENT.NAME == "data/mine/big_small"
    other = load_cfg(configs / "data/mine/a_b.yaml", {"SOLVER.EPOCHS": 3, "KD": {"TEMPERATURE": 5}})
    assert (other.SOLVER.EPOCHS, other.SOLVER.LR, other.KD.TEMPERATURE) == (3, 0.01, 5.0)


def test_a_file_of_its_own_comes_before_composition_and_a_composed_run_can_be_inherited(configs):
    own = configs / "data/mine/a_b.yaml"
    own.write_text("_BASE_: big_small.yaml\nKD: {TEMPERATURE: 9.0}\n")
    cfg = load_cfg(own)
    assert (cfg.KD.TEMPERATURE, cfg.DISTILLER.STUDENT, cfg.SOLVER.LR) == (9.0, "resnet8", 0.2)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (METHOD.replace("{LR: 0.2}", "{LR: -1}"), r"base.yaml:5: SOLVER.LR is -1.0; it must be > 0"),
        (METHOD.replace("  big_small", "  big_smal"), r"base.yaml:5: _PAIRS_ names big_smal, which is not in pairs/"),
        (METHOD.replace("_PAIRS_:", "_PAIRS_: 3 #").partition("  big")[0], r"base.yaml:4: _PAIRS_ must be a mapping"),
    ],
)  # fmt: skip
def test_a_fault_in_what_a_method_says_of_a_pair_names_its_line(method, message, configs):
    (configs / "data/mine/base.yaml").write_text(method)
    with pytest.raises(ConfigError, match=message):
        load_cfg(configs / "data/mine/big_small.yaml")


def test_a_method_is_added_to_all_pairs_by_one_file(configs):
    before = composed_runs(configs)
    assert before == ["data/mine/a_b", "data/mine/big_small", "data/t"]
    shutil.copytree(configs / "data/mine", configs / "data/new")
    assert sorted(set(composed_runs(configs)) - set(before)) == ["data/new/a_b", "data/new/big_small"]
    assert composed_runs(configs, "new/big") == composed_runs(configs, "*new/big*") == ["data/new/big_small"]


def test_the_name_below_configs_is_enough_from_any_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cfg = load_cfg("cifar100/dkd_ls/res32x4_res8x4")
    assert (cfg.DKD.BETA, cfg.EXPERIMENT.NAME) == (72.0, "cifar100/dkd_ls/res32x4_res8x4")
    with pytest.raises(ConfigError, match="no such config; did you mean cifar100/dkd/res32x4_res8x4"):
        load_cfg("cifar100/dkd/res32x4_res8x")
    assert train.main(["--list", "/dkd/res32x4"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed == [f"cifar100/dkd/res32x4_{n}" for n in ("res8x4", "shuv1", "shuv2")] + [
        f"cub200/dkd/res32x4_{n}" for n in ("mv2", "shuv1")
    ]
    for name in listed:
        load_cfg(name)


def test_files_say_something_and_are_few():
    files = list(CONFIGS.rglob("*.yaml"))
    assert len(files) <= 450
    silent = []
    for path in files:
        values, _ = read_yaml(path)
        if set(values) <= {"_BASE_"} and not path.read_text().startswith("#"):
            silent.append(path)
    assert silent == []


def test_the_published_values_in_heads_are_those_of_the_tables():
    checked = 0
    for table in CONFIGS.glob("tables/cifar100_*.yaml"):
        for cell in load_table(table).cells.values():
            if not cell.overrides and cell.config.is_file():
                found = re.search(r"published: ([\d.]+)", cell.config.read_text())
                if cell.published is not None:
                    assert found, f"{cell.config} has no published value"
                    assert float(found[1]) == cell.published.value, cell.config
                    checked += 1
    assert checked > 80


def test_what_a_method_says_of_a_pair_is_of_its_own_dataset_and_in_its_base_alone(configs):
    other = configs / "other/mine"
    shutil.copytree(configs / "data/pairs", configs / "other/pairs")
    other.mkdir()
    (other / "base.yaml").write_text("_BASE_: ../../data/mine/base.yaml\n")
    assert load_cfg(other / "big_small.yaml").KD.TEMPERATURE == 2.0
    (other / "a_b.yaml").write_text("_BASE_: base.yaml\n_PAIRS_: {a_b: {KD: {TEMPERATURE: 7.0}}}\n")
    with pytest.raises(ConfigError, match=r"a_b.yaml:2: _PAIRS_ is for the base.yaml of a method"):
        load_cfg(other / "a_b.yaml")


def test_a_run_with_a_file_of_its_own_has_what_its_method_says_of_the_pair(configs):
    own = configs / "data/mine/big_small.yaml"
    own.write_text("_BASE_: [base.yaml, ../pairs/big_small.yaml]\nSOLVER: {EPOCHS: 9}\n")
    cfg = load_cfg(own)
    assert (cfg.KD.TEMPERATURE, cfg.SOLVER.LR, cfg.SOLVER.EPOCHS) == (3.0, 0.2, 9)
