"""DISTILLER.LOGITS_CACHE: caches in the place of the frozen networks of a run."""

from collections.abc import Callable, Mapping
from functools import partial

from yacs.config import CfgNode as CN

from ..data import Data
from ..data.loader import Loader
from ..distillers import Distiller, Method
from ..distillers.choice import choice
from ..errors import ConfigError
from ..runs.hashing import state_hash
from ..runs.identity import Identity
from ..teachers import Teacher
from ..teachers.fill_cache import fill_cache, open_cache
from ..teachers.logits_cache import LogitsCache


def cache_logits(cfg: CN, distiller: Method, data: Data, identity: Identity) -> dict[str, LogitsCache]:
    """Open a cache for each frozen network that the methods read, and give it to the teacher; by its name there.

    ConfigError if a method uses more of the teacher than logits of these networks.
    """
    read = _networks_read(distiller)
    if not read:
        raise ConfigError(
            f"DISTILLER.LOGITS_CACHE is {cfg.DISTILLER.LOGITS_CACHE}; {choice(cfg).label} uses more of the teacher than"
            " the logits of frozen networks per view, or no logits: remove this key"
        )
    assert isinstance(distiller, Distiller)
    caches = {
        name: open_cache(cfg.DISTILLER.LOGITS_CACHE, data.train, data.num_classes, key)
        for name, key in _keys(cfg, distiller.teacher, identity).items()
        if name in read
    }
    distiller.teacher.caches.update(caches)
    return caches


def fill_caches(
    teacher: Teacher, caches: Mapping[str, LogitsCache], loader: Loader, between: Callable[[], None]
) -> None:  # fmt: skip
    """Compute what is missing in all of them, and hold them on the device; `between`: called between forward passes."""
    for name, cache in caches.items():
        fill_cache(cache, partial(teacher.frozen_logits, name), loader, between)
        teacher.caches[name] = cache.whole(loader.device)


def _networks_read(distiller: Method) -> set[str]:
    """The names of the cacheable networks whose logits are read; none if anything else of the teacher is used."""
    members = [member.distiller for member in getattr(distiller, "members", ())] or [distiller]
    read: set[str] = set()
    for one in members:
        if not isinstance(one, Distiller) or any(
            (one.needs_teacher_maps, one.needs_strong_view, one.needs_extra, one.teacher_batch_statistics)
        ):
            return set()
        for path in (one.path,) if one.matches_one_path else one.teacher.path_names():
            read.update(one.teacher.read_by(path))
    return read


def _keys(cfg: CN, teacher: Teacher, identity: Identity) -> dict[str, str]:
    """What determines the logits of each cacheable network of the teacher."""
    chosen, normalisations = choice(cfg), identity.get("normalisation", {})
    names = dict(zip(map(id, teacher.frozen()), (chosen.teacher, *chosen.others), strict=False))
    keys = {}
    for name, network in teacher.cacheable().items():
        title, is_first = names.get(id(network), name), network is teacher.network
        size = is_first and cfg.DISTILLER.TEACHER_SIZE
        normalisation = normalisations.get("teacher" if is_first else title)
        parts = [state_hash(network.state_dict()), cfg.SOLVER.AMP, normalisation, size and f"size {size}"]
        # Weights say nothing of the function that uses them
        parts += [title, *map(str, sorted(identity.get("code", {}).items()))]
        keys[name] = " ".join(str(part) for part in parts if part)
    return keys
