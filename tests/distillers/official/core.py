"""The methods of the first tables, and DOT."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdistiller_dfpt.distillers.at import at_loss
from mdistiller_dfpt.distillers.base import Output
from mdistiller_dfpt.distillers.catkd import catkd_loss, class_activation_map
from mdistiller_dfpt.distillers.cc import cc_loss
from mdistiller_dfpt.distillers.crd import crd_loss
from mdistiller_dfpt.distillers.ctkd import adversity
from mdistiller_dfpt.distillers.dgkd import dgkd_loss
from mdistiller_dfpt.distillers.dist import dist_loss
from mdistiller_dfpt.distillers.dkd import dkd_loss
from mdistiller_dfpt.distillers.fitnet import Regressor, fitnet_loss
from mdistiller_dfpt.distillers.ft import Paraphraser, _layers, ft_loss
from mdistiller_dfpt.distillers.kd import kd_loss
from mdistiller_dfpt.distillers.kdpp import embedding_projector, nd_loss
from mdistiller_dfpt.distillers.lskd import lskd_loss
from mdistiller_dfpt.distillers.mlld import gram_loss
from mdistiller_dfpt.distillers.nkd import nkd_loss
from mdistiller_dfpt.distillers.nst import nst_loss
from mdistiller_dfpt.distillers.ofd import Margin
from mdistiller_dfpt.distillers.pkt import pkt_loss
from mdistiller_dfpt.distillers.reviewkd import AttentionFusion, hcl_loss
from mdistiller_dfpt.distillers.rkd import rkd_loss
from mdistiller_dfpt.distillers.simkd import projector, simkd_loss
from mdistiller_dfpt.distillers.sp import sp_loss
from mdistiller_dfpt.distillers.vid import Gaussian
from mdistiller_dfpt.losses import distillation, label
from mdistiller_dfpt.losses.logit_losses import standardized
from mdistiller_dfpt.losses.term import total
from mdistiller_dfpt.testing import tiny_batch, tiny_distiller
from mdistiller_dfpt.training.dot import TwoMomentaSGD
from mdistiller_dfpt.training.several_momenta import backward_by_group

from ...golden import golden_state, labels, normal
from .cases import LISTED, Found, case, found, learned, maps, of_logits, unit

LISTED["ofd_margin_from_bn"] = (
    "OFD",
    "by design: the margin is measured on the training images, as the paper defines it, not derived from a BatchNorm",
)

of_logits("KD", "kd_T4", lambda s, t: kd_loss(s, t, 4.0))
of_logits("DKD", "dkd_a1_b8_T4", lambda s, t: dkd_loss(s, t, labels(), 1.0, 8.0, 4.0))
of_logits("LSKD", "lskd_T2", lambda s, t: lskd_loss(s, t, 2.0))
of_logits("DKD", "dkd_ls_a9_b72_T2", lambda s, t: dkd_loss(standardized(s), standardized(t), labels(), 9.0, 72.0, 2.0))
of_logits("DIST", "dist_b1_g1_tau4", lambda s, t: dist_loss(s, t, 1.0, 1.0, 4.0))
of_logits("DIST", "dist_b2_g2_tau4", lambda s, t: dist_loss(s, t, 2.0, 2.0, 4.0))
of_logits("DIST", "dist_b1_g0_tau1", lambda s, t: dist_loss(s, t, 1.0, 0.0, 1.0))
of_logits("DIST", "dist_b0_g1_tau1", lambda s, t: dist_loss(s, t, 0.0, 1.0, 1.0))
of_logits("NKD", "nkd_T3_g3.5", lambda s, t: nkd_loss(s, t, labels(), 3.5, 3.0))
of_logits("NKD", "nkd_T1_g1.5", lambda s, t: nkd_loss(s, t, labels(), 1.5, 1.0))
of_logits("MLLD", "mlld_bc_T4", lambda s, t: gram_loss((s / 4).softmax(1), (t / 4).softmax(1)))
of_logits("MLLD", "mlld_cc_T4", lambda s, t: gram_loss((s / 4).softmax(1).T, (t / 4).softmax(1).T))


@case("DIST", "dist_peaked_tau1")
def _() -> Found:
    peaks = F.one_hot(torch.from_numpy(np.random.default_rng(4).integers(0, 1000, 32)), 1000)
    teacher = normal(5, (32, 1000)) + 12 * peaks
    (student,) = learned(0.6 * teacher + unit(6, 32, 1000))
    return found(dist_loss(student, teacher, 1.0, 1.0, 1.0), [student])


@case("CTKD", "ctkd_epoch1", "ctkd_epoch5", "ctkd_epoch10")
def _(name: str) -> Found:
    distiller = tiny_distiller("CTKD").double()
    (student,) = learned(normal(1))
    epoch = int(name.removeprefix("ctkd_epoch"))
    batch = replace(tiny_batch(8, epoch=epoch), target=labels())
    loss = distiller.losses(Output(student, {}), Output(normal(2), {}), batch)["kd"].value
    gradient = torch.autograd.grad(loss, distiller.global_temperature, retain_graph=True)[0].item()
    temperature = distiller.take_logged()["temperature"].item()
    return found(loss, [student], temperature=temperature, lambda_=adversity(epoch, 10), grad_parameter=gradient)


@case("MLLD", "mlld_total")
def _() -> Found:
    distiller = tiny_distiller("MLLD")
    weak, strong = learned(normal(1), normal(80))
    views = {"teacher": normal(2), "student_strong": strong, "teacher_strong": normal(81)}
    batch = replace(tiny_batch(8), target=labels())
    terms = distiller.both_views(Output(weak, {}), {k: Output(v, {}) for k, v in views.items()}, batch)
    return found(total(terms), [weak, strong])


@case("KDPP", "kdpp_nd")
def _() -> Found:
    (student,) = learned(unit(40, 8, 64))
    direction = F.normalize(unit(42, 100, 64))[labels()]
    return found(nd_loss(student, unit(41, 8, 64), direction), [student])


@case("KDPP", "kdpp_total")
def _() -> Found:
    distiller = tiny_distiller("KDPP")
    distiller.projector, distiller.directions = embedding_projector(64, 64), F.normalize(unit(42, 100, 64))
    logits, embedding = learned(normal(1), unit(40, 8, 64))
    student, teacher = Output(logits, {"pooled_feat": embedding}), Output(normal(2), {"pooled_feat": unit(41, 8, 64)})
    batch = replace(tiny_batch(8, epoch=5), target=labels())  # their epoch 4, counted from 0
    return found(total(distiller.losses(student, teacher, batch)), [logits, embedding])


@case("KDPP", "kdpp_projector_eval_norm")
def _() -> Found:
    projector = embedding_projector(64, 128).double().eval()
    projector.load_state_dict(golden_state(projector, lambda key: f"fc1.{key}"))
    (student,) = learned(unit(43, 8, 64))
    return found(projector(student).norm(), [student])


@case("CATKD", *(f"catkd_maps_{kind}" for kind in ("r2_raw", "r2_norm", "r4_norm")))
def _(name: str) -> Found:
    (student,) = learned(unit(74, 4, 100, 8, 8))
    return found(catkd_loss(student, unit(75, 4, 100, 4, 4), int(name[12]), name.endswith("norm")), [student])


@case("CATKD", *(f"catkd_features_{kind}" for kind in ("r2_raw", "r2_norm", "r4_norm")))
def _(name: str) -> Found:
    (student,) = learned(unit(76, 4, 32, 8, 8))
    own = class_activation_map(student, 0.2 * unit(78, 100, 32))
    target = class_activation_map(unit(77, 4, 48, 4, 4), 0.2 * unit(79, 100, 48))
    return found(catkd_loss(own, target, int(name[16]), name.endswith("norm")), [student])


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def blocks(prefix: str) -> list[str]:
    """Names in the authors' code of three convolutions without bias, each with its BatchNorm and a ReLU."""
    layers = [(i + j, keys) for i in (0, 3, 6) for j, keys in enumerate((NORM[:1], NORM))]
    return [f"{prefix}.{layer}.{key}" for layer, keys in layers for key in keys]


