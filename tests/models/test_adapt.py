"""Networks of other libraries: stages are found; feature maps are read, prompted and replaced; keys are kept."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from mdistiller_dfpt import load_cfg
from mdistiller_dfpt.config import keywords
from mdistiller_dfpt.data import Batch
from mdistiller_dfpt.data.batch import UNLABELLED
from mdistiller_dfpt.distillers import DISTILLERS, build_distiller
from mdistiller_dfpt.distillers.choice import choice
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.launch.networks import build_network
from mdistiller_dfpt.launch.smoke import smoke
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.models.external.adapt import AdaptedModel
from mdistiller_dfpt.models.external.map_layout import Layout, find_layout, from_map, to_map
from mdistiller_dfpt.models.external.names import narrowed, published_normalisation
from mdistiller_dfpt.teachers.dual_path import DualPath
from mdistiller_dfpt.testing import changed, check_network, prepare, snapshot

FOUND = {
    "torchvision/resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "torchvision/swin_t": ("features.1", "features.3", "features.5", "features.7"),
    "torchvision/mobilenet_v2": ("features.3", "features.6", "features.13", "features.18"),
    "torchvision/vit_b_16": tuple(f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)),
    "timm/vit_tiny_patch16_224": ("blocks.2", "blocks.5", "blocks.8", "blocks.11"),
    "timm/swin_tiny_patch4_window7_224": ("layers.0", "layers.1", "layers.2", "layers.3"),
    "timm/convnext_atto": ("stages.0", "stages.1", "stages.2", "stages.3"),
    "timm/mixer_s32_224": ("blocks.1", "blocks.3", "blocks.5", "blocks.7"),
}
FOUND_AT_32 = {
    "torchvision/mobilenet_v2": ("features.3", "features.6", "features.13", "features.14"),
    "torchvision/vgg11": ("features.3", "features.8", "features.13", "features.18"),
    "torchvision/mobilenet_v3_small": ("features.1", "features.3", "features.8", "features.9"),
    "torchvision/swin_t": ("features.1", "features.3", "features.5", "features.6"),
}
SMALL = ("timm/vit_tiny_patch16_224", "torchvision/resnet18")


@pytest.mark.parametrize("name", FOUND_AT_32)
def test_stages_are_found_where_the_network_shrinks_a_small_image_to_one_position(name):
    with torch.device("meta"):
        model = build_model(name, num_classes=5, image_size=32)
    assert model.stage_names == FOUND_AT_32[name]


@pytest.mark.parametrize("name", FOUND)
def test_the_stages_are_found(name):
    with torch.device("meta"):
        model = build_model(name, num_classes=5)
    assert model.stage_names == FOUND[name]
    assert len(model.stage_channels) == 5


def tiny_vit(size=32):
    """A transformer of four blocks with a class token, small enough for a test."""
    torch.manual_seed(0)
    return timm.models.VisionTransformer(
        img_size=size, patch_size=8, embed_dim=24, depth=4, num_heads=2, num_classes=5, drop_path_rate=0.5
    )


def tiny_cnn():
    torch.manual_seed(0)
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


MAKERS = [tiny_vit, tiny_cnn]


@pytest.mark.parametrize("make", MAKERS)
def test_the_network_returns_the_same_logits_and_keeps_its_keys(make):
    plain = make().eval()
    model = AdaptedModel(copy.deepcopy(plain), image_size=32).eval()
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict({k: v + 0 for k, v in plain.state_dict().items()})
    image = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        logits, features = model(image)
        assert torch.equal(logits, plain(image))
        assert torch.equal(model.rerun(image, lambda i, x: x)[0], logits)
        assert torch.equal(model.classifier_layer(features["pooled_feat"]), logits)
    assert [tuple(f.shape[1:2]) for f in features["feats"]] == [(c,) for c in model.stage_channels]
    assert model.classifier_layer.out_features == model.num_classes == 5


@pytest.mark.parametrize(("name", "size"), [("torchvision/resnet18", 64), (f"{__name__}:own_network", 16)])
def test_an_adapted_network_obeys_the_laws_of_networks(name, size):
    check_network(lambda classes: build_model(name, num_classes=classes, image_size=size), (3, size, size))


@pytest.mark.parametrize("make", MAKERS)
def test_an_edited_map_is_used_by_the_rest_of_the_network(make):
    model = AdaptedModel(make(), image_size=32).eval()
    a, b = torch.randn(2, 2, 3, 32, 32)
    with torch.no_grad():
        _, features = model(a)
        edited, _ = model.rerun(b, lambda i, x: features["feats"][i])
        if make is tiny_cnn:  # a stage only returns its map, so the image no longer matters
            assert torch.allclose(edited, model(a)[0], atol=1e-6)
            again, _ = model.rerun(b, lambda i, x: x, features["feats"][:3])
            assert torch.allclose(again, model(a)[0], atol=1e-6)
        else:  # the class token is not part of the map
            assert not torch.allclose(edited, model(b)[0])


@pytest.mark.parametrize(
    "layout", [Layout("NCHW", 6), Layout("NHWC", 6), Layout("NLC", 6), Layout("NLC", 6, 1), Layout("NLC", 6, 5)]
)
def test_layouts_are_recognised_and_inverted(layout):
    grid = torch.randn(2, 6, 4, 4)
    x = from_map(grid, torch.randn(2, 16 + layout.prefix, 6), layout)
    assert find_layout(x) == layout
    assert torch.equal(to_map(x, layout, 1.0), grid)
    assert torch.equal(from_map(to_map(x, layout, 1.0), x, layout), x)


def test_tokens_of_an_oblong_image_are_an_oblong_map():
    assert to_map(torch.randn(1, 8 * 4 + 1, 6), Layout("NLC", 6, 1), 2.0).shape == (1, 6, 8, 4)


@pytest.mark.parametrize("finetune", ["False", "True"])
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("stages", ["all", "[1, 3]"])
def test_dual_path_teachers_of_any_kind(make, finetune, stages):
    cfg = load_cfg(None, ["DISTILLER.TYPE", "DFPTKD", "DFPTKD.BN", "running", "DFPTKD.INIT", "teacher",
                          "DFPTKD.STAGES", stages, "DFPTKD.FINETUNE_BACKBONE", finetune])  # fmt: skip
    teacher, student = AdaptedModel(make(), image_size=32), AdaptedModel(tiny_cnn(), image_size=32)
    distiller = build_distiller(cfg, student, teacher, 8, image_shape=(3, 32, 32)).train()
    batch = some_batch()
    paths = distiller.teacher(batch)
    assert torch.allclose(paths["prompt"].logits, paths["teacher"].logits, atol=1e-5)
    before = snapshot(distiller)
    optimizer = torch.optim.SGD(distiller.parameter_groups(), lr=0.05)
    for _ in range(2):
        _, terms = distiller(batch)
        optimizer.zero_grad()
        total(terms).backward()
        optimizer.step()
    moved = changed(before, distiller.state_dict())
    assert not [k for k in moved if k.startswith("teacher.network.")]
    assert {k.split(".")[0] for k in moved} == {"student", "teacher"}
    assert {k.split(".")[1] for k in moved if k.startswith("teacher.")} == {"prompts", "fusions", "own"}


def tiny_torchvision_vit():
    """The head of a new one is zero; here the map behind the encoder's last norm is a stage, too."""
    torch.manual_seed(0)
    return torchvision.models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=5)


