"""Laws of a list of methods."""

from itertools import pairwise

import pytest
import torch
from yacs.config import CfgNode as CN

from mdistiller_dfpt.distillers import DISTILLERS
from mdistiller_dfpt.distillers.sp import sp_loss
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.testing import changed, snapshot, take_steps, tiny_batch, tiny_cfg, tiny_data, tiny_distiller
from mdistiller_dfpt.training.trainer import Trainer

TAUGHT = sorted(name for name in DISTILLERS if DISTILLERS[name].needs_teacher)
ASSISTANTS = ("DISTILLER.ASSISTANTS", "[resnet20, resnet14]")


def listed(*names, words=()):
    return tiny_distiller(f"[{', '.join(names)}]", *words)


def test_the_terms_are_those_of_each_method_alone():
    batch = tiny_batch()
    _, together = listed("KD", "SP", "DKD")(batch)
    expected = {}
    for name in ("KD", "SP", "DKD"):
        _, alone = tiny_distiller(name)(batch)
        expected |= {f"{name}.{key}": term for key, term in alone.items()}
    assert list(together) == list(expected)
    for key, term in expected.items():
        torch.testing.assert_close(together[key].weighted, term.weighted)
        assert together[key].kind == term.kind


def test_the_networks_run_once():
    distiller = listed("KD", "SP", "RKD")
    calls = []
    for network in (distiller.student, distiller.teacher.network):
        network.register_forward_hook(lambda *a: calls.append(a[0]))
    distiller(tiny_batch())
    assert calls == [distiller.student, distiller.teacher.network]


@pytest.mark.parametrize(
    "names",
    [*pairwise(n for n in TAUGHT if n not in ("AID", "BDKD", "DFPTKD", "KD3", "SIMKD")), ("DFPTKD", "CRD"),
     ("SIMKD", "CRD"), ("AT", "DFPTKD"), ("DFPTKD", "SIMKD")],
    ids="+".join,
)  # fmt: skip
def test_methods_train_together_and_the_teacher_does_not_change(names):
    distiller = listed(*names)
    before = [snapshot(network) for network in distiller.frozen()]
    take_steps(distiller, 3)
    for state, network in zip(before, distiller.frozen(), strict=True):
        assert changed(state, network.state_dict()) == []
    optimised = [id(p) for group in distiller.parameter_groups() for p in group["params"]]
    assert len(optimised) == len(set(optimised))
    assert set(optimised) == {id(p) for p in distiller.parameters() if p.requires_grad}
    other = listed(*names)
    other.load_training_state(distiller.training_state())
    assert changed(snapshot(distiller), other.state_dict()) == []
    kept = [v.data_ptr() for v in distiller.training_state().values() if v.numel()]
    assert len(kept) == len(set(kept))


def test_beside_a_method_that_builds_the_teacher_others_match_the_original_path_or_those_of_PATHS():
    batch = tiny_batch()
    together = listed("DFPTKD", "KD")
    found = together(batch)[1]["KD.kd"].weighted
    torch.testing.assert_close(found, tiny_distiller("KD")(batch)[1]["kd"].weighted)
    _, terms = listed("DFPTKD", "KD", words=("DISTILLER.PATHS", "{teacher: 1, prompt: 2}"))(batch)
    assert {"KD.ce", "KD.teacher.kd", "KD.prompt.kd", "DFPTKD.kd_prompt"} <= set(terms)
    assert terms["KD.prompt.kd"].weight == 2 * terms["KD.teacher.kd"].weight


def test_with_assistants_every_method_matches_the_last():
    distiller = listed("TAKD", "SP", words=ASSISTANTS)
    assert len(distiller.frozen()) == 3
    *_, last = distiller.frozen()
    batch = tiny_batch()
    _, terms = distiller(batch)
    maps = distiller.forward_student(batch.image).features["feats"][-1], last(batch.image)[1]["feats"][-1]
    torch.testing.assert_close(terms["SP.feat"].value, sp_loss(*maps))
    history = take_steps(distiller, 8)
    assert history[-1] < history[0]


