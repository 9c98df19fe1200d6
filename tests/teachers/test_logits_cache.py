"""The logits cache: training is the same as with the teacher, and no logit is ever wrong."""

import errno
import os
import signal

import numpy as np
import pytest
import torch

from mdistiller_dfpt.data import Batch
from mdistiller_dfpt.data.in_memory import ImageSet, InMemoryLoader
from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.teachers.base import ORIGINAL, TEACHERS, Teacher
from mdistiller_dfpt.teachers.fill_cache import open_cache
from mdistiller_dfpt.teachers.hooked import Hooked
from mdistiller_dfpt.teachers.logits_cache import LogitsCache
from mdistiller_dfpt.testing import tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.loop import train_epoch
from mdistiller_dfpt.training.signals import Stopped
from mdistiller_dfpt.training.trainer import Trainer

from ..tiny_runs import fit

TAUGHT = sorted(n for n, m in DISTILLERS.items() if m.needs_teacher)
SERVED = [
    n for n in TAUGHT
    if not DISTILLERS[n].needs_teacher_maps and not DISTILLERS[n].needs_strong_view
    and TEACHERS[DISTILLERS[n].teacher_kind or "frozen"].cacheable is not Teacher.cacheable
]  # fmt: skip


# It divides by a deviation over the batch: of an untrained teacher that is a fiftieth of the logits, which are rounded
COARSER = {"LUMINET": 5e-2}


def run(name, folder, *words, cache="cache", **data):
    words = (*words, "DISTILLER.LOGITS_CACHE", str(folder / cache)) if cache else words
    cfg = tiny_cfg("DISTILLER.TYPE", name, "LOG.PREFIX", str(folder / "out"), "EXPERIMENT.TAG", cache or "live", *words)
    distiller = tiny_distiller(name, *words)
    return Trainer(cfg, distiller, tiny_data(extra=40 if distiller.needs_extra else 0, **data))


def test_the_methods_over_logits_are_those_that_may_use_it():
    assert {"KD", "DKD", "LSKD", "DIST", "NKD", "CTKD", "ESKD", "DFPTKD", "TAKD", "DGKD"} <= set(SERVED)
    assert not {"CRD", "REVIEWKD", "MLLD", "KDPP"} & set(SERVED)


@pytest.mark.parametrize("name", SERVED)
def test_an_epoch_from_the_cache_is_one_with_the_teacher_to_its_rounding(name, tmp_path):
    live, first, second = run(name, tmp_path, cache=""), run(name, tmp_path), run(name, tmp_path)
    found = []
    for trainer in (live, first, second):
        torch.manual_seed(0)  # for dropout
        found.append(trainer.one_epoch())
    for epoch in found[1:]:
        assert epoch == pytest.approx(found[0], rel=COARSER.get(name, 1e-2), abs=2e-3)
    # The views of the pass before the first step, if there is one, and of the epoch; not those of held-out samples
    epochs = (1,) if DISTILLERS[name].prepare is Hooked.prepare else (0, 1)
    batches = [batch for epoch in epochs for batch in first.data.train.epoch(epoch)]
    views = {view for b in batches for view in zip(b.index.tolist(), b.view.tolist(), strict=True)}
    # Of several networks, a step may read some alone
    assert max(cache.computed for cache in first.caches.values()) == len(views)
    assert not any(cache.computed for cache in second.caches.values()), "the second run finds what the first one left"
    for key, value in first.distiller.state_dict().items():
        assert torch.equal(value, second.distiller.state_dict()[key]), key


def test_a_method_over_the_paths_of_a_dual_path_teacher_may_use_it(tmp_path):
    words = ("DISTILLER.TEACHER_KIND", "dual_path", "DISTILLER.PATHS", "{teacher: 1, prompt: 1}")
    expected = run("KD", tmp_path, *words, cache="").one_epoch()
    assert run("KD", tmp_path, *words).one_epoch() == pytest.approx(expected, rel=1e-2, abs=2e-3)


def test_a_filled_cache_runs_no_teacher(tmp_path):
    run("KD", tmp_path).one_epoch()
    second, calls = run("KD", tmp_path), []
    second.teacher.network.register_forward_hook(lambda *a: calls.append(1))
    second.one_epoch()
    assert calls == []


@pytest.mark.parametrize(("finetune", "stages"), [(False, 1), (True, 0)])
def test_beside_a_cache_the_prompt_path_computes_the_stages_before_its_first_prompt_alone(finetune, stages, tmp_path):
    words = ("DFPTKD.FINETUNE_BACKBONE", str(finetune))
    run("DFPTKD", tmp_path, *words).one_epoch()
    second, calls = run("DFPTKD", tmp_path, *words), []
    second.prepare()
    second.training.at_start = False  # a run's first step also measures its strength
    for number, name in enumerate(("layer1", "layer2"), start=1):
        layer = getattr(second.teacher.network, name)
        layer.register_forward_hook(lambda *a, number=number: calls.append(number))
    train_epoch(second.training, 1)
    assert calls == [1] * 3 * stages


FIRST = ("DISTILLER.LOGITS_CACHE_FILL", "first")