def dual_path(network, **changes):
    return DualPath(AdaptedModel(network, image_size=32), **{**keywords(DualPath.config), **changes}).train()


@pytest.mark.parametrize(
    ("network", "stages"), [(tiny_vit, (1, 2, 3)), (tiny_torchvision_vit, (1,)), (tiny_cnn, (1, 2, 3, 4))]
)
def test_by_default_prompts_are_where_a_gradient_reaches_them(network, stages):
    teacher = dual_path(network())
    assert teacher.stages == stages
    teacher(some_batch())["prompt"].logits.square().sum().backward()
    parameters = [p for module in (teacher.prompts, teacher.fusions) for p in module.parameters()]
    assert all(p.grad.abs().sum() > 0 for p in parameters)


def test_a_prompt_that_reaches_no_class_token_is_refused():
    message = r"STAGES is \[2, 4\]; the logits .* do not depend on the map of stage 4: choose from 1, 2, 3"
    with pytest.raises(ValueError, match=message):
        dual_path(tiny_vit(), stages=[2, 4])


def test_looking_for_them_changes_nothing():
    network = AdaptedModel(tiny_vit(), image_size=32).train()
    before, state = snapshot(network), torch.get_rng_state()
    assert network.reaching_stages() == [1, 2, 3]
    assert changed(before, network.state_dict()) == []
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in network.parameters())


