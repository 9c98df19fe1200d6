"""Methods whose samples are weighted by what they do to held-out ones."""

import torch
from torch.nn import functional as F

from mdistiller_dfpt.distillers.tgeokd import controller, geometry, sample_losses

from ...golden import golden_state, labels, normal
from .cases import Found, case, found, learned


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
