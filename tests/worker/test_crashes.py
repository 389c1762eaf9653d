"""A training that dies at any moment ends, when taken up again, as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.worker.tiny import save_tiny
from tests.worker.tiny_runs import ListSink, timeless, tiny_run
from worker import checkpoints
from worker.runs import StepRecord
from worker.training import train


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("olmoe"), "olmoe")


@pytest.fixture(scope="module")
def undisturbed(olmoe, tmp_path_factory):
    sink = ListSink()
    return sink, train(tiny_run(olmoe, tmp_path_factory.mktemp("undisturbed")), sink)


def by_step(records):
    """Return the records by step; two records of one step must be the same but for their time."""
    found: dict[int, StepRecord] = {}
    for record in timeless(records):
        assert found.setdefault(record.step, record) == record
    return [found[step] for step in sorted(found)]


def read_records(path):
    lines = path.read_text().splitlines() if path.is_file() else []
    return [StepRecord(**{**(r := json.loads(line)), "samples": tuple(r["samples"])}) for line in lines]


def test_a_process_killed_twice_leaves_the_weights_and_records_of_an_undisturbed_run(olmoe, undisturbed, tmp_path):
    sink, result = undisturbed
    records = tmp_path / "records.jsonl"
    command = [sys.executable, "-m", "tests.worker.training_process", olmoe, tmp_path / "run", records]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    for kill_after in (2, 5):  # before the first checkpoint, and between two
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 240
        seen = 0
        while max((r.step for r in read_records(records)[seen:]), default=0) < kill_after:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    last = ListSink()
    resumed = train(tiny_run(olmoe, tmp_path / "run"), last)
    assert resumed.resumed_from == 3
    assert by_step([*read_records(records), *last.records]) == timeless(sink.records)
    assert resumed.manifest_sha256 == result.manifest_sha256


class Crash(BaseException):
    """Not an Exception: nothing tidies up after a power cut."""


def crash_at(monkeypatch, name, call):
    """Make the call-th use of a function of checkpoints.py the last thing this process does."""
    original, count = getattr(checkpoints, name), 0

    def crashing(*args, **kwargs):
        nonlocal count
        count += 1
        if count == call:
            raise Crash
        return original(*args, **kwargs)

    monkeypatch.setattr(checkpoints, name, crashing)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("sha256_file", 1),
        ("sha256_file", 4),
        ("_flush", 1),
        ("canonical_json", 1),
        ("canonical_json", 2),
        ("_flush", 24),
    ],
)
def test_a_crash_while_a_checkpoint_is_written_costs_steps_but_no_result(
    olmoe, undisturbed, tmp_path, monkeypatch, name, call
):
    sink, result = undisturbed
    first = ListSink()
    with monkeypatch.context() as patch:
        crash_at(patch, name, call)
        with pytest.raises(Crash):
            train(tiny_run(olmoe, tmp_path), first)
    second = ListSink()
    last = train(tiny_run(olmoe, tmp_path), second)
    assert by_step([*first.records, *second.records]) == timeless(sink.records)
    assert last.manifest_sha256 == result.manifest_sha256
    assert not list(tmp_path.glob(".staging*"))


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_is_used(olmoe, undisturbed, tmp_path):
    sink, result = undisturbed
    first = ListSink(stop_after=7)
    train(tiny_run(olmoe, tmp_path), first)
    weights = tmp_path / "checkpoint-7" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    second = ListSink()
    last = train(tiny_run(olmoe, tmp_path), second)
    assert last.resumed_from == 6
    assert "checkpoint-7 cannot be used (model.safetensors is damaged)" in second.lines[0]
    assert by_step([*first.records, *second.records]) == timeless(sink.records)
    assert last.manifest_sha256 == result.manifest_sha256


def test_a_damaged_model_is_made_again(olmoe, undisturbed, tmp_path):
    _, result = undisturbed
    train(tiny_run(olmoe, tmp_path), ListSink())
    (tmp_path / "model" / "config.json").write_text("{}")
    again = ListSink()
    assert train(tiny_run(olmoe, tmp_path), again).manifest_sha256 == result.manifest_sha256
    assert [r.step for r in again.records] == [7, 8]
    assert "trained model cannot be used" in again.lines[0]


@pytest.mark.slow
def test_a_run_killed_at_random_moments_and_at_every_boundary_of_a_checkpoint_ends_as_if_it_never_was(olmoe, tmp_path):
    command = [sys.executable, "-m", "tests.worker.crash_server", olmoe, tmp_path, str(time.time_ns() % 10**6)]
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert sum(told["kills"].values()) >= 20
    assert len(told["boundaries"]) >= 12, told
    for name in (*told["kills"], *told["boundaries"]):
        like = "short" if name in told["boundaries"] else "undisturbed"
        where = f"seed {command[-1]}: {name} {told['boundaries'].get(name, '')}"
        mine, theirs = ((tmp_path / n / "model" / "manifest.json").read_bytes() for n in (name, like))
        assert mine == theirs, where
        records = [by_step(read_records(tmp_path / f"{n}.jsonl")) for n in (name, like)]
        assert records[0] == records[1], where
        assert not list((tmp_path / name).glob(".staging*")), where
