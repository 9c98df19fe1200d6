"""The commands as used from a shell: what works, and for every bad input one line and the right exit code."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mdistiller_dfpt import DATASETS
from mdistiller_dfpt.checksum import read_checked_json
from mdistiller_dfpt.commands import evaluate, train
from mdistiller_dfpt.handlers import end_at_once
from mdistiller_dfpt.launch import run
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.runs.saving import Saver

from ..forks import forked

ROOT = Path(__file__).parents[2]
TRAIN = train.main
EVAL = evaluate.main
QUICK = ["SOLVER.EPOCHS", "1", "LOG.TENSORBOARD", "False", "SOLVER.BATCH_SIZE", "256"]


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    """An empty working directory, so that every file written is visible."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digits(method: str) -> list[str]:
    name = "res8" if method == "vanilla" else "res20_res8"
    return ["--cfg", str(ROOT / f"configs/digits/{method}/{name}.yaml")]


def refused(main, argv: list[str], code: int, pattern: str, capsys, cwd: Path) -> None:
    """Exit code, one line with the cause, no traceback, nothing written."""
    before = sorted(cwd.rglob("*"))
    assert main(argv) == code
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("error: ")
    assert re.search(pattern, err), err
    assert sorted(cwd.rglob("*")) == before


def quick_main_job(cwd):
    """The main job with a teacher of two epochs, under the names of the real ones."""
    for name, base, keys in (
        ("teacher", "vanilla/res20", "SOLVER: {EPOCHS: 2}"),
        ("main", "dfptkd/res20_res8", "DISTILLER: {TEACHER_CFG: teacher.yaml}"),
    ):
        text = f"_BASE_: {ROOT}/configs/digits/{base}.yaml\nEXPERIMENT: {{NAME: digits/{base}}}\n{keys}\n"
        (cwd / f"{name}.yaml").write_text(f"{text}LOG: {{TENSORBOARD: False}}\n")
    return ["--cfg", "main.yaml", *QUICK]


def test_the_main_job_trains_its_teacher_once_and_keeps_it(cwd, capsys):
    argv = quick_main_job(cwd)
    assert TRAIN(argv) == 0
    first = capsys.readouterr().out
    assert "no teacher resnet20 yet: training it first" in first
    assert "test accuracy" in first
    of_student = first.rpartition("run directory")[2]
    assert of_student.count("teacher resnet20: top-1") == 2, "at the start, and in the table at the end"
    assert of_student.partition("epoch 1/")[0].count("teacher resnet20: top-1") == 1
    assert TRAIN(argv) == 0
    again = capsys.readouterr().out
    assert "training it first" not in again
    assert "note: output/digits/dfptkd/res20_res8/seed1 is the same run, finished" in again
    runs = sorted(str(p.parent.relative_to(cwd / "output")) for p in cwd.rglob("results.json"))
    assert runs == ["digits/dfptkd/res20_res8/seed1", "digits/dfptkd/res20_res8/seed1-2", "digits/vanilla/res20/seed1"]
    results = read_checked_json(cwd / "output" / runs[0] / "results.json")
    assert results["protocol"]["data"] == "digits"
    refused(
        TRAIN,
        [*argv, "--resume"],
        3,
        "seed1-2 is finished; to train it for longer: `--resume .*seed1-2 SOLVER.EPOCHS N`",
        capsys,
        cwd,
    )
    assert TRAIN([*argv, "--resume", "auto"]) == 0
    assert "seed1-2 is this run, and finished" in capsys.readouterr().out


def test_a_missing_teacher_is_trained_on_request(cwd, capsys, tmp_path):
    (tmp_path / "t.yaml").write_text(
        "DATASET: {TYPE: digits}\nDISTILLER: {STUDENT: resnet8}\n"
        "SOLVER: {EPOCHS: 1, BATCH_SIZE: 256}\nLOG: {TENSORBOARD: False}\n"
    )
    (tmp_path / "s.yaml").write_text("_BASE_: t.yaml\nDISTILLER: {TYPE: KD, TEACHER: resnet8, TEACHER_CFG: t.yaml}\n")
    argv = ["--cfg", "s.yaml"]
    refused(
        TRAIN, argv, 3, r"mdistiller-dfpt train --cfg t.yaml`, or add `DISTILLER.TEACHER_AUTO_TRAIN True`", capsys, cwd
    )
    assert TRAIN([*argv, "DISTILLER.TEACHER_AUTO_TRAIN", "True"]) == 0
    assert "no teacher resnet8 yet: training it first from t.yaml" in capsys.readouterr().out
    assert TRAIN(argv) == 0
    assert EVAL([*argv, "--teacher"]) == 0
    assert EVAL(argv) == 0
    assert len(re.findall(r"top-1 \d+\.\d+ %, top-5 \d+\.\d+ %", capsys.readouterr().out)) == 2


