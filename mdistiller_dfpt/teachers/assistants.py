"""Networks between teacher and student: named by a method's ASSISTANTS key, trained in turn before the student."""

from ..config_keys import Limit

ASSISTANT_LIMITS = {
    "ASSISTANTS": Limit(
        "a list of networks' names, the strongest first", lambda v: all(type(name) is str and name for name in v)
    )
}
