"""Methods that match feature maps and embeddings: ICKD, MGD, ITRD, AFD, VKD, FCFD, OFAKD, DeiT, DiffKD."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdistiller_dfpt.distillers.afd import PairAttention, afd_loss
from mdistiller_dfpt.distillers.base import Output
from mdistiller_dfpt.distillers.deit import deit_loss
from mdistiller_dfpt.distillers.diffkd import Diffusion
from mdistiller_dfpt.distillers.fcfd import FCFD
from mdistiller_dfpt.distillers.ickd import ickd_loss
from mdistiller_dfpt.distillers.itrd import correlation_loss, mutual_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.mgd import Generation, mgd_loss
from mdistiller_dfpt.distillers.ofakd import MapHead, TokenHead, ofakd_loss
from mdistiller_dfpt.distillers.vkd import vkd_loss
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.models import build_model
from mdistiller_dfpt.models.statistics import batch_statistics
from mdistiller_dfpt.testing import tiny_batch

from ...golden import golden_state, labels, normal
from .cases import Found, case, found, learned, maps, of_logits, unit
from .core import NORM, fill


@case("ICKD", "ickd", "ickd_sizes")
def _(name: str) -> Found:
    (student,) = learned(maps(10)[2 if name == "ickd" else 1])
    projector = nn.Sequential(nn.Conv2d(student.shape[1], 96, 1, bias=False), nn.BatchNorm2d(96))
    fill(projector, ["embed_s.conv2d.weight", *(f"embed_s.l2norm.{key}" for key in NORM)])
    return found(ickd_loss(projector(student), maps(20)[2]), [student])


@case("MGD", "mgd", "mgd_same_width")
def _(name: str) -> Found:
    (student,), teacher = learned(unit(12, 8, 64, 4, 4)), unit(22, 8, 96, 4, 4)
    if name == "mgd_same_width":
        (student,), teacher = learned(teacher), unit(32, 8, 96, 4, 4)
    generation = Generation(student.shape[1], 96, 0.15).double()
    generation.load_state_dict(golden_state(generation, lambda key: key.replace("generate", "generation")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return found(mgd_loss(generation(student), teacher), [student])


def itrd_embedded(student: Tensor, width: int) -> Tensor:
    return fill(nn.Linear(student.shape[1], width), ["embed.linear.weight", "embed.linear.bias"])(student)


@case("ITRD", "itrd_correlation", "itrd_same_width_correlation")
def _(name: str) -> Found:
    (student,), width = learned(unit(40, 8, 64)), 64 if "same" in name else 96
    return found(correlation_loss(itrd_embedded(student, width), unit(41, 8, width), 1.01), [student])


@case("ITRD", "itrd_mutual")
def _() -> Found:
    (student,) = learned(unit(40, 8, 64))
    return found(mutual_loss(itrd_embedded(student, 96), unit(41, 8, 96)), [student])


@case("ITRD", "itrd_same_width_mutual")
def _() -> Found:
    (student,) = learned(unit(40, 8, 64))
    return found(mutual_loss(student, unit(41, 8, 64)), [student])


@case("AFD", "afd")
def _() -> Found:
    student = learned(*maps(10))
    large, middle, small = maps(20)
    teacher = [large, unit(23, *large.shape), middle, small]
    attention = PairAttention([16, 32, 64], [24, 24, 48, 96], 16).double()
    parts = {
        "queries": "linear_trans_t.query_layer", "keys": "linear_trans_s.key_layer",
        "bilinear": "linear_trans_s.bilinear", "position_t": "p_t", "position_s": "p_s",
    }  # fmt: skip

    def name_of(key: str) -> str:
        part, *rest = key.split(".")
        if rest:
            rest[-2] = ("linear", "bn")[int(rest[-2])]
        return ".".join(("attention", parts[part], *rest))

    attention.load_state_dict(golden_state(attention, name_of))
    return found(afd_loss(student, teacher, attention(student, teacher)), student)


@case("VKD", "vkd_feat")
def _() -> Found:
    (student,) = learned(unit(40, 8, 64))
    return found(vkd_loss(student @ torch.linalg.qr(unit(46, 96, 64)).Q.T, unit(41, 8, 96)), [student])


of_logits("VKD", "vkd_kl", lambda s, t: kd_loss(s, t, 1.0))


@case("FCFD", "fcfd_all_paths")
def _() -> Found:
    """Their epoch 9, counted from 0. Their teacher is in training mode."""
    student, teacher = (build_model(name).double() for name in ("resnet8x4", "resnet14"))
    weights = {"ce_weight": 1.0, "kd_weight": 1.0, "mixed_weight": 1.0, "feat_weight": 5.0}
    method = FCFD(student, teacher, temperature=4.0, paths=4, warmup_epochs=20, **weights).double().train()
    for network in (student, teacher):
        network.load_state_dict(golden_state(network))
    for bridges, ends in ((method.to_teacher, "0.1"), (method.to_student, "1.0")):
        for stage, bridge in enumerate(bridges, start=1):
            keys = golden_state(bridge, lambda key, prefix=f"bridges.{stage}.{ends}": f"{prefix}.{key}")
            bridge.load_state_dict(keys)
    image = unit(0, 4, 3, 32, 32)
    batch = replace(tiny_batch(4, epoch=10), image=image, target=labels()[:4])
    with torch.no_grad(), batch_statistics(teacher):
        expected = Output(*teacher(image))
    loss = total(method.losses(Output(*student(image)), expected, batch))
    return found(loss, [student.conv1.weight, student.layer2[0].conv1.weight, student.fc.weight])


for _eps, _temperature in ((1.0, 1.0), (2.0, 4.0)):
    of_logits(
        "OFAKD", f"ofakd_loss_e{_eps:g}_T{_temperature:g}",
        lambda s, t, e=_eps, temperature=_temperature: ofakd_loss(s, t, labels(), e, temperature),
    )  # fmt: skip


def map_head_name(key: str, stage: int) -> str:
    part, *rest = key.split(".")
    if part == "classifier":
        return ".".join(("projector", str(stage), str(max(4 - stage, 1) + 2), *rest))
    return ".".join(("projector", str(stage), rest[0], *(["op"] if len(rest) > 2 else []), *rest[1:]))


def token_head_name(key: str, stage: int) -> str:
    part, number, *rest = key.split(".")
    if part == "classifier":
        return f"projector.{stage}.3.{number}"
    if part == "merge":
        return ".".join((f"projector.{stage}.0.fn", str(int(number) // 2), *rest))
    names = {"qkv": "attn.qkv", "proj": "attn.proj", "norm1": "norm1", "norm2": "norm2"}
    inside = f"mlp.{({'0': 'fc1', '2': 'fc2'})[rest[1]]}" if rest[0] == "mlp" else names[rest[0]]
    return f"projector.{stage}.1.{number}.{inside}.{rest[-1]}"


@case("OFAKD", "ofakd_map_heads", "ofakd_token_heads")
def _(name: str) -> Found:
    (logits,), teacher = learned(normal(1)), normal(2)
    if name == "ofakd_map_heads":
        eps = [1.5] * 5
        student = learned(*(unit(10 + i, 8, 16 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(4)))
        heads = [MapHead(16 * 2**i, 3 - i, 128, 100).double() for i in range(4)]
        states = [golden_state(h, lambda k, i=i: map_head_name(k, i)) for i, h in enumerate(heads, start=1)]
        maps_in = student
    else:
        eps, shapes = [1.0, 1.1, 1.2, 1.3, 1.4], ((28, 12), (14, 16), (7, 32), (7, 32))
        student = learned(*(unit(14 + i, 8, side**2, width) for i, (side, width) in enumerate(shapes)))
        heads = [TokenHead((w, n, n), 3 - i, 32, 100, grid=7, heads=4).double() for i, (n, w) in enumerate(shapes)]
        states = [golden_state(h, lambda k, i=i: token_head_name(k, i)) for i, h in enumerate(heads, start=1)]
        maps_in = [x.transpose(1, 2).unflatten(2, (n, n)) for x, (n, _) in zip(student, shapes, strict=True)]
    loss = F.cross_entropy(logits, labels()) + ofakd_loss(logits, teacher, labels(), eps[-1])
    for head, state, x, e in zip(heads, states, maps_in, eps, strict=False):
        head.load_state_dict(state)
        loss = loss + ofakd_loss(head(x), teacher, labels(), e)
    return found(loss, [logits, *student])


@case("DEIT", "deit_hard", "deit_soft")
def _(name: str) -> Found:
    own, distilled = learned(normal(1), normal(80))
    loss = deit_loss(distilled, normal(2), name.removeprefix("deit_"), 3.0)
    return found(0.5 * F.cross_entropy(own, labels()) + 0.5 * loss, [own, distilled])


@case("DIFFKD", "diffkd_map", "diffkd_logits")
def _(name: str) -> Found:
    is_map = name == "diffkd_map"
    source, channels, side = (16, 24, 4) if is_map else (20, 20, 1)
    (student,), teacher = learned(unit(60, 8, source, side, side)), unit(61, 8, channels, side, side)
    diffusion = Diffusion(source, channels, latent=32 if is_map else 0, steps=5, is_map=is_map).double().train()
    names = {
        "encoder": "ae.encoder", "decoder": "ae.decoder.0", "align": "trans", "times": "model.time_embedding",
        "noise_of": "model.pred", "share": "noise_adapter.feat", "share_head": "noise_adapter.pred", "project": "proj",
    }  # fmt: skip
    state = golden_state(diffusion, lambda key: ".".join((names[key.split(".")[0]], *key.split(".")[1:])))
    diffusion.load_state_dict(state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = diffusion(student, teacher)
    loss = F.mse_loss(out.student, out.teacher) + out.diffusion + out.reconstruction
    return found(loss, [student], diffusion=out.diffusion.item())