def test_an_interrupted_teacher_is_resumed_not_restarted(cwd, capsys):
    argv = quick_main_job(cwd)
    assert TRAIN(["--cfg", "teacher.yaml"]) == 0
    teacher = cwd / "output/digits/vanilla/res20/seed1"
    for name in ("results.json", "student.safetensors"):
        (teacher / name).unlink()
    shutil.rmtree(teacher / "checkpoints/epoch-00002")
    capsys.readouterr()
    assert TRAIN(argv) == 0
    assert "resuming after epoch 1" in capsys.readouterr().out
    assert not teacher.with_name("seed1-2").exists()


def test_a_trial_under_the_teachers_name_is_not_taken_for_the_teacher(cwd, capsys):
    """An epoch at a learning rate of 1e-6 became the teacher of every later run."""
    argv = [*quick_main_job(cwd), "DISTILLER.TEACHER_AUTO_TRAIN", "False"]
    assert TRAIN(["--cfg", "teacher.yaml", "SOLVER.EPOCHS", "1", "SOLVER.LR", "1e-6"]) == 0
    trial = "output/digits/vanilla/res20/seed1"
    capsys.readouterr()
    assert TRAIN(argv) == 3
    asked, differs = capsys.readouterr().err.splitlines()
    assert "the teacher resnet20 is not trained yet: run `mdistiller-dfpt train --cfg teacher.yaml`" in asked
    assert f"{trial} is a different run: SOLVER.EPOCHS 2 in this command, 1 in that run; SOLVER.LR 0.05" in differs
    assert differs.endswith(f"to be taught by it nevertheless, add `DISTILLER.TEACHER_CKPT {trial}`")
    assert TRAIN([*argv, "DISTILLER.TEACHER_CKPT", trial]) == 0


def test_labels_that_changed_are_refused_at_a_resume_and_are_another_run(cwd, capsys, registries):
    digits_of, swapped = DATASETS["digits"], []

    @DATASETS.register("relabelled")
    def relabelled(cfg):
        source = digits_of(cfg)
        labels = source.train.labels.clone()
        labels[swapped] = 9 - labels[swapped]
        return source._replace(train=source.train._replace(labels=labels))

    argv = ["--cfg", str(ROOT / "configs/digits/vanilla/res8.yaml"), *QUICK, "DATASET.TYPE", "relabelled",
            "MODEL.FAMILY", "cifar"]  # fmt: skip
    assert TRAIN(argv) == 0
    swapped.append(3)
    capsys.readouterr()
    run = "output/digits/vanilla/res8/seed1"
    assert TRAIN([*argv, "SOLVER.EPOCHS", "2", "--resume", run]) == 3
    assert "belongs to another run: the dataset has other images or labels" in capsys.readouterr().err
    assert TRAIN([*argv, "--resume", "auto"]) == 0
    assert "run directory output/digits/vanilla/res8/seed1-2" in capsys.readouterr().out


def test_a_run_is_continued_by_its_directory_alone_for_more_epochs(cwd, capsys):
    assert TRAIN([*digits("vanilla"), *QUICK]) == 0
    run = "output/digits/vanilla/res8/seed1"
    assert TRAIN(["--resume", run, "SOLVER.EPOCHS", "2"]) == 0
    assert len(read_checked_json(cwd / run / "results.json")["epochs"]) == 2
    assert "the cosine schedule differs from here on" in capsys.readouterr().err
    refused(TRAIN, ["--resume", "nowhere/seed1"], 3, "--resume nowhere/seed1: not the directory of a run", capsys, cwd)


