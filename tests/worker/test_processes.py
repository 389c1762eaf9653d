"""Two real processes, started by the launcher the worker uses: the same batches, the same steps, the same answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from backend.domain.errors import InvalidInput
from tests.worker.test_crashes import by_step, read_records
from tests.worker.tiny import save_tiny
from tests.worker.tiny_runs import ListSink, changed, timeless, tiny_batches, tiny_run, weights
from worker.launching import ProcessesFailed, count_processes, launch
from worker.runs import StepRecord, TrainingResult
from worker.training import train

BATCHES = {"sizes": [4, 3, 2, 1]}  # the last leaves a process without a sample


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("olmoe"), "olmoe")


def together(model: Path, home: Path, n: int = 2, **changes: Any) -> tuple[TrainingResult, list[StepRecord]]:
    """Train in n processes; return the result and every record written so far."""
    records = home / "records.jsonl"
    args = [str(model), str(home / "run"), str(records), json.dumps(changes)]
    result = launch("tests.worker.rank_process", args, n, home / "launch")
    return TrainingResult.read(result), read_records(records)


def alone(model: Path, home: Path, **changes: Any) -> tuple[TrainingResult, list[StepRecord]]:
    sink = ListSink()
    return train(tiny_run(model, home, **changes), sink), sink.records


def samples(record: StepRecord) -> list[tuple[Any, ...]]:
    return [(s["in_batch_idx"], s["row_id"], s["label"], s["prompt_digest"]) for s in record.samples]


@pytest.fixture(scope="module")
def two(olmoe, tmp_path_factory) -> tuple[TrainingResult, list[StepRecord]]:
    return together(olmoe, tmp_path_factory.mktemp("two"), **BATCHES)


def test_two_processes_see_the_samples_of_one_and_come_close_to_its_losses(olmoe, two, tmp_path):
    result, records = alone(olmoe, tmp_path, batches=tiny_batches(BATCHES["sizes"]))
    assert len(two[1]) == len(records) == 8
    for mine, theirs in zip(records, two[1], strict=True):
        assert (mine.step, mine.epoch, mine.batch_id) == (theirs.step, theirs.epoch, theirs.batch_id)
        assert mine.n_answer_tokens == theirs.n_answer_tokens
        assert theirs.verified is True
        ids = [
            [(s["in_batch_idx"], s["row_id"], s["label"], s["prompt_digest"]) for s in r.samples]
            for r in (mine, theirs)
        ]
        assert ids[0] == ids[1]
        assert theirs.loss == pytest.approx(mine.loss, rel=2e-3)
        assert theirs.grad_norm == pytest.approx(mine.grad_norm, rel=1e-2)
    before, after = weights(olmoe), weights(two[0].model_dir)
    assert changed(before, after) == changed(before, weights(result.model_dir))


def test_a_run_of_two_processes_that_was_stopped_inside_an_epoch_ends_as_if_it_never_was(olmoe, two, tmp_path):
    stopped, _ = together(olmoe, tmp_path, **BATCHES, stop_after=5)  # of 8, one in the second epoch
    assert stopped.stopped
    resumed, records = together(olmoe, tmp_path, **BATCHES)
    assert resumed.resumed_from == 5
    assert timeless(records) == timeless(two[1])
    assert resumed.manifest_sha256 == two[0].manifest_sha256


def test_the_first_error_of_a_process_comes_back_in_words(olmoe, tmp_path):
    with pytest.raises(ProcessesFailed, match=r"^a fault in process 1$"):
        together(olmoe, tmp_path, **{"raise": [1, 2]}, epochs=1)
    assert [r.step for r in read_records(tmp_path / "records.jsonl")] == [1]


def test_a_killed_process_ends_the_others_and_is_named(olmoe, two, tmp_path):
    with pytest.raises(ProcessesFailed, match=r"Process 1 of 2 ended with SIGKILL.*out of memory.*Resume"):
        together(olmoe, tmp_path, **BATCHES, die=[1, 5])
    resumed, records = together(olmoe, tmp_path, **BATCHES)
    assert resumed.resumed_from == 3
    assert by_step(records) == timeless(two[1])
    assert resumed.manifest_sha256 == two[0].manifest_sha256


def test_more_processes_than_devices_are_refused_by_name():
    assert count_processes(None, "cpu") == 1
    assert count_processes(3, "cpu") == 3
    with pytest.raises(InvalidInput, match=r"n_processes is 2, but this worker sees 1 device"):
        count_processes(2, "cuda:0")
