"""Config: all errors are reported together by key, inheritance, no code in a file is ever run."""

import contextlib
import functools
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.config import dump_cfg, flatten, keywords
from mdistiller_dfpt.config.compose import composed_runs
from mdistiller_dfpt.config.effect import deciding_values, without_effect
from mdistiller_dfpt.config.keys import REMOVED
from mdistiller_dfpt.config.sections import default_cfg
from mdistiller_dfpt.distillers.choice import choice, situation
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.build import check_config
from mdistiller_dfpt.launch.networks import check_networks
from mdistiller_dfpt.launch.smoke import smoke

ROOT = Path(__file__).parents[2]
CONFIGS = [ROOT / "configs" / f"{name}.yaml" for name in composed_runs(ROOT / "configs")]
GOLDEN = json.loads((ROOT / "tests/fixtures/mdistiller_config_keys.json").read_text())


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def faults(*args) -> str:
    with pytest.raises(ConfigError) as info:
        load_cfg(*args)
    return str(info.value)


def test_mdistillers_keys_keep_their_names_and_types():
    flat = flatten(default_cfg())
    for key, value in GOLDEN.items():
        fits = isinstance(flat[key], type(value)) or (isinstance(value, int) and isinstance(flat[key], float))
        assert fits, f"{key} is {flat[key]!r} here and {value!r} there"


def test_every_config_loads_names_networks_that_exist_and_sets_no_key_without_effect():
    faults, load_once, checked = [], functools.lru_cache(load_cfg), set()
    for path in CONFIGS:
        try:
            cfg = load_once(path.resolve())
            in_memory = cfg.DATASET.TYPE in ("digits", "cifar100") and cfg.DATASET.RECIPE == "published"
            lines = said(cfg, in_files=not in_memory)
            d = cfg.DISTILLER
            if cfg.DISTILLER.TYPE != "NONE":  # a pair names its teacher, which some methods and kinds do not use
                lines = [line for line in lines if not line.endswith("network teaches in this run")]
            faults += [f"{path}: {line}" for line in lines]
            if (names := (cfg.MODEL.FAMILY, d.STUDENT, d.TEACHER, *d.ASSISTANTS)) not in checked:
                check_networks(cfg)
                checked.add(names)
            if choice(cfg).is_taught and not (cfg.DISTILLER.TEACHER_CKPT or "").startswith("pretrained"):
                teacher = load_once(Path(cfg.DISTILLER.TEACHER_CFG).resolve())
                found = (teacher.DISTILLER.STUDENT, teacher.DATASET.TYPE)
                if found != (cfg.DISTILLER.TEACHER, cfg.DATASET.TYPE):
                    faults.append(f"{path}: its TEACHER_CFG trains {found}")
        except ConfigError as e:
            faults.append(f"{path}: {e}")
    assert len(CONFIGS) > 650
    assert faults == []


def test_all_faults_are_reported_at_once_with_file_line_and_choice(tmp_path):
    path = write(
        tmp_path, "c.yaml", "SOLVER:\n  BATCHSIZE: 3\n  LR: -1\n  EPOCHS: ten\nKD:\n  TEMPERATURE: 0\nDISTILLER: 3\n"
    )
    text = faults(path, ["SOLVER.MOMENTUM", "1.5", "LOG.WANDB", "maybe", "SOLVER.NO", "1"])
    for words in (
        f"{path}:2: unknown key SOLVER.BATCHSIZE; did you mean SOLVER.BATCH_SIZE",
        f"{path}:3: SOLVER.LR is -1.0; it must be > 0",
        f"{path}:4: SOLVER.EPOCHS is 'ten'; it must be a whole number",
        f"{path}:6: KD.TEMPERATURE is 0.0; it must be in (0, 1000]",
        f"{path}:7: DISTILLER is a section",
        "command line: SOLVER.MOMENTUM is 1.5; it must be in [0, 1)",
        "command line: LOG.WANDB is 'maybe'; it must be True or False",
        "command line: unknown key SOLVER.NO",
    ):
        assert words in text
    assert len(text.splitlines()) == 8