@pytest.mark.parametrize(
    ("argv", "pattern"),
    [
        (["--cfg", "gone.yaml"], "gone.yaml: no such config file"),
        (["--cfg", "configs/../x.py"], "a config must be a .yaml file"),
        ([*digits("kd"), "SOLVER.EPOCS", "3"], "unknown key SOLVER.EPOCS; did you mean SOLVER.EPOCHS"),
        ([*digits("kd"), "SOLVER.EPOCHS"], "'SOLVER.EPOCHS' has no value"),
        ([*digits("kd"), "DISTILLER.TYPE", "DKDD"], "DISTILLER.TYPE: unknown method 'DKDD'; did you mean DKD"),
        ([*digits("kd"), "DISTILLER.STUDENT", "resnet9"], "unknown network 'resnet9'; did you mean resnet"),
        ([*digits("kd"), "DISTILLER.STUDENT", "mobilenet_v3_smal"], "did you mean torchvision/mobilenet_v3_small or"),
        ([*digits("kd"), "DISTILLER.STUDENT", "vgg12"], "did you mean vgg1[139] or"),
        (
            [*digits("kd"), "DISTILLER.STUDENT", "zzzzzzz"],
            "choose from MobileNetV2, .*, wrn_40_2, torchvision/",
        ),
        ([*digits("vanilla"), "DISTILLER.STUDENT", ""], "DISTILLER.STUDENT is empty: name a network"),
        (
            [*digits("kd"), "DISTILLER.TEACHER", ""],
            "DISTILLER.TEACHER is empty: name the network that teaches, or set DISTILLER.TYPE NONE",
        ),
        ([*digits("vanilla"), "DATASET.TYPE", "cifar"], "unknown dataset 'cifar'; did you mean cifar100"),
        ([*digits("kd"), "KD.TEMPERATURE", "-1"], r"KD.TEMPERATURE is -1.0; it must be in \(0, 1000\]"),
        ([*digits("vanilla"), "SOLVER.BATCH_SIZE", "9999"], "SOLVER.BATCH_SIZE is 9999; digits has 1433"),
        ([*digits("vanilla"), "MODEL.FAMILY", "imagnet"], "unknown network family 'imagnet'"),
        ([*digits("vanilla"), "EXPERIMENT.NAME", "../up"], "EXPERIMENT.NAME is '../up'"),
        (["--cfg", "a" * 300 + ".yaml"], "a{100}: File name too long"),
        ([*digits("vanilla"), "LOG.PREFIX", "a" * 300], "a: File name too long"),
        (["--cfg", "loop.yaml"], "loop.yaml: Too many levels of symbolic links"),
        ([*digits("kd"), "DISTILLER.TEACHER_CFG", "loop.yaml"], "loop.yaml: Too many levels of symbolic links"),
    ],
)
def test_bad_configs_exit_with_2(argv, pattern, capsys, cwd):
    (cwd / "loop.yaml").symlink_to("loop.yaml")
    refused(TRAIN, argv, 2, pattern, capsys, cwd)


def test_a_cpu_without_bfloat16_is_said(capsys, cwd, monkeypatch):
    import mdistiller_dfpt.launch.build as build

    for hardware, said in ((False, True), (True, False)):
        monkeypatch.setattr(build, "has_bfloat16", lambda hardware=hardware: hardware)
        words = ["SOLVER.AMP", "bf16", "EXPERIMENT.DEVICE", "cpu", "SOLVER.BATCH_SIZE", "9999"]
        assert TRAIN([*digits("vanilla"), *words]) == 2, "rejected for its batch size, right after the line"
        assert ("this CPU has no bfloat16 instructions" in capsys.readouterr().out) is said


def test_a_missing_device_exits_with_2(capsys, cwd):
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    refused(TRAIN, [*digits("vanilla"), "EXPERIMENT.DEVICE", "cuda"], 2, "use auto or cpu", capsys, cwd)


def test_missing_data_exits_with_3_and_says_how_to_get_it(capsys, cwd):
    argv = ["--cfg", str(ROOT / "configs/cifar100/vanilla/resnet8x4.yaml"), "DATASET.ROOT", "nowhere"]
    refused(TRAIN, argv, 3, "DATASET.DOWNLOAD True", capsys, cwd)


def test_an_unwritable_output_directory_exits_with_2_before_any_work(capsys, cwd):
    (cwd / "file").write_text("")
    refused(
        TRAIN, [*digits("vanilla"), "LOG.PREFIX", "file/out"], 2, r"LOG.PREFIX is file/out; cannot write", capsys, cwd
    )


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("MARK",)


