"""Laws of a list of methods."""

from itertools import pairwise

import pytest
import torch

from mdistiller_dfpt.distillers import DISTILLERS, build_distiller
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import (
    TinyNet,
    changed,
    snapshot,
    take_steps,
    tiny_batch,
    tiny_cfg,
    tiny_distiller,
    tiny_networks,
)

OWN_WAY = {"DFPTKD", "SIMKD"}
TAUGHT = sorted(name for name in DISTILLERS if DISTILLERS[name].needs_teacher)


def combined(*names):
    student, teacher = tiny_networks()
    cfg = tiny_cfg("DISTILLER.TYPE", f"[{', '.join(names)}]")
    needs = [n for name in names for n in DISTILLERS[name].needs]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assistants = [TinyNet(5)] if "assistants" in needs else []
        made = build_distiller(cfg, student, teacher, 48, image_shape=(3, 8, 8), assistants=assistants)
        made.prepare([tiny_batch()])
    return made.train()


def test_the_terms_are_those_of_each_method_alone():
    batch = tiny_batch()
    _, together = combined("KD", "SP", "DKD")(batch)
    expected = {}
    for name in ("KD", "SP", "DKD"):
        _, alone = tiny_distiller(name)(batch)
        expected |= {f"{name}.{key}": value for key, value in alone.items()}
    assert together.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(together[key], value)


def test_the_networks_run_once():
    distiller = combined("KD", "SP", "RKD")
    calls = []
    for network in (distiller.student, distiller.teacher):
        network.register_forward_hook(lambda *a: calls.append(a[0]))
    distiller(tiny_batch())
    assert calls == [distiller.student, distiller.teacher]


@pytest.mark.parametrize(
    "names", [*pairwise(n for n in TAUGHT if n not in OWN_WAY), *((a, "CRD") for a in sorted(OWN_WAY))], ids="+".join
)
def test_methods_train_together_and_the_teacher_stays(names):
    distiller = combined(*names)
    before = snapshot(distiller.teacher)
    take_steps(distiller, 3)
    assert changed(before, distiller.teacher.state_dict()) == []
    optimised = [id(p) for group in distiller.parameter_groups() for p in group["params"]]
    assert len(optimised) == len(set(optimised))
    assert set(optimised) == {id(p) for p in distiller.parameters() if p.requires_grad}
    other = combined(*names)
    other.load_training_state(distiller.training_state())
    assert changed(snapshot(distiller), other.state_dict()) == []
    kept = [v.data_ptr() for v in distiller.training_state().values() if v.numel()]
    assert len(kept) == len(set(kept))


def test_two_methods_with_a_path_of_their_own_are_refused(monkeypatch):
    class Other(DISTILLERS["KD"]):
        def forward_teacher(self, image, logits=None):
            return super().forward_teacher(image, logits)

    monkeypatch.setitem(DISTILLERS, "MYKD", Other)
    cfg_of = tiny_cfg

    def with_node(*words):
        cfg = cfg_of(*words)
        cfg.defrost()
        cfg.MYKD = cfg.KD.clone()
        return cfg

    monkeypatch.setitem(globals(), "tiny_cfg", with_node)
    with pytest.raises(ConfigError, match="DFPTKD and MYKD cannot be combined: each runs the networks"):
        combined("DFPTKD", "MYKD")


@pytest.mark.parametrize("value", ["[]", "[KD, KD]", "[KD, 3]"])
def test_a_list_names_methods_once_each(value):
    with pytest.raises(ConfigError, match=r"DISTILLER.TYPE is .*a list of different ones"):
        tiny_cfg("DISTILLER.TYPE", value)


def test_an_unknown_member_is_named():
    with pytest.raises(ConfigError, match="unknown distiller 'DDK'; did you mean DKD"):
        combined("KD", "DDK")


def test_what_a_member_logs_reaches_the_loop():
    distiller = combined("CTKD", "SP")
    distiller(tiny_batch())
    assert "temperature" in distiller.take_logged()