def test_a_later_layer_mends_a_value_of_an_earlier_one_and_only_that(tmp_path):
    write(tmp_path, "base.yaml", "SOLVER: {EPOCHS: ten, LR: fast, BATCHES: 1}\n")
    path = write(tmp_path, "c.yaml", "_BASE_: base.yaml\nSOLVER: {LR: 0.5}\n")
    text = faults(path, ["SOLVER.EPOCHS", "3"])
    assert "unknown key SOLVER.BATCHES" in text
    assert len(text.splitlines()) == 1
    assert "SOLVER.EPOCHS is 'eleven'" in faults(path, {"SOLVER.EPOCHS": "eleven"})
    write(tmp_path, "base.yaml", "SOLVER: {EPOCHS: ten, LR: fast}\n")
    assert (load_cfg(path, {"SOLVER.EPOCHS": 3}).SOLVER.EPOCHS, load_cfg(path, {"SOLVER.EPOCHS": 3}).SOLVER.LR) == (
        3,
        0.5,
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.LR"], "pairs KEY VALUE; 'SOLVER.LR' has no value"),
        (["SOLVER.LR", "nan"], "SOLVER.LR is 'nan'"),
        (["SOLVER.LR", ".nan"], "SOLVER.LR is nan"),
        (["SOLVER.LR", "1e999"], "SOLVER.LR is inf"),
        (["SOLVER.LR", "null"], "SOLVER.LR is None"),
        (["SOLVER.EPOCHS", "2.5"], "SOLVER.EPOCHS is 2.5"),
        (["SOLVER.EPOCHS", "'2'"], "SOLVER.EPOCHS is '2'"),
        (["SOLVER.LR_DECAY_STAGES", "[3, 2]"], "increasing whole numbers"),
        (["SOLVER.LR_DECAY_STAGES", "[a]"], "SOLVER.LR_DECAY_STAGES is ['a']"),
        (["SOLVER", "1"], "SOLVER is a section"),
        (["A..B", "1"], "unknown key A..B"),
        (["EXPERIMENT.NAME", "../../x"], "EXPERIMENT.NAME is '../../x'"),
        (["EXPERIMENT.NAME", "/abs"], "EXPERIMENT.NAME is '/abs'"),
        (["EXPERIMENT.TAG", "a/.&./b/.."], "EXPERIMENT.TAG is 'a/.&./b/..'; it must be components of up to 128"),
        (["EXPERIMENT.TAG", "."], "EXPERIMENT.TAG is '.'"),
        (["EXPERIMENT.NAME", "字" * 100], "EXPERIMENT.NAME is '字字"),
        (["EXPERIMENT.TAG", "a//b"], "EXPERIMENT.TAG is 'a//b'"),
        (["EXPERIMENT.TAG", "[" + "a" * 128], "EXPERIMENT.TAG is '[aaaa"),
        (["SOLVER.LR", "__import__('os')"], "SOLVER.LR is"),
        (["SOLVER.LR", "-" * 100_000 + "1"], "SOLVER.LR is"),
        (["SOLVER.LR", "[" * 5000], "SOLVER.LR is"),
        (["DISTILLER.TYPE", "K\0D"], "DISTILLER.TYPE is 'K\\x00D'"),
    ],
)
def test_bad_overrides_are_refused_by_name(overrides, message):
    assert message in faults(None, overrides)


def test_an_int_is_accepted_as_a_float_and_scientific_notation_is_a_number(tmp_path):
    cfg = load_cfg(write(tmp_path, "c.yaml", "SOLVER: {LR: 1, WEIGHT_DECAY: 5e-4}\n"), ["KD.TEMPERATURE", "3"])
    assert (cfg.SOLVER.LR, cfg.SOLVER.WEIGHT_DECAY, cfg.KD.TEMPERATURE) == (1.0, 0.0005, 3.0)


def test_bases_are_merged_in_order_and_their_files_are_named(tmp_path):
    write(tmp_path, "a.yaml", "SOLVER: {EPOCHS: 1, LR: 0.5}\n")
    write(tmp_path, "b.yaml", "_BASE_: a.yaml\nSOLVER: {EPOCHS: 2}\n")
    path = write(tmp_path, "c.yaml", "_BASE_: b.yaml\nSOLVER: {BATCH_SIZE: 8}\n")
    cfg = load_cfg(path)
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.LR, cfg.SOLVER.BATCH_SIZE) == (2, 0.5, 8)
    write(tmp_path, "a.yaml", "SOLVER: {EPOCH: 1}\n")
    assert f"{tmp_path / 'a.yaml'}:1: unknown key SOLVER.EPOCH" in faults(path)
    write(tmp_path, "a.yaml", "_BASE_: c.yaml\n")
    assert "_BASE_ refers back to this file" in faults(path)


