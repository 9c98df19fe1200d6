"""Before a run of several processes: do a user's method and teacher say so where their losses couple samples?"""

import torch
from yacs.config import CfgNode as CN

from ..config.keywords import keywords_for
from ..distillers import Distiller, Method
from ..distillers.choice import choice
from ..errors import PluginError, is_users, kind_and_message
from ..interop.from_mdistiller import Foreign
from ..teachers import TEACHERS, Teacher
from ..testing import tiny_method, tiny_teacher
from ..testing.shards import coupling_of


def check_shards(cfg: CN) -> None:
    """PluginError where a class of the user's couples samples, and does not declare it by `couples_samples`.

    Each process would then compute a loss of its own samples, and the run would not be that of one process. It is
    tried on tiny networks with the values of the config; a class that those do not suit is said, and not tried.
    """
    chosen = choice(cfg)
    for name, method in chosen.methods.items():
        if is_users(method) and issubclass(method, Distiller) and not issubclass(method, Foreign):
            _check(method, cfg, name)
    if chosen.is_taught and is_users(TEACHERS[chosen.kind]):
        _check(TEACHERS[chosen.kind], cfg, TEACHERS.node_of(chosen.kind))


def _check(cls: type[Method] | type[Teacher], cfg: CN, node: str) -> None:
    values = keywords_for(cls, cfg[node]) if cls.config else {}
    try:
        with torch.random.fork_rng(devices=[]):
            part = tiny_method(cls, **values) if issubclass(cls, Method) else tiny_teacher(cls, **values)
            difference = coupling_of(part) if isinstance(part, Distiller | Teacher) else ""
    except Exception as e:  # the run's own networks may suit it, where tiny ones do not
        print(f"{cls.__name__}: whether its terms couple samples could not be tried ({kind_and_message(e)})")
        return
    if difference:
        raise PluginError(cls, f"{difference}; several processes would compute another loss")