def test_methods_with_assistants_share_them():
    distiller = listed("TAKD", "DGKD", words=(*ASSISTANTS, "DGKD.DROP", "0"))
    calls = []
    for number, network in enumerate(distiller.frozen()):
        network.register_forward_hook(lambda *a, number=number: calls.append(number))
    _, terms = distiller(tiny_batch())
    assert sorted(calls) == [0, 1, 2], "the teacher and both assistants, each once"
    assert {"TAKD.kd", "DGKD.kd"} <= set(terms)


def test_every_member_that_prepares_sees_all_of_the_training_set(registries):
    for name in ("FIRST", "SECOND"):

        @DISTILLERS.register(name)
        class Preparing(DISTILLERS["KDPP"]):
            config = CN(DISTILLERS["KDPP"].config)

            def prepare(self, batches):
                seen = []
                super().prepare(seen.append(batch) or batch for batch in batches)
                self.seen = [i for batch in seen for i in batch.index.tolist()]

    data, cfg = tiny_data(), tiny_cfg("DISTILLER.TYPE", "[FIRST, SECOND]")
    trainer = Trainer(cfg, listed("FIRST", "SECOND"), data)
    trainer.prepare()
    first, second = (member.distiller for member in trainer.distiller.members)
    assert sorted(first.seen) == sorted(second.seen) == list(range(data.num_train))
    torch.testing.assert_close(first.directions, second.directions)
    assert (first.directions.norm(dim=1) > 0.99).all()


def test_what_a_member_logs_reaches_the_loop():
    trainer = Trainer(tiny_cfg("DISTILLER.TYPE", "[CTKD, SP]"), listed("CTKD", "SP"), tiny_data())
    assert 1 < trainer.one_epoch()["temperature"] < 21


def test_two_methods_that_add_to_what_is_deployed_are_refused(registries):
    @DISTILLERS.register("OTHER")
    class Other(DISTILLERS["SIMKD"]):
        config = CN(DISTILLERS["SIMKD"].config)

    with pytest.raises(
        ConfigError, match="SimKD and Other cannot be combined: each adds modules to the deployed network"
    ):
        listed("SIMKD", "OTHER")


@pytest.mark.parametrize("value", ["[]", "[KD, KD]", "[KD, 3]"])
def test_a_list_names_methods_once_each(value):
    with pytest.raises(ConfigError, match=r"DISTILLER.TYPE is .*a list of distinct names"):
        tiny_cfg("DISTILLER.TYPE", value)


def test_an_unknown_member_is_named():
    with pytest.raises(ConfigError, match="unknown method 'DKDD'; did you mean DKD"):
        listed("KD", "DKDD")


@pytest.mark.parametrize(("names", "words"), [
    (("HARD", "SIMKD"), ()), (("CRLD", "LELP"), ()), (("KD", "LELP"), ("KD.LOSS.EXTRA_WEIGHT", "1.0")),
])  # fmt: skip
def test_what_a_member_runs_itself_goes_through_the_deployed_network(names, words):
    distiller = listed(*names, words=words).eval()
    member, adding = (m.distiller for m in distiller.members)
    image = tiny_batch().image
    with torch.no_grad():
        torch.testing.assert_close(member.forward_student(image).logits, adding.deployed(image)[0], rtol=0, atol=0)
    # Every member's terms train the classifier that is deployed, none the student's own
    assert adding.deployed is not distiller.student
    assert not any(p.requires_grad for p in distiller.student.classifier_layer.parameters())


@pytest.mark.parametrize("names", [("KDAIF", "SIMKD"), ("LELP", "TGEOKD"), ("CATKD", "SIMKD")], ids="+".join)
def test_no_other_classifier_beside_a_method_that_uses_the_students_own(names):
    with pytest.raises(ConfigError, match="cannot be combined: one uses the student's own classifier"):
        listed(*names)