def _checkpoints(folder: Path) -> dict[str, tuple[Path, str]]:
    """Bad teacher checkpoints by kind, with what the error must say."""
    files = {
        "missing": (folder / "gone.pth", "there is no such file"),
        "another network": (
            folder / "other.pth",
            "not a checkpoint of resnet20 with 10 classes: its keys are block0",
        ),
        "another class count": (folder / "classes.pth", r"fc.weight is \(100, 64\), not \(10, 64\)"),
        "garbage": (folder / "garbage.pth", r"no code in it was run \(damaged, or not written by torch"),
        "html": (folder / "page.safetensors", "not a safetensors file|cut off or damaged"),
        "empty": (folder / "empty.pth", "not a checkpoint of tensors"),
        "malicious": (folder / "evil.pth", r"no code in it was run \(damaged, or not written by torch.save"),
        "malicious zip": (
            folder / "evil2.pth",
            r"no code in it was run \(it contains posix.mkdir: where it was written, save",
        ),
        "no state": (folder / "list.pth", "contains list; expected a state_dict"),
        "directory": (folder / "dir", "no such checkpoint"),
    }
    torch.save({"model": build_model("vgg8", num_classes=10).state_dict()}, files["another network"][0])
    torch.save({"model": build_model("resnet20").state_dict()}, files["another class count"][0])
    files["garbage"][0].write_bytes(b"\x80\x02garbage" * 20)
    files["html"][0].write_text("<html>404</html>")
    files["empty"][0].write_bytes(b"")
    files["malicious"][0].write_bytes(pickle.dumps({"model": _Evil()}))
    torch.save({"model": _Evil()}, files["malicious zip"][0])
    torch.save([1, 2], files["no state"][0])
    files["directory"][0].mkdir()
    return files


@pytest.mark.parametrize("kind", ["missing", "another network", "another class count", "garbage", "html", "empty",
                                  "malicious", "malicious zip", "no state", "directory"])  # fmt: skip
def test_bad_checkpoints_exit_with_3_and_never_run(kind, capsys, cwd):
    path, pattern = _checkpoints(cwd)[kind]
    refused(TRAIN, [*digits("kd"), "DISTILLER.TEACHER_CKPT", str(path)], 3, pattern, capsys, cwd)
    if kind != "missing":
        refused(EVAL, ["-m", "resnet20", "-c", str(path), "-d", "digits"], 3, pattern, capsys, cwd)
    assert not (cwd / "MARK").exists()


@pytest.mark.parametrize(
    ("argv", "code", "pattern"),
    [
        ([], 2, "nothing to evaluate"),
        (["-m", "resnet8"], 2, "nothing to evaluate"),
        (["-m", "resnet8", "-c", "x.pth", "--teacher"], 2, "add --cfg FILE"),
        (["-m", "resnet8", "-c", "gone.pth", "-d", "digits"], 3, "gone.pth: no such checkpoint"),
        (digits("vanilla"), 3, "no finished run of"),
    ],
)
def test_eval_reports_what_is_missing(argv, code, pattern, capsys, cwd):
    refused(EVAL, argv, code, pattern, capsys, cwd)


def test_eval_names_the_plugins_of_the_run_that_a_checkpoint_is_in(capsys, cwd):
    (cwd / "run").mkdir()
    (cwd / "run/config.yaml").write_text("PLUGINS: [mine/net.py, other]\n")
    (cwd / "run/student.safetensors").write_bytes(b"")
    for path in ("run", "run/student.safetensors"):
        pattern = r"unknown network 'my_net'.*used plugins: add `PLUGINS '\[mine/net.py, other\]'` to your command"
        refused(EVAL, ["-m", "my_net", "-c", path, "-d", "digits"], 2, pattern, capsys, cwd)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints_in_circulation_load(prefix, capsys, cwd):
    network = build_model("resnet8", num_classes=10)
    torch.save({"epoch": 240, "model": {prefix + k: v for k, v in network.state_dict().items()}}, "student_best")
    assert EVAL(["-m", "resnet8", "-c", "student_best", "-d", "digits"]) == 0
    assert "resnet8 student_best: top-1" in capsys.readouterr().out


