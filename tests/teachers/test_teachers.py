"""The laws of all kinds of teacher; every registered kind is tested here."""

import pytest

from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.teachers import TEACHERS, Frozen, build_teacher
from mdistiller_dfpt.testing import (
    CLASSES,
    TEACHER_LAWS,
    tiny_batch,
    tiny_cfg,
    tiny_networks,
    tiny_others,
    tiny_teacher,
)
from mdistiller_dfpt.testing.make import OF_RUN


@pytest.mark.parametrize("law", TEACHER_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("kind", sorted(TEACHERS))
def test_every_kind_of_teacher_obeys_the_laws(kind, law):
    law(TEACHERS[kind])


@pytest.mark.parametrize("kind", sorted(TEACHERS))
def test_its_node_is_its_name_and_its_keys_its_keywords(kind):
    cfg = tiny_cfg("DISTILLER.TEACHER_KIND", kind)
    teacher = build_teacher(cfg, tiny_networks()[1], tiny_others(1), of_run=OF_RUN)
    assert type(teacher) is TEACHERS[kind]
    assert (kind.upper() in cfg) == bool(TEACHERS[kind].config)
    with pytest.raises(TypeError):
        tiny_teacher(TEACHERS[kind], no_such_key=1)


def test_feature_maps_of_cached_logits_are_refused():
    teacher = tiny_teacher(Frozen)
    teacher.caches["teacher"] = type("Cache", (), {"logits": lambda self, batch, compute: compute(batch.image)})()
    output = teacher(tiny_batch())["teacher"]
    assert output.logits.shape == (8, CLASSES)
    with pytest.raises(
        ConfigError, match="DISTILLER.LOGITS_CACHE stores only the teacher's logits, but the method uses 'feats'"
    ):
        output.detach().features["feats"]
