"""Several forwards in one step are the step: same gradients, same verification; and what a lack of memory does."""

from pathlib import Path

import pytest
import torch

from tests.worker.tiny import save_tiny
from tests.worker.tiny_runs import ListSink, scarce, timeless, tiny_batches, tiny_run
from worker import training
from worker.micro_batches import MicroBatches, OutOfMemory, is_out_of_memory
from worker.models import load_model
from worker.training import build_trainer, train

BATCHES = tiny_batches((16, 16, 10))


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("olmoe"), "olmoe")


def first_gradients(olmoe, out_dir, **changes):
    """Return the first step's gradients, as they are before clipping, and its record."""
    run = tiny_run(olmoe, out_dir, batches=BATCHES, epochs=1, **changes)
    sink = ListSink(stop_after=1)
    trainer = build_trainer(run, load_model(olmoe), sink, facts={})
    found: dict[str, torch.Tensor] = {}
    clip = trainer.weights.clip

    def look(max_norm):
        if not found:
            found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
        return clip(max_norm)

    trainer.weights.clip = look
    trainer.train()
    return found, sink.records[0]


@pytest.mark.parametrize("mode", ["selected", "full"])
@pytest.mark.parametrize("routing", ["free", "masked"])
def test_the_gradient_of_a_batch_in_parts_is_that_of_the_whole_batch(olmoe, tmp_path, mode, routing):
    settings = {"mode": mode, "routing": routing, "experts": [(0, 1), (0, 3), (1, 0), (1, 3)]}
    whole, record = first_gradients(olmoe, tmp_path / "whole", **settings)
    for size in (1, 3, 8):
        parts, cut = first_gradients(olmoe, tmp_path / f"{size}", micro_batch_size=size, **settings)
        assert parts.keys() == whole.keys()
        for name, grad in whole.items():
            assert torch.allclose(parts[name], grad, rtol=1e-4, atol=1e-6 * float(grad.abs().max()) + 1e-8), name
        assert (cut.verified, cut.n_answer_tokens) == (True, record.n_answer_tokens)
        assert [s["row_id"] for s in cut.samples] == [s["row_id"] for s in record.samples]
        assert [s["loss"] for s in cut.samples] == pytest.approx([s["loss"] for s in record.samples], rel=1e-5)


@pytest.fixture
def short_of_memory(monkeypatch):
    """Make every model trained from now on run out of memory above so many rows per forward."""

    def limit(rows):
        build = build_trainer

        def build_scarce(*args, **kwargs):
            trainer = build(*args, **kwargs)
            scarce(trainer.model, rows)
            return trainer

        monkeypatch.setattr(training, "build_trainer", build_scarce)

    return limit


def test_a_run_that_runs_out_of_memory_goes_on_in_smaller_parts_and_says_so(olmoe, tmp_path, short_of_memory):
    asked = ListSink()
    train(tiny_run(olmoe, tmp_path / "asked", batches=BATCHES, micro_batch_size=4), asked)
    short_of_memory(5)
    found = ListSink()
    train(tiny_run(olmoe, tmp_path / "found", batches=BATCHES), found)
    assert timeless(found.records) == timeless(asked.records)  # what fails is forgotten: the same bits
    assert found.notes == [
        ("micro_batch", "step 1: out of memory with 16 samples per forward; going on with 8"),
        ("micro_batch", "step 1: out of memory with 8 samples per forward; going on with 4"),
    ]


def test_a_resumed_run_keeps_the_parts_that_fitted(olmoe, tmp_path, short_of_memory, monkeypatch):
    short_of_memory(5)
    whole, part = ListSink(), ListSink(stop_after=4)
    undisturbed = train(tiny_run(olmoe, tmp_path / "whole", batches=BATCHES), whole)
    train(tiny_run(olmoe, tmp_path / "part", batches=BATCHES), part)
    monkeypatch.undo()  # memory enough again: the parts must stay as they were
    part.stop_after = None
    resumed = train(tiny_run(olmoe, tmp_path / "part", batches=BATCHES), part)
    assert timeless(part.records) == timeless(whole.records)
    assert resumed.manifest_sha256 == undisturbed.manifest_sha256
    assert len(part.notes) == 2


def test_after_three_halvings_the_run_fails_in_words_before_the_step(olmoe, tmp_path, short_of_memory):
    short_of_memory(1)
    sink = ListSink()
    with pytest.raises(OutOfMemory, match=r"Step 1: out of memory with 2 samples per forward, after halving 3 times"):
        train(tiny_run(olmoe, tmp_path, batches=BATCHES), sink)
    assert not sink.records
    assert len(sink.notes) == 3


def test_a_single_sample_that_does_not_fit_fails_at_once():
    with pytest.raises(OutOfMemory, match="out of memory with 1 samples"):
        MicroBatches(1, 16).halve(7)


def test_only_memory_counts_as_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