def some_batch():
    index = torch.arange(4)
    extra = Batch(torch.randn(4, 3, 32, 32), torch.full_like(index, UNLABELLED), index, 1, 1)
    return Batch(torch.randn(4, 3, 32, 32), index, index, 1, 1, strong=torch.randn(4, 3, 32, 32), extra=extra)


REFUSED = {
    ("FCFD", tiny_vit): "FCFD runs single stages, and a network of another library is always run in full",
    ("FCFD", tiny_cnn): "FCFD runs single stages, and a network of another library is always run in full",
    ("WKD", tiny_cnn): "WKD.SPATIAL_GRID is 1; the teacher's map is 1x1",
}
"""Methods that cannot match these two, by the teacher."""


@pytest.mark.parametrize(
    "name", [n for n, cls in sorted(DISTILLERS.items()) if not getattr(cls, "starts_from_teacher", 0)]
)
@pytest.mark.parametrize("kinds", [(tiny_vit, tiny_cnn), (tiny_cnn, tiny_vit)], ids=["vit to cnn", "cnn to vit"])
def test_every_method_between_a_transformer_and_a_cnn(name, kinds):
    teacher, student = (AdaptedModel(make(), image_size=32) for make in kinds)
    cfg = load_cfg(None, ["DISTILLER.TYPE", name, "DISTILLER.ASSISTANTS", "[one]"])
    assistants = [AdaptedModel(tiny_cnn(), image_size=32) for _ in choice(cfg).others]

    def build():
        network = teacher if choice(cfg).is_taught else None
        return build_distiller(cfg, student, network, 8, image_shape=(3, 32, 32), others=assistants)

    if (name, kinds[0]) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[name, kinds[0]]):
            build()
        return
    distiller = build()
    batch = some_batch()
    prepare(distiller, batch)
    _, terms = distiller.train()(batch)
    total(terms).backward()
    assert all(torch.isfinite(term.weighted) for term in terms.values())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


@pytest.mark.parametrize(("teacher", "student"), [SMALL, SMALL[::-1]])
def test_real_networks_as_teacher_and_student(teacher, student):
    cfg = load_cfg(None, ["DISTILLER.TYPE", "DFPTKD", "DATASET.TYPE", "folder", "DISTILLER.TEACHER", teacher,
                          "DISTILLER.STUDENT", student])  # fmt: skip
    found = smoke(cfg)
    terms = ("ce", "kd_teacher", "kd_prompt", "prompt_teacher", "prompt_student", "prompt_ce")
    assert found.keys() == {
        *terms,
        "accuracy_prompt",
        "entropy_prompt",
        "loss",
        "top1",
        "top5",
        "distillation_weight",
        "gradient_to_kd",
    }
    assert found["loss"] == pytest.approx(sum(found[name] for name in terms), rel=1e-5)


def test_named_stages_and_what_cannot_be_one():
    model = AdaptedModel(tiny_cnn(), ["layer2", "layer4"], image_size=32)
    assert model.stage_channels == (64, 128, 512)
    for names, message in (
        (["layer9"], "did you mean layer"),
        (["avgpool.x"], "no module avgpool.x"),
        (["fc"], "returns no feature map"),
        (["layer1.0.relu"], "runs more than once"),
    ):
        with pytest.raises(ConfigError, match=message):
            AdaptedModel(tiny_cnn(), names, image_size=32)
    with pytest.raises(ConfigError, match="VisionTransformer cannot take images of 24x24"):
        AdaptedModel(tiny_vit(32), image_size=24)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet81", "torchvision has no classifier 'resnet81'; did you mean resnet18"),
        ("timm/vit_tinny", "timm has no model 'vit_tinny'"),
        ("no_such_package.nets:build", "cannot be imported"),
        ("torch.nn:Nothing", "cannot be imported"),
        ("torch.nn:Linear", "cannot be built"),
        ("builtins:dict", "returned dict"),
    ],
)
def test_an_unknown_name_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        build_model(name)


