"""What others may have written into a file: valid content with one thing changed, or nothing that makes sense.

Each test draws 100 cases, always the same ones; FUZZ_EXAMPLES=5000 draws more, and others with each run.
"""

import copy
import os
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
fuzzed = settings(
    max_examples=EXAMPLES or 100, derandomize=not EXAMPLES, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

# For cases that take a second: a tenth of them, and a case that falls is not made smaller, which takes hundreds more
slowly_fuzzed = settings(fuzzed, max_examples=(EXAMPLES or 100) // 10, phases=[Phase.explicit, Phase.generate])

words = st.sampled_from(
    ["", "x", "KD", "resnet8", "../..", "\n", "\0", "\x1b[2J", "é", "=1+1", "{x}", "{pair:2000000000}", "{}", "{0}",
     "{x.y}", "%s", "[]", "{}", "null", "a" * 300, "\ud800", "os:abort", "-1", "1e999", "nan"]
)  # fmt: skip
numbers = st.one_of(
    st.sampled_from([0, 1, -1, 2**31, 2**63, 10**30, 0.5, 1e300, -1e300, float("nan"), float("inf"), True, False]),
    st.integers(), st.floats(),
)  # fmt: skip
leaves = st.one_of(st.none(), numbers, words, st.text(max_size=10))
values = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)  # fmt: skip


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (*place, key)
        yield from _places(value[key], (*place, key))


@st.composite
def changed(draw: Any, value: Any) -> Any:
    """A nested value of dicts and lists in which up to three entries are others, missing or new."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            break
        *above, key = draw(st.sampled_from(places))
        at = value
        for step in above:
            at = at[step]
        how = draw(st.sampled_from(["other", "other", "missing", "new"]))
        if how == "missing":
            del at[key]
        elif how == "new" and isinstance(at, dict):
            at[draw(words)] = draw(values)
        else:
            at[key] = draw(values)
    return value


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Bytes of which some are others, missing or repeated."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        if not changed:
            break
        at = draw(st.integers(0, len(changed) - 1))
        how = draw(st.sampled_from(["bit", "byte", "cut", "gone", "twice"]))
        if how == "bit":
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "byte":
            changed[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del changed[at:]
        elif how == "gone":
            del changed[at : at + draw(st.integers(1, 8))]
        else:
            changed[at:at] = changed[at : at + draw(st.integers(1, 8))]
    return bytes(changed)