def fill(module: nn.Module, names: list[str]) -> nn.Module:
    """Fill a module, in float64, by the authors' names of the entries of its state, in its order."""
    of = dict(zip(module.state_dict(), names, strict=True))
    module.double().load_state_dict(golden_state(module, of.__getitem__))
    return module


def simkd_from(mine: int, its: int) -> Found:
    """From a map of size `mine` to one of size `its`."""
    student, teacher = learned(unit(70, 4, 12, mine, mine))[0], unit(71, 4, 20, its, its)
    reused = tiny_distiller("SIMKD").reused
    reused.size, reused.projector = (its, its), fill(projector(12, 20, 2), blocks("transfer")).train()
    projected = reused.projector(reused.projected_map({"feats": [student], "head_map": student}))
    logits = F.linear(projected.mean((2, 3)), 0.1 * unit(72, 100, 20), 0.1 * unit(73, 100))
    return found(simkd_loss(projected, teacher), [student], logits_norm=logits.norm().item())


@case("SIMKD", "simkd_f2")
def _() -> Found:
    return simkd_from(4, 8)


@case("TAKD", "takd_lambda0.9_T4")
@case("DGKD", "dgkd_lambda0.9_T4_drop0", "dgkd_lambda0.9_T4_drop1")
def _(name: str = "takd") -> Found:
    """Their divergence is a mean over the classes too: lambda 0.9 is CE_WEIGHT 0.1, KD_WEIGHT 0.9 / 100."""
    (student,) = learned(normal(1))
    teachers = {"takd": [93], "dgkd_lambda0.9_T4_drop0": [2, 93, 94], "dgkd_lambda0.9_T4_drop1": [2, 94]}[name]
    loss = 0.1 * F.cross_entropy(student, labels())
    return found(loss + 0.9 / 100 * dgkd_loss(student, [normal(seed) for seed in teachers], 4.0), [student])