def test_teacher_cfg_is_relative_to_the_file_that_names_it(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, "t.yaml", "")
    write(tmp_path / "sub", "base.yaml", "DISTILLER: {TEACHER_CFG: ../t.yaml}\n")
    cfg = load_cfg(write(tmp_path, "c.yaml", "_BASE_: sub/base.yaml\n"))
    assert Path(cfg.DISTILLER.TEACHER_CFG).resolve() == tmp_path / "t.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: !!python/object/apply:os.system ['touch MARK']\n", "not plain data"),
        ("SOLVER: {LR: !!python/name:os.system }\n", "not plain data"),
        ("SOLVER: {LR: 1}\nSOLVER: {LR: 2}\n", "c.yaml:2: SOLVER is set twice"),
        ("A: &a [1]\nB: *a\n", "aliases"),
        ("- 1\n- 2\n", "a mapping of keys"),
        ("SOLVER: {LR: [", "c.yaml:1: not valid yaml: while parsing a flow node, expected the node content"),
        ("A: 1\n\tB: 2\n", "c.yaml:2: not valid yaml: while scanning for the next token, found character '\\t'"),
        ("A: 1\nB: \x01\n", "c.yaml:2: not valid yaml: the character #x0001 is not allowed"),
        ("SOLVER: {LR: 1}\n---\nB: 2\n", "c.yaml:2: not valid yaml: expected a single document"),
        ("? [a]\n: 1\n", "a key must be a word"),
        ("_BASE_: 3\n", "_BASE_ must be a yaml file"),
        ("_BASE_: gone.yaml\n", "c.yaml:1: _BASE_ is gone.yaml; no such config file: a path starts at"),
        ("SOLVER.EPOCHS: 3\n", "c.yaml:1: unknown key SOLVER.EPOCHS; in a yaml file, write SOLVER: {EPOCHS: ...}"),
    ],
)
def test_files_are_data(tmp_path, text, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = faults(write(tmp_path, "c.yaml", text))
    assert message in found
    assert len(found.splitlines()) == 1
    assert not (tmp_path / "MARK").exists()


def test_python_configs_are_not_read(tmp_path):
    path = write(tmp_path, "c.py", f"open({str(tmp_path / 'MARK')!r}, 'w')\n")
    assert "a config must be a .yaml file" in faults(path)
    link = tmp_path / "c.yaml"
    link.symlink_to(path)
    assert "a config must be a .yaml file" in faults(link)
    assert not (tmp_path / "MARK").exists()


def test_unreadable_files_are_named(tmp_path):
    assert "no such config file" in faults(tmp_path / "gone.yaml")


@pytest.mark.parametrize("text", ["null", "None"])
def test_a_key_that_a_file_sets_is_unset_by_a_command_and_by_a_file(text, tmp_path):
    (tmp_path / "a.yaml").write_text("DISTILLER: {STUDENT_CKPT: pretrained}\nSOLVER: {CLIP_NORM: 1.0}\n")
    words = ["DISTILLER.STUDENT_CKPT", text, "SOLVER.CLIP_NORM", text]
    (tmp_path / "b.yaml").write_text(
        f"_BASE_: a.yaml\nDISTILLER: {{STUDENT_CKPT: {text}}}\nSOLVER: {{CLIP_NORM: {text}}}\n"
    )
    for cfg in (load_cfg(tmp_path / "a.yaml", words), load_cfg(tmp_path / "b.yaml")):
        assert (cfg.DISTILLER.STUDENT_CKPT, cfg.SOLVER.CLIP_NORM) == (None, None)
    cfg = load_cfg(None, ["EXPERIMENT.NAME", text])
    assert cfg["EXPERIMENT"]["NAME"] == text


def test_a_config_inherits_from_a_packaged_one_by_name_and_first_from_one_beside_it(tmp_path):
    (tmp_path / "mine.yaml").write_text("_BASE_: digits/kd/res20_res8\nKD: {TEMPERATURE: 7.0}\n")
    cfg = load_cfg(tmp_path / "mine.yaml")
    assert (cfg.DATASET.TYPE, cfg.DISTILLER.STUDENT, cfg.KD.TEMPERATURE) == ("digits", "resnet8", 7.0)
    (tmp_path / "digits/kd").mkdir(parents=True)
    (tmp_path / "digits/kd/res20_res8.yaml").write_text("DISTILLER: {STUDENT: resnet14}\n")
    cfg = load_cfg(tmp_path / "mine.yaml")
    assert (cfg.DATASET.TYPE, cfg.DISTILLER.STUDENT) == ("cifar100", "resnet14")
    (tmp_path / "d.yaml").mkdir()
    assert f"{tmp_path / 'd.yaml'}: Is a directory" in faults(tmp_path / "d.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in faults(tmp_path / "b.yaml")


def test_a_dumped_config_loads_to_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cfg = load_cfg("configs/cifar100/dfptkd/res32x4_res8x4.yaml", ["SOLVER.LR_DECAY_STAGES", "[]"])
    again = load_cfg(write(tmp_path, "c.yaml", dump_cfg(cfg)))
    assert dump_cfg(again) == dump_cfg(cfg)


def test_a_run_is_named_after_the_path_of_its_config(tmp_path):
    assert load_cfg(ROOT / "configs/digits/kd/res20_res8.yaml").EXPERIMENT.NAME == "digits/kd/res20_res8"
    cfg = load_cfg(write(tmp_path, "my run é.yaml", ""))
    assert f"{tmp_path.name}/my_run_é" == cfg.EXPERIMENT.NAME
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    names = [load_cfg(write(tmp_path / folder, "kd.yaml", "")).EXPERIMENT.NAME for folder in ("a", "b")]
    assert names == ["a/kd", "b/kd"], "files of one name in two folders do not share a place"


def test_a_nodes_keys_become_keywords():
    cfg = default_cfg()
    assert keywords(cfg.KD) == {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9, "extra_weight": 0.0}
    assert {"prompt_r1", "prompt_ce_weight", "ce_weight"} <= set(keywords(cfg.DFPTKD))


_KEYS = st.sampled_from(
    [*flatten(default_cfg()), "DISTILLER.PATHS", "DISTILLER.PATHS.prompt", "SOLVER", "KD.", "", "X.Y"]
)
_VALUES = st.one_of(st.text(max_size=20), st.integers().map(str), st.floats().map(str), st.just("[1, {a: b}]"))


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(_KEYS, _VALUES), max_size=4), st.text(max_size=80))
def test_only_config_errors_escape(tmp_path, pairs, text):
    with contextlib.suppress(ConfigError):
        load_cfg(None, [word for pair in pairs for word in pair])
    with contextlib.suppress(ConfigError):
        load_cfg(write(tmp_path, "f.yaml", text.encode("utf-8", "ignore").decode()))


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        (["DISTILLER.STUDENT", "MobileNetV2"], 0.01),
        (["DISTILLER.STUDENT", "ShuffleV1"], 0.01),
        (["DISTILLER.STUDENT", "resnet8"], 0.05),
        (["DISTILLER.STUDENT", "MobileNetV2", "SOLVER.LR", "0.2"], 0.2),
    ],
)
def test_the_default_learning_rate_depends_on_the_student_however_it_is_set(words, rate):
    assert rate == load_cfg("configs/cifar100/kd/res56_res20.yaml", words).SOLVER.LR