def test_a_users_own_network_by_import_path():
    model = build_model(f"{__name__}:own_network", num_classes=3, image_size=32)
    assert model.stage_names == ("0", "3")
    assert model(torch.randn(1, 3, 32, 32))[0].shape == (1, 3)
    with pytest.raises(ConfigError, match="defines its own stages"):
        build_model("resnet8", stages=["layer1"])


def test_a_users_function_of_a_fixed_number_of_classes():
    """As `resnet18()` of weiaicunzai/pytorch-cifar100 and `ResNet18()` of kuangliu/pytorch-cifar."""
    name = f"{__name__}:of_ten_classes"
    assert build_model(name, num_classes=10, image_size=32)(torch.randn(1, 3, 32, 32))[0].shape == (1, 10)
    cfg = load_cfg(None, ["DISTILLER.STUDENT", name])
    with pytest.raises(ConfigError, match=r"of_ten_classes returns logits of shape \(1, 10\) for one image; it must"):
        build_network(cfg, "student", "", 3, (3, 32, 32))
    with pytest.raises(ConfigError, match=r"of_a_path cannot be built \(.*missing 1 required .* 'path'\)"):
        build_model(f"{__name__}:of_a_path", num_classes=10, image_size=32)


def of_ten_classes():
    return own_network(10)


def of_a_path(path):
    return own_network(10)


def own_network(num_classes):
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1)), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("timm/test_vit", ("blocks.1", "blocks.2", "blocks.3", "blocks.5")),
        ("timm/test_convnext", ("stages.0", "stages.1", "stages.2", "stages.3")),
        ("timm/test_efficientnet", ("blocks.1", "blocks.2", "blocks.3", "blocks.4")),
        ("timm/test_resnet", ("layer1", "layer2", "layer3", "layer4")),
        ("timm/efficientnet_lite0", ("blocks.1", "blocks.2", "blocks.4", "blocks.6")),
    ],
)
def test_stages_are_found_inside_the_one_sequence_of_blocks_also_beside_a_large_stem(name, stages):
    assert build_model(name, "imagenet", 10).stage_names == stages


def test_arguments_of_timms_networks_are_part_of_their_names():
    name = "timm/swin_tiny_patch4_window7_224(embed_dim=16, depths=[1, 1, 2, 1], num_heads=(1, 2, 4, 8))"
    model = build_model(name, "cifar", 5, image_size=64)
    assert model.stage_channels == (16, 16, 32, 64, 128)
    assert len(model.network.layers[2].blocks) == 2
    assert published_normalisation(name) == published_normalisation("timm/swin_tiny_patch4_window7_224")
    for wrong in ("(depth)", "(depth=print)", "(3)", "(depth=1", "(depth=1)x"):
        with pytest.raises(ConfigError, match="write its arguments as"):
            build_model(f"timm/vit_tiny_patch16_224{wrong}", "cifar", 5)
    with pytest.raises(ConfigError, match="cannot be built"):
        build_model("timm/vit_tiny_patch16_224(depths=1)", "cifar", 5)


@pytest.mark.parametrize("given", ["checkpoint_path='/etc/passwd'", "pretrained=True", "cache_dir='.'"])
def test_no_argument_of_a_network_of_timm_loads_a_file(given):
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=f"{given.partition('=')[0]} is not of the network, but of how timm makes it"):
        build_model(f"timm/vit_tiny_patch16_224({given})", "cifar", 5)


@pytest.mark.parametrize("name", [
    "swin_tiny_patch4_window7_224", "vit_small_patch16_224", "mixer_s32_224", "convnext_tiny", "resnet18",
])  # fmt: skip
def test_a_narrow_network_has_the_modules_of_the_wide_one(name):
    wide, narrow = (timm_on_meta(n) for n in (f"timm/{name}", narrowed(f"timm/{name}")))
    assert [n for n, _ in wide.named_modules()] == [n for n, _ in narrow.named_modules()]
    sizes = [sum(p.numel() for p in m.parameters()) for m in (wide, narrow)]
    assert sizes[1] < 0.2 * sizes[0]
    assert narrowed("torchvision/resnet18") == "torchvision/resnet18"


def timm_on_meta(name):
    with torch.device("meta"):
        return build_model(name, "cifar", 5).network