@pytest.mark.parametrize("name", ["KD", "DFPTKD"])
def test_a_cache_filled_first_trains_as_one_filled_lazily(name, tmp_path):
    lazy, whole = run(name, tmp_path), run(name, tmp_path, *FIRST, cache="whole")
    calls = []
    whole.prepare()
    assert whole.caches[ORIGINAL].computed == 48 * 18
    whole.teacher.network.fc.register_forward_hook(lambda *a: calls.append(1))
    assert train_epoch(whole.training, 1) == pytest.approx(lazy.one_epoch(), rel=1e-3)
    assert calls == []
    again = run(name, tmp_path, *FIRST, cache="whole")
    again.prepare()
    assert again.caches[ORIGINAL].computed == 0
    for batch in again.data.train.epoch(1):
        found, expected = (t.teacher.original(batch).logits for t in (again, whole))
        assert torch.equal(found, expected)


def test_filling_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("mdistiller_dfpt.teachers.logits_cache.PASS", 36)  # two samples at a time
    first = run("KD", tmp_path, *FIRST)
    computed = LogitsCache._computed

    def signalled(cache, *given):
        if cache.computed == 2 * 36:  # in the third pass
            os.kill(os.getpid(), signal.SIGTERM)
        return computed(cache, *given)

    with monkeypatch.context() as patch:
        patch.setattr(LogitsCache, "_computed", signalled)
        with pytest.raises(Stopped, match="SIGTERM while the logits cache was filled; continue with --resume"):
            fit(first)
    second = run("KD", tmp_path, *FIRST)
    fit(second, resume=True)
    assert second.caches[ORIGINAL].computed == (48 - 3 * 2) * 18
    assert second.run == first.run


@pytest.mark.parametrize("name", [n for n in TAUGHT if n not in SERVED])
def test_methods_that_take_more_than_logits_are_refused(name, tmp_path):
    with pytest.raises(ConfigError, match=rf"{name} uses more of the teacher than the logits of frozen networks"):
        run(name, tmp_path)


OTHERS = ("DISTILLER.OTHER_TEACHERS", "[resnet20]")
ASSISTANT = ("DISTILLER.TEACHER_KIND", "assistants", "DISTILLER.ASSISTANTS", "[resnet20]")


@pytest.mark.parametrize(
    ("name", "words", "cached"),
    [
        ("KD", ("DISTILLER.TEACHER_KIND", "ensemble", *OTHERS), ["teacher1", "teacher2"]),
        (
            "KD",
            ("DISTILLER.TEACHER_KIND", "ensemble", *OTHERS, "ENSEMBLE.WEIGHTS", "confidence"),
            ["teacher1", "teacher2"],
        ),
        ("KD", ("DISTILLER.TEACHER_KIND", "ensemble", *OTHERS, "DISTILLER.PATHS", "{teacher2: 1}"), ["teacher2"]),
        ("KD", ASSISTANT, ["assistant1"]),
        ("DGKD", ASSISTANT[2:], ["teacher", "assistant1"]),
        ("[KD, DKD]", (), ["teacher"]),
    ],
)
@pytest.mark.parametrize("fill", ["lazily", "first"])
def test_each_network_that_is_read_has_a_cache(name, words, cached, fill, tmp_path):
    live = run(name, tmp_path, *words, cache="").one_epoch()
    words = (*words, "DISTILLER.LOGITS_CACHE_FILL", fill)
    trainer = run(name, tmp_path, *words)
    assert list(trainer.caches) == cached
    assert trainer.one_epoch() == pytest.approx(live, rel=1e-2, abs=2e-3)
    assert len({cache.path for cache in trainer.caches.values()}) == len(cached)
    again, calls = run(name, tmp_path, *words), []
    again.training.at_start = False  # a run's first step also measures its strength, against the teacher
    for network in again.distiller.frozen():
        network.register_forward_hook(lambda *a: calls.append(1))
    again.one_epoch()
    assert calls == []


def test_another_size_of_the_images_has_another_file(tmp_path):
    plain = tiny_data().train
    images = ImageSet(plain.padded[:, 1:-1, 1:-1].clone(), plain.labels, tuple("abcde"))
    loaders = [plain] + [
        InMemoryLoader(images, plain.recipe, 16, train=True, seed=1, size=size) for size in (None, 8, 12, 16)
    ]
    assert loaders[0].padded.equal(loaders[3].padded)
    paths = [open_cache(str(tmp_path), loader, 5, "t").path for loader in loaders]
    assert paths[0] == paths[1] == paths[2], "of the size that they have"
    assert len(set(paths)) == 3