def test_the_network_family_depends_on_the_dataset_unless_it_is_set():
    assert load_cfg(None, ["DATASET.TYPE", "imagenet"]).MODEL.FAMILY == "imagenet"
    assert load_cfg(None, ["DATASET.TYPE", "cub200"]).MODEL.FAMILY == "cub200"
    assert load_cfg(None, ["DATASET.TYPE", "folder", "MODEL.FAMILY", "cifar"]).MODEL.FAMILY == "cifar"
    assert load_cfg(None).MODEL.FAMILY == "cifar"


def test_pretrained_is_not_resolved_as_a_path():
    assert load_cfg("configs/imagenet/kd/r34_r18.yaml").DISTILLER.TEACHER_CKPT == "pretrained:IMAGENET1K_V1"


# As in mdistiller's configs/cifar100/crd.yaml: upper-case TYPE, the method's trainer, explicit shapes
IN_CIRCULATION = """
EXPERIMENT:
  NAME: ""
  TAG: "crd,res32x4,res8x4"
  PROJECT: "cifar100_baselines"
DISTILLER:
  TYPE: "CRD"
  TEACHER: "resnet32x4"
  STUDENT: "resnet8x4"
SOLVER:
  BATCH_SIZE: 64
  EPOCHS: 240
  LR: 0.05
  LR_DECAY_STAGES: [150, 180, 210]
  LR_DECAY_RATE: 0.1
  WEIGHT_DECAY: 0.0005
  MOMENTUM: 0.9
  TYPE: "SGD"
  TRAINER: "crd"
CRD:
  FEAT:
    STUDENT_DIM: 256
    TEACHER_DIM: 256
LOG:
  TENSORBOARD_FREQ: 100
"""


