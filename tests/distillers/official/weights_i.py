"""Methods whose samples are weighted by what they do to held-out ones."""

import numpy as np
import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.base import Output
from mdistiller_dfpt.distillers.kdaif import influence, influence_weights, with_ones
from mdistiller_dfpt.distillers.tgeokd import controller, geometry, sample_losses
from mdistiller_dfpt.losses.logit_losses import divergences

from ...golden import golden_state, labels, normal
from .cases import Found, case, found, learned, unit


@case("TGEOKD", "tgeokd_lower_T4")
def _() -> Found:
    (student,), teacher, target = learned(normal(1)), normal(2), labels()
    target[1] = target[5] = target[0]
    truth, p = F.one_hot(target, 100).double(), teacher.softmax(1)
    means = torch.stack([p[target == label].mean(0) for label in target])
    state = geometry(student.detach().softmax(1), p, truth, means)
    network = controller(100).double()
    network.load_state_dict(golden_state(network, lambda key: f"fc{int(key[0]) // 2 + 1}.{key[2:]}"))
    share = network(state)[:, 0].detach()
    kd, ce = sample_losses(student, teacher, target, 4.0)
    loss = (share * kd + (1 - share) * ce).mean()
    return found(loss, [student], state_norm=state.norm().item(), shares=share.tolist())


@case("KDAIF", "kdaif_weighted_T7")
def _() -> Found:
    layer = torch.cat([0.5 * unit(42, 10, 6), 0.1 * unit(43, 10)[:, None]], 1)
    target, held_target = (torch.from_numpy(np.random.default_rng(s).integers(0, 10, n)) for s, n in ((3, 8), (4, 1)))
    mine, held = (Output(with_ones(x) @ layer.T, {"pooled_feat": x}) for x in (unit(40, 8, 6), unit(41, 1, 6)))
    # Theirs are the negative ones, times the scale 25, over the number of samples
    theirs = -25 / 8 * influence(mine, target, held, held_target, 0.25, 100)
    (student,), teacher = learned(normal(1, (8, 10))), normal(2, (8, 10))
    losses = divergences((student / 7).log_softmax(1), (teacher / 7).log_softmax(1))
    return found((influence_weights(theirs) * losses).mean(), [student], influences=theirs.tolist())