def test_another_teacher_precision_data_set_or_augmentation_has_another_file(tmp_path):
    def path(*words, change=None, flip=True, **data):
        trainer = run("KD", tmp_path, *words, cache="", **data)
        if change:
            with torch.no_grad():
                trainer.teacher.network.fc.bias += 1
        trainer.data.train.recipe = trainer.data.train.recipe._replace(flip=flip)
        cfg = tiny_cfg("DISTILLER.TYPE", "KD", "DISTILLER.LOGITS_CACHE", str(tmp_path / "t"), *words)
        return Trainer(cfg, trainer.distiller, trainer.data).caches[ORIGINAL].path

    paths = [path(), path(change=True), path("SOLVER.AMP", "bf16"), path(train=44), path(flip=False)]
    # The same weights in a network of another name, and in another version of a plugin's network
    trainer = run("KD", tmp_path, cache="")
    for name, code in (
        ("resnet14", {}),
        ("resnet20", {}),
        ("resnet14", {"net.py": "1"}),
        ("resnet14", {"net.py": "2"}),
    ):
        words = ("DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", name, "DISTILLER.LOGITS_CACHE", str(tmp_path / "t"))
        identity = {**trainer.identity, "code": code}
        paths.append(Trainer(tiny_cfg(*words), trainer.distiller, trainer.data, identity).caches[ORIGINAL].path)
    assert len(set(paths)) == 9
    assert path() == paths[0]


def filled(folder):
    cache = LogitsCache(folder, "k", 5, 3, 4)
    index, view = torch.arange(5), torch.tensor([0, 1, 2, 0, 1])
    batch = Batch(torch.randn(5, 3, 8, 8), torch.zeros(5, dtype=torch.int64), index, view=view)
    return cache, batch, cache.logits(batch, lambda x: torch.arange(4.0) + x[:, 0, 0, :1])


@pytest.mark.parametrize("fault", ["flipped", "zeroed", "cut off"])
def test_a_damaged_row_is_recomputed(fault, tmp_path):
    cache, batch, logits = filled(tmp_path)
    row = cache.rows[2, 2]
    if fault == "flipped":
        row.view(np.uint8)[3] ^= 1
    elif fault == "zeroed":
        row[:2] = 0
    else:
        cache.rows.flush()
        size = cache.path.stat().st_size
        with open(cache.path, "r+b") as f:
            f.truncate(2 * 6 * (2 * 3 + 2) + 4)
            f.truncate(size)
    again, seen = LogitsCache(tmp_path, "k", 5, 3, 4), []
    found = again.logits(batch, lambda x: seen.append(len(x)) or torch.zeros(len(x), 4))
    assert seen == [1 if fault != "cut off" else 3]
    whole = [0, 1, 3, 4] if fault != "cut off" else [0, 1]
    assert torch.equal(found[whole], logits[whole])


@pytest.mark.parametrize("fault", ["two blocks exchanged", "the file of another teacher"])
def test_whole_rows_of_another_place_or_file_are_recomputed(fault, tmp_path):
    cache, batch, logits = filled(tmp_path)
    key = "k"
    if fault == "two blocks exchanged":
        places = batch.index.numpy()[:2], batch.view.numpy()[:2]
        cache.rows[places] = cache.rows[places][::-1].copy()
    else:
        key = "other"
        cache.path.rename(tmp_path / "other.f16")
    seen = []
    found = LogitsCache(tmp_path, key, 5, 3, 4).logits(batch, lambda x: seen.append(len(x)) or torch.zeros(len(x), 4))
    assert seen == [2 if key == "k" else 5]
    assert torch.equal(found[2:], logits[2:] if key == "k" else torch.zeros(3, 4))
    assert not found[:2].any()


def test_every_view_of_every_sample_has_a_number_of_its_own():
    loader: InMemoryLoader = tiny_data().train
    assert loader.num_views == 18
    images = {}
    for epoch in range(1, 40):
        for batch in loader.epoch(epoch):
            for i, v, image in zip(batch.index.tolist(), batch.view.tolist(), batch.image, strict=True):
                assert torch.equal(images.setdefault((i, v), image), image)
    assert len(images) > 600
    assert {view for _, view in images} == set(range(18))
    index, view = torch.tensor(list(images)).T
    assert torch.equal(loader.images_in(index, view), torch.stack(list(images.values())))


def test_a_cache_that_cannot_be_kept_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="it cannot be written"):
        LogitsCache(tmp_path / "file", "k", 5, 3, 4)
    cache = LogitsCache(tmp_path / "kept", "k", 500, 30, 98)
    assert cache.path.stat().st_blocks * 512 >= 2 * 500 * 30 * 100, "no write can find the disk full"

    def full(number, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(ConfigError, match=r"cannot be written \(No space left"):
            LogitsCache(tmp_path, "k", 5, 3, 4)
    os.mkfifo(tmp_path / "fifo.f16")
    with pytest.raises(ConfigError, match=r"it cannot be written \(is a FIFO, not a file\)"):
        LogitsCache(tmp_path, "fifo", 5, 3, 4)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("U", (), {"free": 10})())
    with pytest.raises(ConfigError, match=r"it needs 1,0\d\d\.\d MB more, 0\.0 MB are free"):
        LogitsCache(tmp_path, "k", 50_000, 100, 98)


def test_results_record_that_the_logits_were_cached(tmp_path):
    key = "DISTILLER.LOGITS_CACHE"
    assert fit(run("KD", tmp_path))["protocol"]["settings"][key] == "float16"
    assert key not in fit(run("KD", tmp_path, cache=""))["protocol"]["settings"]
