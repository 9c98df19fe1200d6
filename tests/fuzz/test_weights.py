"""Files of weights with odd tensors, names and nesting, and damaged ones: loaded whole, or one CheckpointError."""

import io
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from mdistiller_dfpt import build_model
from mdistiller_dfpt.errors import CheckpointError
from mdistiller_dfpt.runs.weights import class_counts, load_into

from .strategies import damaged, fuzzed, leaves, words

pytestmark = pytest.mark.filterwarnings("ignore:.*quantiz.*:UserWarning")
NETWORK = build_model("resnet8", num_classes=10)
STATE = NETWORK.state_dict()


def _quantised(tensor):
    return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8)


ODD = {
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "quantised": _quantised,
    "complex": lambda t: t.to(torch.complex64),
    "half": lambda t: t.half(),
    "double": lambda t: t.double(),
    "bool": lambda t: t.bool(),
    "int": lambda t: t.int(),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "empty": lambda t: t.new_zeros(0),
    "scalar": lambda t: t.new_zeros(()),
    "expanded": lambda t: t.new_zeros(()).expand(t.shape),
    "strided": lambda t: t.new_zeros(*t.shape, 2)[..., 0],
    "parameter": lambda t: torch.nn.Parameter(t.float()),
    "more dimensions": lambda t: t[None],
    "nan": lambda t: torch.full_like(t, float("nan")) if t.is_floating_point() else t,
    "list": lambda t: t.tolist(),
    "numpy": lambda t: t.numpy(),
    "none": lambda t: None,
}


@st.composite
def states(draw):
    """The state of a network with odd tensors and entries, somewhere in a nested dict."""
    state = dict(STATE)
    for name in draw(st.lists(st.sampled_from(list(STATE)), max_size=3)):
        state[name] = ODD[draw(st.sampled_from(list(ODD)))](STATE[name])
    for name in draw(st.lists(st.sampled_from(list(STATE)), max_size=2)):
        state.pop(name, None)
    keys = st.one_of(words, st.integers(-2, 2), st.none(), st.tuples(st.integers(0, 1)), st.sampled_from(list(STATE)))
    state |= draw(st.dictionaries(keys, leaves, max_size=3))
    for _ in range(draw(st.integers(0, 3))):
        state = {draw(keys): state, **draw(st.dictionaries(keys, leaves, max_size=2))}
    return state


def loaded_or_refused(path):
    try:
        class_counts(NETWORK, path)
        load_into(NETWORK, path, "resnet8")
    except CheckpointError as e:
        assert re.match(rf"{re.escape(str(path))}: .", str(e)), str(e)  # noqa: PT017
        return
    for name, value in NETWORK.state_dict().items():
        assert (value.shape, value.dtype, value.device.type) == (STATE[name].shape, STATE[name].dtype, "cpu"), name


@fuzzed
@given(states())
def test_odd_contents_are_loaded_or_refused(tmp_path, state):
    try:
        torch.save(state, tmp_path / "a.pth")
    except (RuntimeError, NotImplementedError, UnicodeEncodeError):  # PyTorch does not write everything
        return
    loaded_or_refused(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", ODD)
def test_each_kind_of_odd_tensor_is_loaded_or_refused(kind, tmp_path):
    torch.save({**STATE, "fc.weight": ODD[kind](STATE["fc.weight"])}, tmp_path / "a.pth")
    loaded_or_refused(tmp_path / "a.pth")


def _pickled():
    buffer = io.BytesIO()
    torch.save({"state_dict": STATE, "epoch": 3}, buffer)
    return buffer.getvalue()


FILES = {"a.pth": _pickled(), "b.safetensors": save(STATE, {"format": "pt"})}


@pytest.mark.parametrize("name", FILES)
@fuzzed
@given(st.data())
def test_damaged_files_are_loaded_or_refused(name, tmp_path, data):
    (tmp_path / name).write_bytes(data.draw(damaged(FILES[name])))
    loaded_or_refused(tmp_path / name)


@pytest.mark.parametrize("name", FILES)
@fuzzed
@given(st.data())
def test_damaged_beginnings_are_loaded_or_refused(name, tmp_path, data):
    content = FILES[name]
    (tmp_path / name).write_bytes(data.draw(damaged(content[:2000])) + content[2000:])
    loaded_or_refused(tmp_path / name)