def test_a_diverging_run_exits_with_4_and_keeps_its_checkpoint(capsys, cwd):
    assert TRAIN([*digits("vanilla"), *QUICK]) == 0
    checkpoint = next(cwd.rglob("epoch-00001"))
    before = {p.name: p.read_bytes() for p in checkpoint.iterdir()}
    argv = [*digits("vanilla"), *QUICK, "SOLVER.EPOCHS", "30", "SOLVER.LR", "1e30", "EXPERIMENT.TAG", "hot"]
    assert TRAIN(argv) == 4
    assert "lower SOLVER.LR" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in checkpoint.iterdir()} == before


def test_help_is_printed_and_usage_errors_are_one_line(capsys, cwd):
    assert TRAIN(["--help"]) == 0
    assert "usage: mdistiller-dfpt train" in capsys.readouterr().out
    refused(TRAIN, ["--cfg"], 2, "argument --cfg: expected one argument; see mdistiller-dfpt train --help", capsys, cwd)
    refused(TRAIN, ["--cfg", "x", "--epochs", "3"], 2, "--epochs.*settings are pairs KEY VALUE", capsys, cwd)
    refused(TRAIN, [], 2, "nothing to train: give --cfg FILE, or --resume RUN", capsys, cwd)
    refused(TRAIN, [*digits("kd"), "SOLVER.EPOCHS=2"], 2, "has no value: write `SOLVER.EPOCHS 2`", capsys, cwd)
    refused(TRAIN, ["--list", "nothing-like-this"], 2, "--list nothing-like-this: no config matches", capsys, cwd)