def said(cfg, *, in_files=False):
    return without_effect(situation(cfg, in_files=in_files))


def test_mdistillers_yaml_runs_unchanged_and_keys_without_effect_are_reported(tmp_path):
    cfg = load_cfg(write(tmp_path, "crd.yaml", IN_CIRCULATION), ["CRD.NCE.K", "64"])
    assert said(cfg) == [
        "SOLVER.TRAINER crd has no effect here: one loop serves all methods",
        "LOG.TENSORBOARD_FREQ 100 has no effect here: every epoch is written",
    ]
    found = smoke(cfg)
    assert found.keys() == {"ce", "feat", "loss", "top1", "top5", "distillation_weight", "gradient_to_kd"}
    assert found["ce"] == pytest.approx(math.log(100), rel=0.2), "an untrained student on random labels"
    assert said(load_cfg()) == []
    dot = load_cfg(write(tmp_path, "dot.yaml", IN_CIRCULATION.replace('"crd"', '"dot"').replace('"CRD"', '"KD"')))
    assert said(dot)[0].startswith("LOG")
    found = smoke(dot)
    assert found.keys() == {"ce", "kd", "loss", "top1", "top5", "distillation_weight", "gradient_to_kd"}
    assert found["ce"] == pytest.approx(0.1 * math.log(100), rel=0.2)


@pytest.mark.parametrize(("data", "lines"), [("digits", 1), ("cifar100", 1), ("folder", 0), ("a_users", 0)])
def test_a_share_for_testing_of_data_with_a_test_set_is_said_to_have_no_effect(data, lines):
    cfg = load_cfg(None, ["DATASET.TYPE", data, "DATASET.TEST.SHARE", "0.2"])
    assert said(cfg) == ["DATASET.TEST.SHARE 0.2 has no effect here: the dataset has a test set of its own"] * lines
    assert ("DATASET.TEST.SHARE" in deciding_values(situation(cfg, in_files=False))) == (not lines)


def test_two_steps_are_of_the_configs_dataset_and_size(tmp_path):
    words = {"DATASET.TYPE": "imagenet", "DISTILLER.TYPE": "REVIEWKD", "DISTILLER.TEACHER": "ResNet18",
             "DISTILLER.STUDENT": "ResNet18", "REVIEWKD.SHAPES": [1, 1, 2, 4, 8]}  # fmt: skip
    found = smoke(load_cfg(None, {**words, "DATASET.SIZE": 32}))
    assert found["ce"] == pytest.approx(math.log(1000), rel=0.2)
    unknown = load_cfg(None, {"DATASET.TYPE": "cub2011", "DISTILLER.STUDENT": "ResNet34"})
    for use in (smoke, check_config):
        with pytest.raises(ConfigError, match=r"DATASET.TYPE: unknown dataset 'cub2011'; did you mean cub200"):
            use(unknown)


@pytest.mark.parametrize(("key", "words"), [
    ("DISTILLER.TEACHER_TABLE", "it was renamed to DISTILLER.LOGITS_CACHE"),
    ("SOLVER.CUDA_GRAPH", "it was removed: delete it"),
    ("TAKD.ASSISTANTS", "it was renamed to DISTILLER.ASSISTANTS"),
])  # fmt: skip
def test_a_key_of_an_earlier_version_says_what_to_do(key, words, tmp_path):
    section, name = key.split(".")
    path = write(tmp_path, "old.yaml", f"{section}:\n  {name}: [x]\n")
    assert faults(path) == f"{path}:2: unknown key {key}: {words}"
    assert faults(None, [key, "x"]) == f"command line: unknown key {key}: {words}"


