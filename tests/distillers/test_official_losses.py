"""Every loss equals its authors' code: value and gradient, in float64, on the same inputs."""

import json

import pytest

from ..golden import LOSSES
from .official.cases import CASES, ENTRIES, LISTED, RECORD, differences, measured

TOLERANCE = 1e-6


@pytest.mark.parametrize("name", sorted(CASES))
def test_an_entry_is_met(name):
    found = differences(name)
    of_others = {"source", "inputs", "terms", "left_out", *(key for key in LOSSES["crd"] if key.startswith("memory"))}
    assert (ENTRIES.get(name) or LOSSES[name]).keys() - of_others == found.keys()
    assert {key: error for key, error in found.items() if error > TOLERANCE} == {}


def test_every_entry_is_met_or_listed_with_the_reason():
    assert set(ENTRIES) == {name for name in CASES if name in ENTRIES} | set(LISTED)
    assert not CASES.keys() & LISTED.keys()
    assert all(reason for _, reason in LISTED.values())


def test_the_record_is_what_is_measured():
    """Another processor or library may round differently: a tenth power more, or anything below 1e-12."""
    recorded, now = json.loads(RECORD.read_text()), measured()
    without = [{m: {**own, "difference": None} for m, own in record.items()} for record in (recorded, now)]
    assert without[0] == without[1], "run `python -m tests.distillers.official`"
    for method, own in now.items():
        assert own["difference"] <= max(10 * recorded[method]["difference"], 1e-12), method