def test_a_closed_output_is_said_and_loses_nothing(cwd, capsys):
    command = (
        f"{sys.executable} {ROOT / 'tools/train.py'} {' '.join(digits('vanilla'))} {' '.join(QUICK)} SOLVER.EPOCHS 9"
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | grep -m 1 'epoch 1/'"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 141
    assert (
        done.stderr.strip() == "error: the output cannot be written (Broken pipe); continue the run with --resume auto"
    )
    saved = [int(path.name.removeprefix("epoch-")) for path in cwd.rglob("checkpoints/epoch-*")]
    assert max(saved) > 1, "also the epoch whose line could not be printed is saved"
    assert TRAIN([*digits("vanilla"), *QUICK, "SOLVER.EPOCHS", "9", "--resume"]) == 0
    assert f"resuming after epoch {max(saved)}" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--list", "--list digits"])
def test_a_closed_output_that_ends_no_run_is_quiet(option):
    command = f"{sys.executable} {ROOT / 'tools/train.py'} {option}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {{ sleep 0.2; {command}; }} | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_a_bug_exits_with_1_and_a_traceback(capsys, monkeypatch):
    from mdistiller_dfpt.launch import cli

    def broken(argv):
        raise AttributeError("ours")

    monkeypatch.setattr(cli, "USER_FILES", set())
    assert cli.guarded(broken, []) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "a bug in mdistiller_dfpt" in err
    monkeypatch.setattr(cli, "USER_FILES", {"/of/mine.py"})  # it may be what a class there returned
    assert cli.guarded(broken, []) == 1
    assert "error: raised in mdistiller_dfpt, while it ran code of /of/mine.py: check" in capsys.readouterr().err


def test_the_command_runs_as_a_process_in_any_locale_time_zone_and_folder(cwd):
    command = [sys.executable, str(ROOT / "tools/train.py"), *digits("vanilla"), *QUICK, "LOG.PREFIX", "é 实验 x y"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "LANG": "tr_TR", "TZ": "Asia/Kathmandu"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines()), done.stderr
    assert list((cwd / "é 实验 x y").rglob("results.json"))
    usage = subprocess.run(command[:2], capture_output=True, encoding="utf-8", env=environment, timeout=240)
    assert usage.returncode == 2


def test_a_plugin_that_changed_is_another_run_and_its_interrupted_run_can_go_on(cwd, capsys, registries):
    plugin = (
        "from mdistiller_dfpt import DISTILLERS\n"
        "@DISTILLERS.register('MINE')\nclass Mine(DISTILLERS['NONE']):\n    '''{}'''\n"
    )
    (cwd / "mine.py").write_text(plugin.format("first"))
    argv = [*digits("vanilla"), *QUICK, "DISTILLER.TYPE", "MINE", "PLUGINS", "[mine.py]"]
    assert TRAIN(argv) == 0
    run = "output/digits/vanilla/res8/seed1"
    assert list(json.loads((cwd / run / "identity.json").read_text())["code"]) == ["mine.py"]
    (cwd / "mine.py").write_text(plugin.format("second"))
    capsys.readouterr()
    assert TRAIN(argv) == 0
    assert f"note: {run} is a different run: the plugin mine.py has other code" in capsys.readouterr().out
    assert TRAIN([*argv, "SOLVER.EPOCHS", "2", "--resume", run]) == 0
    assert "the plugin mine.py has other code than when" in capsys.readouterr().err
    # It is not the run that has this code from its first step on
    assert TRAIN([*argv, "SOLVER.EPOCHS", "2"]) == 0
    assert "one was begun with other code of its plugins" in capsys.readouterr().out
    # Nor does code that changes after the last step become that of the run
    (cwd / "mine.py").write_text(plugin.format("third"))
    (cwd / run / "results.json").unlink()
    before = json.loads((cwd / run / "identity.json").read_text())
    assert TRAIN([*argv, "SOLVER.EPOCHS", "2", "--resume", run]) == 0
    assert read_checked_json(cwd / run / "results.json")["identity"]["code"] == before["code"]


def test_what_cannot_be_resumed_is_refused_before_its_teacher_is_trained(cwd, capsys):
    argv = [*quick_main_job(cwd), "DISTILLER.TEACHER_AUTO_TRAIN", "True"]
    refused(TRAIN, [*argv, "--resume"], 3, "nothing to resume in .*run without --resume", capsys, cwd)


def test_resume_goes_on_with_a_teacher_that_was_interrupted(cwd, capsys, monkeypatch):
    argv, save = [*quick_main_job(cwd), "DISTILLER.TEACHER_AUTO_TRAIN", "True"], Saver.save
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", lambda self, done: (save(self, done), os.kill(os.getpid(), signal.SIGTERM)))
        assert TRAIN(argv) == 143
    capsys.readouterr()
    assert TRAIN([*argv, "--resume"]) == 0
    out = capsys.readouterr().out
    assert "output/digits/vanilla/res20/seed1 was interrupted before this run began: it is continued first" in out
    assert out.count("resuming after epoch 1") == 1
    assert (cwd / "output/digits/dfptkd/res20_res8/seed1/results.json").is_file()


def test_a_signal_that_comes_too_late_for_the_teacher_stops_before_the_student(cwd, capsys, monkeypatch):
    argv, save = [*quick_main_job(cwd), "DISTILLER.TEACHER_AUTO_TRAIN", "True"], Saver.save

    def save_and_signal(self, done):
        save(self, done)
        if len(done.epochs) == self.cfg.SOLVER.EPOCHS:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", save_and_signal)
        assert TRAIN(argv) == 143
    err = capsys.readouterr().err
    assert "stopped by SIGTERM after resnet20 was trained, which is to teach; continue with --resume auto" in err
    teacher = cwd / "output/digits/vanilla/res20/seed1"
    assert json.loads((teacher / "status.json").read_text())["state"] == "finished"
    assert not (cwd / "output/digits/dfptkd").exists()
    assert TRAIN([*argv, "--resume", "auto"]) == 0
    assert (cwd / "output/digits/dfptkd/res20_res8/seed1/results.json").is_file()
    assert not teacher.with_name("seed1-2").exists()


def test_a_run_that_is_killed_while_its_student_is_judged_is_not_finished_yet(cwd, monkeypatch):
    argv = ["--cfg", "digits/vanilla/res8", "SOLVER.EPOCHS", "1"]
    place = cwd / "output/digits/vanilla/res8/seed1"

    def killed():
        monkeypatch.setattr("mdistiller_dfpt.launch.judge.cost", lambda student: os.kill(os.getpid(), signal.SIGKILL))
        TRAIN(argv)

    assert forked(killed)[0] == signal.SIGKILL
    assert not (place / "results.json").exists()
    assert TRAIN([*argv, "--resume"]) == 0
    assert {"results.json", "evaluation.json"} <= {path.name for path in place.iterdir()}


def test_a_request_to_save_before_the_training_ends_no_run(cwd, monkeypatch):
    def asked():
        plain = run.build_data
        monkeypatch.setattr(run, "build_data", lambda *given: (os.kill(os.getpid(), signal.SIGUSR1), plain(*given))[1])
        end_at_once()  # as the command does
        return TRAIN(["--cfg", "digits/vanilla/res8", *QUICK])

    assert forked(asked) == (0, 0)
