"""Before training the student, a run finds or trains all its teachers, each network in its role."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mdistiller_dfpt import DATASETS, build_data, build_model, load_cfg
from mdistiller_dfpt.commands import evaluate
from mdistiller_dfpt.config.load import dump_cfg
from mdistiller_dfpt.errors import CheckpointError, ConfigError
from mdistiller_dfpt.launch.build import identity_of_run
from mdistiller_dfpt.launch.networks import build_networks
from mdistiller_dfpt.launch.run import config_of, run
from mdistiller_dfpt.launch.trained import run_of_assistant, trained_networks
from mdistiller_dfpt.models.external.adapt import AdaptedModel
from mdistiller_dfpt.runs.identity import write_identity

ROOT = Path(__file__).parents[2]
EVAL = evaluate.main
DIGITS = ["DATASET.TYPE", "digits", "SOLVER.EPOCHS", "1", "SOLVER.BATCH_SIZE", "256", "LOG.TENSORBOARD", "False",
          "DISTILLER.TEACHER", "resnet14", "DISTILLER.STUDENT", "resnet8", "EXPERIMENT.NAME", "d/taught"]  # fmt: skip


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checkpoint(name: str, seed: int = 0) -> str:
    """A file with a network's random weights."""
    torch.manual_seed(seed)
    torch.save({"model": build_model(name, num_classes=10).state_dict()}, f"{name}-{seed}.pth")
    return f"{name}-{seed}.pth"


def results_in(folder: Path) -> dict[str, dict]:
    """The results of each run below a folder, by directory, in the order in which they ended."""
    found = sorted(folder.rglob("results.json"), key=lambda p: p.stat().st_mtime_ns)
    return {p.parent.relative_to(folder).as_posix(): json.loads(p.read_text()) for p in found}


def test_a_teacher_and_a_student_of_one_name_have_each_their_own_stages():
    name = "tests.models.test_adapt:own_network"
    cfg = load_cfg(None, [*DIGITS, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", name, "DISTILLER.STUDENT", name,
                          "DISTILLER.TEACHER_STAGES", "['3']", "DISTILLER.STUDENT_STAGES", "['0', '3']"])  # fmt: skip
    networks = build_networks(cfg, build_data(cfg))
    assert isinstance(networks.teacher, AdaptedModel)
    assert isinstance(networks.student, AdaptedModel)
    assert list(networks.teacher.stage_names) == ["3"]
    assert list(networks.student.stage_names) == ["0", "3"]


def test_the_teacher_is_evaluated_as_it_is_where_the_student_is_of_the_same_name(cwd, capsys):
    """With a method that adds modules to the deployed student."""
    path = checkpoint("resnet8")
    (cwd / "c.yaml").write_text(
        "DATASET: {TYPE: digits}\n"
        f"DISTILLER: {{TYPE: SIMKD, TEACHER: resnet8, STUDENT: resnet8, TEACHER_CKPT: {path}}}\n"
    )
    assert EVAL(["--cfg", "c.yaml", "--teacher"]) == 0
    assert EVAL(["-m", "resnet8", "-c", path, "-d", "digits"]) == 0
    as_teacher, plain = capsys.readouterr().out.splitlines()
    assert as_teacher == plain
    assert plain.startswith(f"resnet8 {path}: top-1 ")


