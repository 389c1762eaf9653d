"""Two real processes, started by the launcher the worker uses: the same batches, the same steps, the same answers."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.domain.errors import Conflict, InvalidInput
from tests.worker.test_crashes import by_step, read_records
from tests.worker.tiny import save_tiny
from tests.worker.tiny_runs import ListSink, changed, timeless, tiny_batches, tiny_run, weights
from worker.launching import ProcessesFailed, count_processes, launch
from worker.runs import StepRecord, TrainingResult
from worker.training import train

pytestmark = pytest.mark.slow
SIZES = [5, 3, 2, 1]  # no process gets half of most of them; the last leaves one without a sample
IDS = {b.batch_idx: b.batch_id for b in tiny_batches(SIZES)}
PER_BATCH = {IDS[0]: [(0, 1), (0, 2)], IDS[1]: [(1, 4), (1, 5)], IDS[2]: [(0, 1), (0, 3)], IDS[3]: [(2, 0), (2, 7)]}


def together(home: Path, n: int = 2, **runs: dict[str, Any]) -> dict[str, Any]:
    """Do these runs in n processes, one after the other."""
    found = launch("tests.worker.rank_process", [str(home), json.dumps(runs)], n, home / "launch")
    return {name: result if "broken" in result else TrainingResult.read(result) for name, result in found.items()}


def records(home: Path, name: str) -> list[StepRecord]:
    return read_records(home / f"{name}.jsonl")


def notes(home: Path, name: str) -> str:
    return (home / f"{name}.notes").read_text()


def alone(model: Path, out_dir: Path, **changes: Any) -> tuple[TrainingResult, ListSink]:
    sink = ListSink()
    return train(tiny_run(model, out_dir, **{"batches": tiny_batches(SIZES)} | changes), sink), sink


def samples(record: StepRecord) -> list[tuple[Any, ...]]:
    return [(s["batch_idx"], s["in_batch_idx"], s["row_id"], s["label"], s["prompt_digest"]) for s in record.samples]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("olmoe"), "olmoe")


@pytest.fixture(scope="module")
def dropping(tmp_path_factory) -> Path:
    """A model that draws random numbers in every forward."""
    folder = save_tiny(tmp_path_factory.mktemp("dropping"), "olmoe")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
    return folder


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "per-batch": {"experts": PER_BATCH, "routing": "masked", "epochs": 1},
    "baseline": {"preserve_batches": False, "epochs": 1},
    "full": {"mode": "full", "experts": None, "micro_batch_size": 1, "epochs": 1},
    "others": {"mode": "all_but_selected", "dtype": "bfloat16", "epochs": 1},
    "adapter": {"adapter": {"rank": 2, "alpha": 4.0}},
    "routers": {"routers": {"learning_rate": None}, "sizes": [5, 3, 2, 4]},  # counterparts on different processes
}


SHARDED: dict[str, dict[str, Any]] = {
    "sharded-full": {"mode": "full", "experts": None, "shard_weights": True, "epochs": 1},
    "sharded": {"shard_weights": True},
    "sharded-others": {"mode": "all_but_selected", "shard_weights": True, "micro_batch_size": 1, "epochs": 1},
}
WAYS |= SHARDED


@pytest.fixture(scope="module")
def two(home, olmoe, dropping) -> dict[str, Any]:
    usual = {"model": str(olmoe), "sizes": SIZES}
    return together(
        home,
        **{name: usual | changes for name, changes in WAYS.items()},
        stopped=usual | {"stop_after": 5},
        routers_stopped=usual | WAYS["routers"] | {"stop_after": 6},
        chance=usual | {"model": str(dropping)},
        chance_stopped=usual | {"model": str(dropping), "stop_after": 5},
        sharded_stopped=usual | SHARDED["sharded"] | {"stop_after": 5},
        forged=usual | {"forged": [1], "shuffle_batches": False},
        scarce=usual | {"scarce": [1, 1], "epochs": 1},
    )


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_see_the_samples_of_one_and_come_close_to_its_losses(home, two, olmoe, tmp_path, way):
    own = {name: value for name, value in WAYS[way].items() if name != "sizes"}
    if "sizes" in WAYS[way]:
        own["batches"] = tiny_batches(WAYS[way]["sizes"])
    result, sink = alone(olmoe, tmp_path, **{**own, "shard_weights": False})
    found = records(home, way)
    close = 0.05 if WAYS[way].get("dtype") else 1e-4  # sums in another order
    assert len(found) == len(sink.records) > 0
    for mine, theirs in zip(sink.records, found, strict=True):
        assert (mine.step, mine.epoch, mine.batch_id) == (theirs.step, theirs.epoch, theirs.batch_id)
        assert (mine.n_answer_tokens, mine.verified) == (theirs.n_answer_tokens, theirs.verified)
        assert samples(mine) == samples(theirs)
        assert [s["loss"] for s in theirs.samples] == pytest.approx([s["loss"] for s in mine.samples], rel=close)
        assert theirs.loss == pytest.approx(mine.loss, rel=close)
        assert theirs.kind == mine.kind
        assert (theirs.consistency_loss or 0) == pytest.approx(mine.consistency_loss or 0, rel=50 * close)
        assert theirs.grad_norm == pytest.approx(mine.grad_norm, rel=5 * close)
        for label in ("loss_safe", "loss_unsafe"):  # None where a batch has no such sample
            assert (getattr(theirs, label) or 0) == pytest.approx(getattr(mine, label) or 0, rel=close)
    before = weights(olmoe)
    assert changed(before, weights(two[way].model_dir)) == changed(before, weights(result.model_dir))


def test_memory_that_is_scarce_for_one_process_halves_the_parts_of_all_and_the_run_says_so(home, two, olmoe, tmp_path):
    _, sink = alone(olmoe, tmp_path, epochs=1)
    found = records(home, "scarce")
    assert [samples(r) for r in found] == [samples(r) for r in sink.records]
    assert [r.loss for r in found] == pytest.approx([r.loss for r in sink.records], rel=1e-4)
    for before, after in ((3, 2), (2, 1)):
        assert f"out of memory with {before} samples per forward; going on with {after}" in notes(home, "scarce")


def test_what_another_process_was_given_is_verified_too(home, two):
    said = two["forged"]["broken"]  # the second process' first sample of batch 0: the second of two safe ones
    assert "Step 1 was to train batch 0" in said
    assert "sample 1 " in said
    assert "prompt digest" in said
    assert not records(home, "forged")


def test_the_first_error_of_a_process_comes_back_in_words_and_what_each_says_with_its_rank(olmoe, tmp_path, capfd):
    with pytest.raises(ProcessesFailed, match=r"^Process 1 of 2: a fault in process 1$"):
        together(tmp_path, faulty={"model": str(olmoe), "raise": [1, 2]})
    assert [r.step for r in records(tmp_path, "faulty")] == [1]
    said = "".join(capfd.readouterr())
    for rank in (0, 1):
        assert f"process {rank}: process {rank} has something to say" in said


def test_a_killed_process_is_named_and_what_was_stopped_or_killed_ends_as_if_it_never_was(home, two, olmoe, dropping):
    usual = {"model": str(olmoe), "sizes": SIZES}
    with pytest.raises(ProcessesFailed, match=r"Process 1 of 2 ended with SIGKILL.*out of memory.*Resume"):
        together(home, killed=usual | {"die": [1, 5]})
    with pytest.raises(ProcessesFailed, match=r"Process 0 of 2 ended with SIGKILL"):
        together(home, adapter_killed=usual | WAYS["adapter"] | {"die": [0, 7]})
    going_on = {
        "killed": usual,
        "stopped": usual,
        "chance_stopped": usual | {"model": str(dropping)},
        "sharded_stopped": usual | SHARDED["sharded"],
        "adapter_killed": usual | WAYS["adapter"],
        "routers_stopped": usual | WAYS["routers"],
    }
    shutil.copytree(home / "stopped", home / "stopped-for-one")
    shutil.copytree(home / "chance_stopped", home / "chance-for-one")
    after = together(home, **going_on)
    assert {name: result.resumed_from for name, result in after.items()} == {
        "killed": 3,  # inside the first epoch, from a checkpoint
        "stopped": 5,  # inside the second
        "chance_stopped": 5,
        "sharded_stopped": 5,
        "adapter_killed": 6,
        "routers_stopped": 6,
    }
    like = {
        "routers_stopped": "routers",
        "adapter_killed": "adapter",
        "chance_stopped": "chance",
        "sharded_stopped": "sharded",
    }
    for name, result in after.items():
        undisturbed = like.get(name, "plain")
        assert by_step(records(home, name)) == timeless(records(home, undisturbed))
        assert result.manifest_sha256 == two[undisturbed].manifest_sha256
    assert timeless(records(home, "chance")) != timeless(records(home, "plain"))  # chance was at work indeed


def test_another_number_of_processes_goes_on_and_says_so_unless_chance_is_at_work(home, two, olmoe, dropping):
    for name in ("stopped", "chance"):  # made by the test above; a run of this test alone makes them anew
        if not (home / f"{name}-for-one").is_dir():
            shutil.copytree(home / ("chance_stopped" if name == "chance" else name), home / f"{name}-for-one")
    result, sink = alone(olmoe, home / "stopped-for-one")
    assert result.resumed_from == 5
    assert [samples(r) for r in sink.records] == [samples(r) for r in records(home, "plain")[5:]]
    assert [kind for kind, _ in sink.notes] == ["processes"]
    assert "up to step 5 this run was trained by 2 process(es), from then on by 1" in sink.notes[0][1]
    with pytest.raises(Conflict, match=r"written by 2 process\(es\), and 1 are to go on.*attention_dropout = 0.3"):
        alone(dropping, home / "chance-for-one")


def test_sharding_needs_somebody_to_share_with(olmoe, tmp_path):
    with pytest.raises(InvalidInput, match="shard_weights needs at least two processes"):
        alone(olmoe, tmp_path, shard_weights=True)


def test_nothing_outlives_the_stage_that_started_the_processes(olmoe, tmp_path):
    runs = json.dumps({"endless": {"model": str(olmoe), "epochs": 100_000, "checkpoint_every": 10**6}})
    call = ["tests.worker.rank_process", [str(tmp_path), runs], 2]
    code = (
        f"import pathlib; from worker.launching import launch; launch(*{call!r}, pathlib.Path({str(tmp_path / 'l')!r}))"
    )
    stage = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: records(tmp_path, "endless"))
    below = psutil.Process(stage.pid).children(recursive=True)
    assert len([p for p in below if "tests.worker.rank_process" in " ".join(p.cmdline())]) >= 2
    stage.kill()
    stage.wait()
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in below))


def wait_for(ready: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_more_processes_than_devices_are_refused_by_name():
    assert count_processes(None, "cpu") == 1
    assert count_processes(3, "cpu") == 3
    with pytest.raises(InvalidInput, match=r"n_processes is 2, but this worker sees 1 device"):
        count_processes(2, "cuda:0")