@case("CC", "cc")
def _() -> Found:
    (student,) = learned(unit(40, 8, 64))
    return found(cc_loss(student, unit(44, 8, 64)), [student])


@case("FT", "ft_loss")
def _() -> Found:
    (student,) = learned(unit(12, 8, 64, 4, 4))
    return found(ft_loss(student, unit(22, 8, 96, 4, 4)), [student])


@case("FT", "ft_whole")
def _() -> Found:
    (student,), teacher = learned(unit(82, 4, 10, 4, 4)), unit(83, 4, 12, 4, 4)
    layers = [f"{part}.{i}.{key}" for part in ("encoder", "decoder") for i in (0, 3, 6) for key in ("weight", "bias")]
    paraphraser = fill(Paraphraser(12, 6), layers)
    # The biases of the translator's convolutions have no effect before BatchNorm, and are left out here
    translator = fill(_layers([10, 10, 6, 6], nn.Conv2d, norm=True), blocks("encoder")).train()
    error = F.mse_loss(paraphraser(teacher), teacher).item()
    loss = ft_loss(translator(student), paraphraser.encoder(teacher).detach())
    return found(loss, [student], reconstruction_mse=error)


@case("RKD", "rkd_d25_a50")
def _() -> Found:
    (student,) = learned(unit(40, 8, 64))
    return found(rkd_loss(student, unit(41, 8, 96), 25.0, 50.0), [student])


@case("NST", "nst")
def _() -> Found:
    student = learned(*maps(10))
    return found(sum(nst_loss(s, t) for s, t in zip(student, maps(20), strict=True)), student)


@case("AT", "at_p2")
def _() -> Found:
    student = learned(*maps(10))
    return found(at_loss(student, maps(20), 2.0), student)


@case("SP", "sp")
def _() -> Found:
    (student,) = learned(maps(10)[-1])
    return found(sp_loss(student, maps(20)[-1]), [student])


@case("PKT", "pkt")
def _() -> Found:
    (student,) = learned(unit(40, 8, 64))
    return found(pkt_loss(student, unit(41, 8, 96)), [student])


def crd_inputs() -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor]:
    """Both banks (50, 16), the positive rows (8,), the negative ones (8, 20), the two embeddings (8, 16)."""
    generator, rows = np.random.default_rng(60), np.random.default_rng(61).permutation(50)[:8]
    banks = [torch.from_numpy(generator.standard_normal((50, 16)) / 4) for _ in range(2)]
    negatives = torch.from_numpy(np.random.default_rng(62).integers(0, 50, (8, 20)))
    student, teacher = learned(*(F.normalize(unit(seed, 8, 16)) for seed in (63, 64)))
    return banks, torch.from_numpy(rows), negatives, student, teacher


