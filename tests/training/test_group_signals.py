"""A signal to the whole process group, as from a terminal, `timeout` or a scheduler: the trainer alone acts on it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TRAIN = """
import sys, time
from mdistiller_dfpt.training import loop, signals
plain, say, calls, heard = loop.take_step, signals.say, [], []
def take_step(*args, **kwargs):
    calls.append(1)
    if len(calls) == 3:
        print("third step", flush=True)
        while not heard:
            time.sleep(0.01)
    return plain(*args, **kwargs)
loop.take_step = take_step
signals.say = lambda line: (heard.append(line), say(line))
from mdistiller_dfpt.commands.train import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_to_the_group_saves_once_and_ends_all_workers(name, code, tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(60):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{i}.png")
    (tmp_path / "run.yaml").write_text("DISTILLER: {STUDENT: resnet8}\n")
    words = ["--cfg", str(tmp_path / "run.yaml"), "DATASET.TYPE", "folder", "DATASET.ROOT", str(tmp_path),
             "DATASET.SIZE", "32", "DATASET.NUM_WORKERS", "2", "MODEL.FAMILY", "cifar", "SOLVER.BATCH_SIZE", "4",
             "SOLVER.EPOCHS", "2", "LOG.PREFIX", str(tmp_path / "out"), "LOG.TENSORBOARD", "False"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", TRAIN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=environment, start_new_session=True,
    ) as process:  # fmt: skip
        while process.stdout.readline() not in ("third step\n", ""):
            pass
        os.killpg(process.pid, signal.Signals[name])  # a signal from its own parent ends a worker without an error
        _, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    assert f"stopped by {name} in epoch 1, after step 3; continue with --resume" in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.glob("out/**/checkpoints/*")] == ["epoch-00000-step-0000003"]
    resumed = subprocess.run(
        [sys.executable, str(ROOT / "tools/train.py"), *words, "--resume"], capture_output=True, text=True,
        cwd=tmp_path, env=environment, timeout=200,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 2/2" in resumed.stdout
