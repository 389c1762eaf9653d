"""What a checkpoint holds beside the weights comes back bit for bit, and nothing of it is pickled."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.worker.tiny import save_tiny
from tests.worker.tiny_runs import ListSink, timeless, tiny_run
from worker.checkpoints import MANIFEST, publish, read_manifest
from worker.state_files import random_state, read_state, restore_random_state, write_state
from worker.training import train

FLOATS = st.floats(allow_nan=False) | st.integers(-(2**70), 2**70) | st.booleans() | st.none() | st.text(max_size=5)
TENSORS = arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)).map(
    torch.from_numpy
)
STATES = st.dictionaries(
    st.integers(0, 9) | st.text(max_size=5),
    st.recursive(
        FLOATS | TENSORS,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["tensor", "items", "x"]), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=4,
)


def same(left, right) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and left.shape == right.shape and (
            left.numpy().tobytes() == right.numpy().tobytes()
        )  # fmt: skip
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


@given(state=STATES)
def test_what_is_written_comes_back_bit_for_bit(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("state")
    write_state(state, folder, "some")
    assert same(read_state(folder, "some"), state)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", lambda: None])
def test_what_is_neither_tensor_nor_json_is_refused_when_it_is_written(tmp_path, value):
    with pytest.raises(TypeError):
        write_state({"x": [value]}, tmp_path, "bad")
    assert not list(tmp_path.iterdir())


def test_chance_goes_on_where_it_was(tmp_path):
    def draw():
        return random.random(), np.random.normal(size=3).tolist(), torch.rand(3).tolist()

    random.gauss(0, 1), np.random.normal()  # half of a pair of normal numbers is kept for the next call
    write_state(random_state(), tmp_path, "random_0")
    first = draw()
    draw()
    restore_random_state(read_state(tmp_path, "random_0"))
    assert draw() == first


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("olmoe"), "olmoe")


def test_a_checkpoint_holds_nothing_pickled_and_one_that_did_is_passed_over_with_a_note(olmoe, tmp_path):
    undisturbed = ListSink()
    whole = train(tiny_run(olmoe, tmp_path / "whole", epochs=1), undisturbed)
    first = ListSink(stop_after=3)
    train(tiny_run(olmoe, tmp_path / "old", epochs=1), first)
    folder = tmp_path / "old" / "checkpoint-3"
    kinds = {file.suffix for file in folder.iterdir()}
    assert kinds <= {".safetensors", ".json", ".md", ".jinja"}, kinds
    facts = read_manifest(folder).facts
    before = folder.rename(folder.with_name("before"))
    (before / MANIFEST).unlink()
    publish(before, folder, facts | {"version": 2})
    second = ListSink()
    result = train(tiny_run(olmoe, tmp_path / "old", epochs=1), second)
    ((kind, text),) = second.notes
    assert kind == "checkpoint"
    assert text.startswith("checkpoint-3 was written by an earlier version, with pickled state")
    assert result.resumed_from is None
    assert timeless(second.records) == timeless(undisturbed.records)
    assert result.manifest_sha256 == whole.manifest_sha256