def test_a_file_in_which_an_earlier_version_wrote_all_its_defaults_still_loads(tmp_path):
    sections: dict = {}
    for key, entry in REMOVED.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = entry.default
    path = write(tmp_path, "config.yaml", json.dumps(sections))
    assert dump_cfg(load_cfg(path)) == dump_cfg(load_cfg(None, ["EXPERIMENT.NAME", f"{tmp_path.name}/config"]))
    assert "it was removed" in faults(None, ["DISTILLER.TEACHER_AHEAD", "1"]), "a command-line key is set on purpose"


def test_paths_and_their_weights_come_from_files_and_from_the_command_line(tmp_path):
    base = write(tmp_path, "base.yaml", "DISTILLER: {PATHS: {teacher: 1, prompt: 2.5}}\n")
    path = write(tmp_path, "c.yaml", f"_BASE_: {base.name}\nDISTILLER: {{PATHS: {{prompt: 4}}}}\n")
    cfg = load_cfg(path)
    assert dict(cfg.DISTILLER.PATHS) == {"teacher": 1.0, "prompt": 4.0}
    assert dict(load_cfg(path, ["DISTILLER.PATHS.prompt", "8"]).DISTILLER.PATHS) == {"teacher": 1.0, "prompt": 8.0}
    assert dict(load_cfg(path, ["DISTILLER.PATHS", "{prompt: 3}"]).DISTILLER.PATHS) == {"prompt": 3.0}
    wrong = write(tmp_path, "wrong.yaml", "DISTILLER: {PATHS: {prompt: x}}\n")
    assert dict(load_cfg(wrong, ["DISTILLER.PATHS", "{prompt: 3}"]).DISTILLER.PATHS) == {"prompt": 3.0}
    for overrides, paths in (
        ({"DISTILLER.PATHS.prompt": 8}, {"teacher": 1.0, "prompt": 8.0}),
        ({"DISTILLER.PATHS": {"prompt": 3}}, {"prompt": 3.0}),
        ({"DISTILLER": {"PATHS": {"prompt": 3}}}, {"prompt": 3.0}),
        ({"DISTILLER.PATHS": {}}, {}),
    ):
        assert dict(load_cfg(path, overrides).DISTILLER.PATHS) == paths
    assert dump_cfg(load_cfg(write(tmp_path, "again.yaml", dump_cfg(cfg)))) == dump_cfg(cfg)
    bad = write(tmp_path, "bad.yaml", "DISTILLER:\n  PATHS:\n    teacher: -1\n    prompt: often\n")
    assert faults(bad, ["DISTILLER.PATHS.x", "[1]", "DISTILLER.PATHS", "3"]).splitlines() == [
        f"{bad}:3: DISTILLER.PATHS.teacher is -1.0; it must be a weight > 0",
        f"{bad}:4: DISTILLER.PATHS.prompt is 'often'; it must be a weight > 0",
        "command line: DISTILLER.PATHS.x is [1]; it must be a weight > 0",
        "command line: DISTILLER.PATHS is 3; it must be a mapping such as {teacher: 1.0}",
    ]
    for key, text in (("", "{teacher: 0}"), (".teacher", "[1"), (".teacher", "1" + 400 * "0"), (".", "1")):
        assert faults(None, [f"DISTILLER.PATHS{key}", text]).startswith("command line: DISTILLER.PATHS")
    assert dict(load_cfg(path, ["DISTILLER.PATHS", "{}"]).DISTILLER.PATHS) == {}, "the default of the kind again"


def test_lists_may_be_written_as_mdistillers_tuples(tmp_path):
    path = write(tmp_path, "c.yaml", "FITNET: {INPUT_SIZE: '(16, 16)'}\n")
    assert load_cfg(path).FITNET.INPUT_SIZE == [16, 16]
    assert load_cfg(None, ["FITNET.INPUT_SIZE", "(8, 8)"]).FITNET.INPUT_SIZE == [8, 8]
    assert "FITNET.INPUT_SIZE is '(8, 8'" in faults(None, ["FITNET.INPUT_SIZE", "(8, 8"])


@pytest.mark.parametrize("name", ["configs/digits/kd/res20_res8.yaml", "digits/kd/res20_res8.yaml"])
def test_a_path_of_the_checkout_names_the_config_of_the_package_where_it_is_not(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as info:
        load_cfg(name)
    assert str(info.value) == f"--cfg {name}: no such config file; the one of the package is --cfg digits/kd/res20_res8"
    assert load_cfg("digits/kd/res20_res8").DISTILLER.TYPE == "KD"
