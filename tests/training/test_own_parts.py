"""Networks, batches and data of a program: adapted where that is possible, else refused with what to do."""

import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

import mdistiller_dfpt as md
from mdistiller_dfpt.errors import ConfigError, DataError
from mdistiller_dfpt.runs.hashing import state_hash
from mdistiller_dfpt.testing import tiny_cfg

SHAPE = (3, 16, 16)


def net(width=4, classes=3):
    blocks = [nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU())
              for i, o in ((3, width), (width, 2 * width))]  # fmt: skip
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes))


def samples(count=48, indexed=False):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(count, *SHAPE, generator=generator), torch.arange(count) % 3
    return TensorDataset(images, labels, *([torch.arange(count)] if indexed else []))


def cfg_of(method, *words):
    return tiny_cfg("DISTILLER.TYPE", method, *words)


def data_of(cfg, indexed=False):
    train = DataLoader(samples(indexed=indexed), cfg.SOLVER.BATCH_SIZE, shuffle=True)
    return md.data_from_loaders(cfg, train, DataLoader(samples(), 20), classes=3)


def distiller_of(method, *words, **more):
    torch.manual_seed(0)
    return md.build_distiller(cfg_of(method, *words), net(), net(8), image_shape=SHAPE, **more).train()


def test_plain_networks_are_adapted_and_trained_in_place():
    student, teacher = net(), net(8)
    distiller = md.build_distiller(cfg_of("REVIEWKD"), student, teacher, image_shape=SHAPE).train()
    assert distiller.student.network is student
    assert distiller.student.stage_channels[-1] == 8
    before = state_hash(teacher.state_dict())
    _, terms = distiller(*samples(8).tensors, epoch=1)
    sum(term.weighted for term in terms.values()).backward()
    assert student[0][0].weight.grad is not None
    assert state_hash(teacher.state_dict()) == before
    assert not any(p.requires_grad for p in teacher.parameters())


def test_images_and_labels_are_a_batch():
    distiller, (images, labels) = distiller_of("KD").eval(), samples(8).tensors
    _, found = distiller(images, labels)
    _, expected = distiller(md.Batch(image=images, target=labels, index=torch.arange(8), epoch=1, step=1))
    assert found["kd"].weighted.item() == expected["kd"].weighted.item() > 0


@pytest.mark.parametrize(
    ("method", "given", "missing"),
    [("DKD", {}, "epoch"), ("CRD", {"epoch": 1, "step": 1}, "index"), ("TAID", {"epoch": 1}, "step")],
)
def test_what_a_method_reads_and_a_batch_lacks_is_named(method, given, missing):
    distiller, (images, labels) = distiller_of(method, num_data=48), samples(8).tensors
    with pytest.raises(ConfigError, match=rf"reads `{missing}`.*distiller\(image, target, {missing}=...\)"):
        distiller(images, labels, **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: md.build_distiller(cfg_of("KD"), net(), net()), "Sequential is a network of another library: give"),
        (lambda: distiller_of("CRD"), "CRD needs num_data, the number of samples in the training set"),
        (lambda: md.build_distiller(cfg_of("OFD"), md.build_model("resnet8"), md.build_model("resnet8")),
         r"OFD needs image_shape, the \(3, H, W\)"),
        (lambda: md.build_distiller(cfg_of("KD"), net(), net(classes=5), image_shape=SHAPE),
         "the student Sequential returns 3 logits, the teacher Sequential returns 5 logits"),
        (lambda: distiller_of("KDPP")(*samples(8).tensors, epoch=1), "KDPP measures something on the training set"),
        (lambda: data_of(cfg_of("KD", "SOLVER.BATCH_SIZE", "8"))
         and md.data_from_loaders(cfg_of("KD"), DataLoader(samples(), 8), DataLoader(samples(), 8), 3),
         "SOLVER.BATCH_SIZE is 16; the batches of the DataLoader have 8"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: md.DISTILLERS["KD"](net(), net(), temperature=4.0, ce_weight=0.1, kd_weight=0.9),
         r"the student is a Sequential.*mdistiller_dfpt.adapt\(network, image_size\)"),
        (lambda: md.Trainer(cfg_of("KD"), distiller_of("KD"), DataLoader(samples(), 16)), "data_from_loaders"),
        (lambda: distiller_of("KD")(torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.zeros(2)), "images are uint8"),
        (lambda: distiller_of("KD")(torch.zeros(2, *SHAPE), torch.zeros(2, 3)), r"labels are float32 \(2, 3\)"),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_labels_beyond_the_classes_and_other_batches_are_refused():
    cfg = cfg_of("KD")
    with pytest.raises(DataError, match="labels are from 0 to 2; 2 classes are 0 to 1"):
        md.data_from_loaders(cfg, DataLoader(samples(), 16), DataLoader(samples(), 16), classes=2)
    rows = [{"image": image, "label": label} for image, label in samples()]
    with pytest.raises(ConfigError, match="a batch of the DataLoader is a dict; .* give it a collate_fn"):
        md.data_from_loaders(cfg, DataLoader(rows, 16), DataLoader(rows, 16), classes=3)


def test_a_pass_over_the_training_set_is_the_next_epoch():
    data = md.build_data(tiny_cfg("DATASET.TYPE", "digits"))
    passes = [torch.cat([batch.index for batch in data.train]) for _ in range(2)]
    assert torch.equal(passes[1], torch.cat([batch.index for batch in data.train.epoch(2)]))
    assert not torch.equal(*passes)
    assert sum(len(batch.target) for batch in data.test) == data.test.num_samples
    own = data_of(cfg_of("KD")).test
    assert own.labels.bincount().tolist() == [16, 16, 16]