ENSEMBLE = [*DIGITS, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_KIND", "ensemble", "DISTILLER.OTHER_TEACHERS"]


@pytest.mark.parametrize("key", ["OTHER_TEACHER_CKPTS", "OTHER_TEACHER_CFGS"])
def test_each_other_teacher_needs_its_own_weights(key, cwd):
    cfg = load_cfg(None, [*ENSEMBLE, "[resnet8, resnet14]", f"DISTILLER.{key}", "[one]", "DISTILLER.TEACHER_CKPT",
                          checkpoint("resnet14")])  # fmt: skip
    with pytest.raises(ConfigError, match=f"DISTILLER.{key} has 1 entries and DISTILLER.OTHER_TEACHERS 2; each"):
        run(cfg)
    assert not (cwd / "output").exists()


def test_the_error_for_an_other_teacher_without_weights_names_its_key(cwd):
    words = [*ENSEMBLE, "[resnet8]", "DISTILLER.TEACHER_CKPT", checkpoint("resnet14")]
    for more, message in (
        ([], "no weights for the teacher resnet8: add `DISTILLER.OTHER_TEACHER_CKPTS PATH`"),
        (["DISTILLER.OTHER_TEACHER_CKPTS", "[gone.pth]"], "DISTILLER.OTHER_TEACHER_CKPTS is gone.pth; there is no"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run(load_cfg(None, [*words, *more]))


def test_assistants_are_trained_where_the_paths_name_one(cwd):
    words = [*DIGITS, "DISTILLER.TYPE", "KD", "DISTILLER.TEACHER_KIND", "assistants", "DISTILLER.TEACHER_CKPT",
             checkpoint("resnet14"), "DISTILLER.ASSISTANTS", "[resnet8]"]  # fmt: skip
    done = run(load_cfg(None, [*words, "DISTILLER.PATHS", "{assistant1: 1, teacher: 1}"]))
    assert {"assistant1.kd", "teacher.kd", "ce"} <= set(done["epochs"][0]["train"])


def test_an_ensemble_trains_its_teachers_first_and_keeps_them(cwd, capsys):
    common = "DATASET: {TYPE: digits}\nSOLVER: {EPOCHS: 1, BATCH_SIZE: 256}\nLOG: {TENSORBOARD: False}\n"
    for name, network in (("first", "resnet14"), ("second", "resnet8")):
        (cwd / f"{name}.yaml").write_text(f"{common}DISTILLER: {{STUDENT: {network}}}\n")
    words = [*ENSEMBLE, "[resnet8]", "DISTILLER.TEACHER_CFG", "first.yaml", "DISTILLER.OTHER_TEACHER_CFGS",
             "[second.yaml]", "DISTILLER.TEACHER_AUTO_TRAIN", "True"]  # fmt: skip
    done = run(load_cfg(None, words))
    assert list(results_in(cwd / "output")) == [f"{cwd.name}/first/seed1", f"{cwd.name}/second/seed1", "d/taught/seed1"]
    assert done["protocol"]["settings"]["DISTILLER.TEACHER_KIND"] == "ensemble"
    train = done["epochs"][0]["train"]
    assert train.keys() == {"ce", "kd", "loss", "top1", "top5", "distillation_weight", "gradient_to_kd"}
    assert train["loss"] == pytest.approx(train["ce"] + train["kd"], rel=1e-5)
    capsys.readouterr()
    each = run(load_cfg(None, [*words, "DISTILLER.PATHS", "{teacher1: 1, teacher2: 2}", "EXPERIMENT.TAG", "each"]))
    assert "training it first" not in capsys.readouterr().out
    assert {"teacher1.kd", "teacher2.kd", "ce"} <= set(each["epochs"][0]["train"])


def test_a_chain_of_assistants_is_trained_first_each_distilled_from_those_before_it(cwd, capsys):
    words = [*DIGITS, "DISTILLER.TYPE", "TAKD", "DISTILLER.TEACHER_CKPT", checkpoint("resnet20"), "DISTILLER.TEACHER",
             "resnet20", "DISTILLER.ASSISTANTS", "[resnet14, resnet8]"]  # fmt: skip
    run(load_cfg(None, words))
    found = results_in(cwd / "output")
    assert list(found) == [f"d/taught/{run}seed1" for run in ("assistants/1_resnet14/", "assistants/2_resnet8/", "")]
    chains = [r["identity"]["config"].get("DISTILLER.ASSISTANTS", []) for r in found.values()]
    assert chains == [[], ["resnet14"], ["resnet14", "resnet8"]]
    measured = [r["protocol"]["teacher"] for r in found.values()]
    assert {(one["name"], one["precision"]) for one in measured} == {("resnet20", "none")}
    assert "training the assistant resnet8 first, for 1 epochs; it is kept" in capsys.readouterr().out
    # A run that finds its assistants starts with the student
    run(load_cfg(None, words))
    assert "training the assistant" not in capsys.readouterr().out
    # Those of fewer epochs do not serve one that asks for more
    run(load_cfg(None, [*words, "SOLVER.EPOCHS", "2"]))
    assert capsys.readouterr().out.count("first, for 2 epochs; it is kept") == 2


def second_assistant(name, *words):
    """The config of the run that trains this assistant, the second of a chain."""
    chain = ["DISTILLER.TYPE", "TAKD", "DISTILLER.ASSISTANTS", f"[resnet14, {name}]"]
    return run_of_assistant(load_cfg(None, [*DIGITS, *chain, *words]), name, ["resnet14"])


@pytest.mark.parametrize(
    ("student", "words", "expected"),
    [
        ("ShuffleV1", (), 0.05),
        ("resnet8x4", (), 0.05),
        ("resnet8x4", ("SOLVER.LR", "0.2"), 0.2),
        ("ShuffleV1", ("SOLVER.LR", "0.02"), 0.02),
    ],
)
def test_an_assistant_has_the_rate_of_its_own_network_unless_one_is_set(student, words, expected):
    cfg = second_assistant("resnet8", "DISTILLER.STUDENT", student, *words)
    rate = cfg.SOLVER.LR
    assert rate == expected
    assert (cfg.DISTILLER.STUDENT, cfg.DISTILLER.ASSISTANTS) == ("resnet8", ["resnet14"])


def test_the_students_stages_are_not_those_of_an_assistant():
    """In the run that trains it, and as a teacher of the student."""
    name = "tests.models.test_adapt:own_network"
    words = ("DISTILLER.STUDENT", name, "DISTILLER.STUDENT_STAGES", "['3']")
    cfg = second_assistant(name, *words)
    assert cfg.DISTILLER.STUDENT_STAGES == []
    chain = ["DISTILLER.TYPE", "TAKD", "DISTILLER.ASSISTANTS", f"[{name}]"]
    cfg = load_cfg(None, [*DIGITS, *chain, *words])
    networks = build_networks(cfg, build_data(cfg))
    assert list(networks.student.stage_names) == ["3"]
    assert list(networks.others[0].stage_names) == ["0", "3"]


@pytest.mark.parametrize("what", ["ASSISTANTS", "TEACHER_CFG"])
def test_what_predicts_with_modules_of_its_method_is_no_teacher_and_not_trained_to_be_one(what, cwd):
    own = ["DISTILLER.TEACHER_CKPT", checkpoint("resnet14"), "DISTILLER.TYPE", "SIMKD"]
    words = [*own, "DISTILLER.TEACHER_KIND", "assistants", "DISTILLER.ASSISTANTS", "[resnet8]"]
    if what == "TEACHER_CFG":
        Path("teacher.yaml").write_text(dump_cfg(load_cfg(None, [*DIGITS, *own, "DISTILLER.STUDENT", "resnet14"])))
        words = [
            "DISTILLER.TYPE",
            "KD",
            "DISTILLER.TEACHER_CFG",
            "teacher.yaml",
            "DISTILLER.TEACHER_AUTO_TRAIN",
            "True",
        ]
    with pytest.raises(ConfigError, match=rf"DISTILLER.{what} .* by SIMKD, with whose modules it predicts"):
        run(load_cfg(None, [*DIGITS, *words]))
    assert not results_in(cwd)


def test_a_teacher_of_other_classes_is_refused_before_it_is_trained(tmp_path, registries):
    three = DATASETS["digits"]

    @DATASETS.register("three")
    def first_three(cfg):
        source = three(cfg)

        def kept(part):
            rows = part.labels < 3
            return part._replace(images=part.images[rows], labels=part.labels[rows], classes=part.classes[:3])

        return source._replace(train=kept(source.train), test=kept(source.test))

    cfg = load_cfg(
        ROOT / "configs/digits/kd/res20_res8.yaml",
        ["DATASET.TYPE", "three", "MODEL.FAMILY", "cifar", "LOG.PREFIX", str(tmp_path), "EXPERIMENT.DEVICE", "cpu"],
    )
    message = "res20.yaml, which trains on digits with 10 classes; this run's three has 3: name a config"
    with pytest.raises(ConfigError, match=message):
        run(cfg)
    assert list(tmp_path.rglob("checkpoints")) == []


PARITY, SWAPPED = ("DATASET.SUPERCLASSES", "[0, 1]"), "[1, 0, 2, 3, 4, 5, 6, 7, 8, 9]"


def taught_by(how, of_teacher, folder, *words):
    """The teacher of a run, given by its config or by its directory, or the error."""
    (folder / "teacher.yaml").write_text(f"DISTILLER: {{STUDENT: resnet14}}\nDATASET: {{TYPE: digits, {of_teacher}}}\n")
    prefix = ["LOG.PREFIX", str(folder), "EXPERIMENT.DEVICE", "cpu", "SOLVER.BATCH_SIZE", "717"]
    its = load_cfg(folder / "teacher.yaml", prefix)
    data = build_data(its)
    write_identity(folder, identity_of_run(its, data, ()))
    weights = folder / "checkpoints" / "epoch-00001"
    weights.mkdir(parents=True)
    save_file(build_model("resnet14", num_classes=data.num_classes).state_dict(), weights / "student.safetensors")
    path = {"TEACHER_CFG": folder / "teacher.yaml", "TEACHER_CKPT": weights}[how]
    cfg = load_cfg(None, [*DIGITS, *prefix, "DISTILLER.TYPE", "KD", f"DISTILLER.{how}", str(path), *words])
    return trained_networks(cfg, build_data(cfg), lambda *_: pytest.fail("a teacher is trained"))


@pytest.mark.parametrize("how", ["TEACHER_CFG", "TEACHER_CKPT"])
@pytest.mark.parametrize(
    ("its", "mine"),
    [("SUPERCLASSES: [1, 0]", PARITY), ("SUPERCLASSES: [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]", PARITY),
     (f"SUPERCLASSES: {SWAPPED}", ()), ("", ("DATASET.SUPERCLASSES", SWAPPED))],
)  # fmt: skip
def test_a_teacher_whose_classes_were_joined_otherwise_is_refused(how, its, mine, tmp_path):
    with pytest.raises(ConfigError, match=rf"{how} is .* with DATASET.SUPERCLASSES .* its classes are others"):
        taught_by(how, its, tmp_path, *mine)


@pytest.mark.parametrize("its", ["SUPERCLASSES: [0, 1]", "SUPERCLASSES: [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]"])
def test_a_teacher_of_the_same_superclasses_teaches(its, tmp_path):
    """Also where their list is written in another way."""
    (teacher,) = taught_by("TEACHER_CKPT", its, tmp_path, *PARITY)
    assert teacher.network.num_classes == 2


def test_a_teacher_that_needs_itself_is_refused_in_one_line(cwd):
    (cwd / "a.yaml").write_text(
        "DATASET: {TYPE: digits}\nDISTILLER: {TYPE: KD, TEACHER: resnet8, STUDENT: resnet8, TEACHER_CFG: b.yaml}\n"
    )
    (cwd / "b.yaml").write_text("_BASE_: a.yaml\n")
    with pytest.raises(ConfigError, match=r"DISTILLER.TEACHER_CFG is b.yaml, which needs itself as a teacher"):
        run(load_cfg("a.yaml"))


def test_the_versions_of_the_networks_libraries_are_recorded(cwd):
    words = ["DISTILLER.STUDENT", "timm/resnet10t", "DATASET.TYPE", "digits", "SOLVER.EPOCHS", "1", "SOLVER.BATCH_SIZE",
             "256", "EXPERIMENT.NAME", "d"]  # fmt: skip
    found = run(load_cfg(None, words))["protocol"]["versions"]
    assert (found.keys(), found["timm"]) == ({"torch", "python", "timm"}, version("timm"))


TEACHER = "DATASET: {TYPE: digits}\nSOLVER: {EPOCHS: 1, BATCH_SIZE: 256}\nLOG: {TENSORBOARD: False}\n"
TAUGHT_BY_IT = [
    *DIGITS,
    "DISTILLER.TYPE",
    "KD",
    "DISTILLER.TEACHER_CFG",
    "t/big.yaml",
    "DISTILLER.TEACHER_AUTO_TRAIN",
    "True",
]


@pytest.fixture
def teacher(cwd):
    (cwd / "t").mkdir()
    (cwd / "t/big.yaml").write_text(f"{TEACHER}DISTILLER: {{STUDENT: resnet14}}\n")
    return cwd


def test_two_commands_that_need_one_teacher_train_it_once(teacher):
    (teacher / "small.yaml").write_text("EXPERIMENT: {NAME: d/taught}\n")
    command = [sys.executable, str(ROOT / "tools/train.py"), "--cfg", "small.yaml", *TAUGHT_BY_IT]
    both = [subprocess.Popen([*command, "EXPERIMENT.TAG", tag], stdout=subprocess.PIPE, text=True) for tag in "ab"]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert sum("training it first" in text for text in printed) == 1
    assert sorted(results_in(teacher / "output")) == ["d/taught/a/seed1", "d/taught/b/seed1", "t/big/seed1"]


def test_a_teacher_whose_weights_were_changed_after_its_training_is_refused(teacher):
    cfg = load_cfg(None, TAUGHT_BY_IT)
    run(cfg)
    weights = teacher / "output/t/big/seed1/student.safetensors"
    (teacher / checkpoint("resnet14")).unlink()
    save_file(build_model("resnet14", num_classes=10).state_dict(), weights)
    with pytest.raises(CheckpointError, match="seed1/student.safetensors: not the weights whose results are in"):
        run(cfg)


def test_a_run_goes_on_from_another_working_directory_and_where_both_were_moved(teacher, monkeypatch):
    run(load_cfg(None, TAUGHT_BY_IT))
    (teacher / "elsewhere").mkdir()
    monkeypatch.chdir(teacher / "elsewhere")
    folder = Path("../output/d/taught/seed1")
    again = config_of(folder, ["SOLVER.EPOCHS", "2"])
    assert (again.DISTILLER.TEACHER_CFG, again.LOG.PREFIX) == ("../t/big.yaml", "../output")
    assert run(again, folder)["epochs"][1:]
    for name in ("t", "output"):
        shutil.move(teacher / name, teacher / "elsewhere" / name)
    moved = config_of(Path("output/d/taught/seed1"), ["SOLVER.EPOCHS", "3"])
    assert len(run(moved, Path("output/d/taught/seed1"))["epochs"]) == 3
    assert not (teacher / "output").exists()