@case("CRD", "crd")
def _() -> Found:
    banks, positive, negatives, student, teacher = crd_inputs()
    index = torch.cat([positive[:, None], negatives], 1)
    temperature = torch.tensor(0.07).item()  # a float32 buffer in the reference
    loss, _ = crd_loss(student, teacher, *banks, index, temperature, torch.zeros(2).double())
    return found(loss, [student, teacher])


@case("VID", "vid")
def _() -> Found:
    gaussian = Gaussian(96, 96, 5.0, 1e-5)
    gaussian.mean, gaussian.log_scale = nn.Identity(), nn.Parameter(unit(84, 96))
    (mean,) = learned(unit(85, 8, 96, 4, 4))
    return found(gaussian(mean, unit(22, 8, 96, 4, 4)), [mean, gaussian.log_scale])


@case("FITNET", "fitnet_same", "fitnet_down", "fitnet_up")
def _(name: str) -> Found:
    size = {"fitnet_same": 8, "fitnet_down": 16, "fitnet_up": 4}[name]
    regressor = Regressor((10, size, size), (14, 8, 8)).double()
    regressor.load_state_dict(golden_state(regressor))
    (student,) = learned(unit(86, 4, 10, size, size))
    return found(fitnet_loss(regressor(student), unit(87, 4, 14, 8, 8)), [student])


@case("REVIEWKD", "hcl")
def _() -> Found:
    student = learned(*maps(10))
    return found(hcl_loss(student, maps(30)), student)


@case("REVIEWKD", "reviewkd_abf_hcl")
def _() -> Found:
    fusion = AttentionFusion(12, 16, 20, fuse=True).double()
    names = {"enter": "conv1", "leave": "conv2", "attention": "att_conv"}
    theirs = golden_state(fusion, lambda key: ".".join((names[key.split(".")[0]], *key.split(".")[1:])))
    fusion.load_state_dict(theirs)
    (student,) = learned(unit(89, 4, 12, 4, 4))
    out, fused = fusion(student, unit(88, 4, 16, 2, 2), (8, 8))
    fused = F.interpolate(fused, (8, 8))  # theirs is handed on at the teacher's size
    return found(hcl_loss([out], [unit(90, 4, 20, 8, 8)]), [student], fused_norm=fused.norm().item())


@case("OFD", "ofd")
def _() -> Found:
    student, teacher = learned(*maps(10)), maps(30)
    distiller = tiny_distiller("OFD")
    distiller.connectors = nn.ModuleList(nn.Identity() for _ in student)
    margins = [Margin(m.shape[1]).double().eval() for m in student]
    for i, margin in enumerate(margins):
        margin.total, margin.count = -unit(50 + i, *margin.total.shape).abs(), torch.ones(()).double()
    distiller.margins = nn.ModuleList(margins)
    outputs = [Output(m[0], {"preact_feats": [m[0], *m]}) for m in (student, teacher)]
    return found(distiller.feature_loss(*outputs, tiny_batch()), student)


@case("dot", "dot_10_steps")
def _() -> Found:
    x, y, z = (nn.Parameter(unit(seed, 5)) for seed in (95, 96, 97))
    optimizer = TwoMomentaSGD([x, y, z], lr=0.05, momentum=0.9, delta=0.075, weight_decay=0.0005)
    for i in range(10):
        a, b = unit(1000 + i, 5), unit(2000 + i, 5)
        ce = (a * (x + y)).sum() + x.pow(2).sum() + y.pow(2).sum()
        kd = (b * (x + z)).sum() + 0.3 * x.pow(4).sum() + z.pow(2).sum()
        optimizer.zero_grad()
        backward_by_group({"ce": label(ce), "kd": distillation(kd)}, optimizer, lambda: None, lambda: None)
        optimizer.step()
    parts = {"shared": x, "label_term_alone": y, "distillation_term_alone": z}
    return {name: p.tolist() for name, p in parts.items()}