def test_a_run_on_own_loaders_resumes_to_the_same_weights_and_says_what_it_had(tmp_path):
    cfg = cfg_of("CRD", "SOLVER.EPOCHS", "2", "DATASET.TYPE", "digits")

    def trainer(epochs):
        config = cfg.clone()
        config.defrost()
        config.SOLVER.EPOCHS = epochs
        return md.Trainer(config, distiller_of("CRD", num_data=48), data_of(config, indexed=True))

    whole = trainer(2).fit(tmp_path / "whole")
    trainer(1).fit(tmp_path / "parts")
    torch.randn(7)  # a program's own random numbers decide nothing
    parts = trainer(2).fit(tmp_path / "parts", resume=True)
    assert whole["student_sha256"] == parts["student_sha256"]
    assert (whole["student"], whole["protocol"]["data"]) == ("own/Sequential", "own")
    assert whole["protocol"]["normalisation"] == {"images": "a normalisation by the program"}
    assert json.loads((tmp_path / "whole/identity.json").read_text())["config"]["DISTILLER.TEACHER"] == "own/Sequential"
    with pytest.raises(ConfigError, match="own/Sequential is a program's: give it as `network`"):
        md.load_student(tmp_path / "whole")
    images = samples(4).tensors[0]
    loaded = md.load_student(tmp_path / "whole", network=net())(images)
    assert loaded.shape == (4, 3)


def test_without_a_preprocessing_the_error_says_where_to_give_it(tmp_path):
    cfg = cfg_of("KD")
    md.save_student(tmp_path / "student.safetensors", cfg, distiller_of("KD"), data_of(cfg))
    student = md.load_student(tmp_path / "student.safetensors", network=net())
    with pytest.raises(ConfigError, match=r"records no preprocessing .*`data_from_loaders\(..., preprocessing=...\)`"):
        student.preprocess  # noqa: B018


def test_a_config_of_another_method_is_refused_rather_than_recorded(tmp_path):
    distiller, other = distiller_of("KD"), cfg_of("NONE")
    message = "the method is KD, and this config names DISTILLER.TYPE NONE: give the config by which"
    with pytest.raises(ConfigError, match=message):
        md.Trainer(other, distiller, data_of(other))
    with pytest.raises(ConfigError, match=message):
        md.save_student(tmp_path / "student.safetensors", other, distiller, data_of(other))


def test_a_saved_student_of_a_named_network_is_built_by_its_name(tmp_path):
    from torchvision.models import mobilenet_v3_small

    cfg = cfg_of("KD", "DISTILLER.STUDENT", "torchvision/mobilenet_v3_small")
    distiller = md.build_distiller(cfg, mobilenet_v3_small(num_classes=3), net(), image_shape=SHAPE).eval()
    file = tmp_path / "student.safetensors"
    md.save_student(file, cfg, distiller, data_of(cfg), epoch=3, accuracy={"top1": 50.0})
    loaded, images = md.load_student(file), samples(4).tensors[0]
    # Not in the normalisation of torchvision's own weights, with which it was not trained here
    torch.testing.assert_close(loaded(images), distiller.student(images)[0])
    assert (loaded.record.epoch, loaded.record.accuracy) == (3, {"top1": 50.0})
    with pytest.raises(ConfigError, match="is built by its name: leave out `network`"):
        md.load_student(file, network=net())


def test_each_group_has_its_share_of_the_learning_rate():
    distiller = distiller_of("DFPTKD")
    factors = [group["lr_factor"] for group in distiller.parameter_groups() if group["params"]]
    assert [group["lr"] for group in md.parameter_groups(distiller, 0.1)] == pytest.approx([0.1 * f for f in factors])


def test_a_plain_module_can_be_registered(registries):
    md.MODELS.register("cifar/plain")(lambda num_classes: net(classes=num_classes))
    assert md.build_model("plain", num_classes=7, image_size=16)(torch.randn(2, *SHAPE))[0].shape == (2, 7)


NOT_EACH_ONCE = {
    "gives 40 of the 48 samples of its data set, with drop_last": (40, {"drop_last": True}),
    "gives 7 of the 48 samples of its data set": (7, {"sampler": SubsetRandomSampler(range(7))}),
    "draws 90 samples with replacement": (90, {"sampler": WeightedRandomSampler([1.0] * 48, 90)}),
}


@pytest.mark.parametrize("said", NOT_EACH_ONCE)
def test_a_test_loader_that_does_not_give_each_sample_once_is_said_and_its_images_are_counted(said, tmp_path, capsys):
    cfg, (count, options) = cfg_of("NONE"), NOT_EACH_ONCE[said]
    train, test = DataLoader(samples(), 16), DataLoader(samples(), 20, **options)
    data = md.data_from_loaders(cfg, train, test, classes=3)
    assert f"warning: the test DataLoader {said}" in capsys.readouterr().err
    results = md.Trainer(cfg, md.build_distiller(cfg, net(), None, image_shape=SHAPE), data).fit(tmp_path / "run")
    assert results["protocol"]["test_images"] == count


def test_persistent_workers_of_a_training_loader_are_refused():
    persistent = DataLoader(samples(), 16, num_workers=1, persistent_workers=True)
    with pytest.raises(ConfigError, match="make it without `persistent_workers`"):
        md.data_from_loaders(cfg_of("NONE"), persistent, DataLoader(samples(), 16), classes=3)


def test_classes_of_one_name_are_refused():
    with pytest.raises(DataError, match="several classes of the name 'crane': give each a name of its own"):
        md.data_from_loaders(cfg_of("NONE"), *[DataLoader(samples(), 16)] * 2, classes=("crane", "crane", "dog"))
