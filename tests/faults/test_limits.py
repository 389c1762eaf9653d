"""Memory that runs out, checkpoints that are damaged, clocks that jump."""

import hashlib
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.services import Calm, begin_training, count, family, said, send, services, steer, succeeded
from tests.live import Live, done

HOUR = 3600


def test_a_lack_of_memory_halves_the_parts_and_then_fails_in_words(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "GPU out of memory",
        "torch.OutOfMemoryError raised in the forward on the CPU: above 4 samples (halved), above none (fails "
        "in words, no step applied), then a job that fits; steps and samples counted against the undisturbed run",
    )
    with services(calm, tmp_path / "home", pause=0) as live:
        for rows, status in ((4, "succeeded"), (0.5, "failed"), (0, "succeeded")):
            steer(live, rows=rows)
            case.tries += bool(rows)
            with case.recovering():
                found = live.finished(begin_training(live, calm.analysis, calm.experts, name=f"rows {rows}"))
            assert found["status"] == status, found
            halvings = [line for line in said(live, found["job_id"]) if "going on with" in line]
            assert len(halvings) == {4: 1, 0.5: 3, 0: 0}[rows], halvings
            if status == "failed":
                assert "out of memory with 1 samples per forward, after halving 3 times" in found["error"]
                case.doubled += len(steps(live, found))
            else:
                compare_steps(case, calm, steps(live, found))
        if weights(found) != calm.outcome["weights"]:
            case.lost += 1
    assert case.zeros


def steps(live: Live, training: dict[str, Any]) -> list[tuple[int, int, tuple[str, ...]]]:
    """Return (step, batch, rows) of every step of a training."""
    items = live.get(f"/trainings/{training['id']}/steps", limit=500)["items"]
    return [(one["step"], one["batch_idx"], one["batch_id"]) for one in items]


def compare_steps(case: Any, calm: Calm, found: list[Any]) -> None:
    wanted = {(row[0], row[2], row[3]) for row in calm.outcome["training_steps"]}
    case.lost += len(wanted - set(found))
    case.doubled += len(found) - len(wanted)


def weights(training: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each file of the trained weights."""
    folder = Path(training["result"]["model_path"])
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_a_damaged_checkpoint_costs_steps_and_no_result(fault, calm: Calm, tmp_path: Path, damage: str) -> None:
    words = {"bit": "one bit of its weights turned", "cut": "its weights cut in half", "gone": "its manifest removed"}
    case = fault(
        f"corrupt checkpoint: {words[damage]}",
        "the worker is killed, its newest checkpoint damaged, the worker started",
    )
    with services(calm, tmp_path / "home", pause=0.2) as live:
        path = begin_training(live, calm.analysis, calm.experts)
        now = live.progress(path, 12)
        live.kill("w0")
        checkpoints = list(live.home.glob("artifacts/trainings/*/checkpoint-*"))
        newest = max(checkpoints, key=lambda folder: int(folder.name.split("-")[1]))
        spoil(newest, damage)
        case.tries += 1
        steer(live, pause=0)
        with case.recovering():
            live.start_workers("w0")
            training = succeeded(live, path)
        assert any(f"{newest.name} cannot be used" in line for line in said(live, now["job_id"]))
        count(case, calm, live, training)
    assert case.zeros


def spoil(checkpoint: Path, damage: str) -> None:
    file = checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        (checkpoint / "manifest.json").unlink()


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_clock_that_jumps_an_hour_makes_no_worker_dead(fault, calm: Calm, tmp_path: Path, by: int) -> None:
    case = fault(
        f"clock moved by an hour, {'forward' if by > 0 else 'back'}",
        "the clock of all services is moved in a training that one of two workers does: nobody takes it over, "
        "until that worker is killed",
    )
    with services(calm, tmp_path / "home", "w0", "w1", pause=2) as live:
        path = begin_training(live, calm.analysis, calm.experts)
        job = live.progress(path, 3)["job_id"]
        owner = next(line.removeprefix("started on ") for line in said(live, job) if line.startswith("started on"))
        steer(live, clock=by)
        case.tries += 1
        with case.recovering():
            live.until(lambda: {"w0", "w1"} <= live.alive())
            live.progress(path, done(live.get(path)) + 1)
        time.sleep(20)
        assert sum(line.startswith("started on") for line in said(live, job)) == 1, "nobody took it over"
        live.kill(owner)
        case.tries += 1
        with case.recovering():
            live.until(lambda: sum(line.startswith("started on") for line in said(live, job)) == 2, 90)
        steer(live, pause=0)
        count(case, calm, live, succeeded(live, path))
    assert case.zeros


def test_a_machine_that_sleeps_is_not_taken_for_dead_workers(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "all services frozen for 20 s, as a machine that sleeps",
        "SIGSTOP to the backend, both workers and their children at once, SIGCONT to all: nobody is taken over from",
    )
    with services(calm, tmp_path / "home", "w0", "w1", pause=0.5) as live:
        path = begin_training(live, calm.analysis, calm.experts)
        job = live.progress(path, 3)["job_id"]
        everybody = [one for process in live.processes.values() for one in family(process.pid)]
        send(everybody, signal.SIGSTOP)
        case.tries += 1
        time.sleep(20)
        send(everybody, signal.SIGCONT)
        with case.recovering():
            live.until(lambda: {"w0", "w1"} <= live.alive())
        time.sleep(10)
        assert sum(line.startswith("started on") for line in said(live, job)) == 1, "nobody took it over"
        steer(live, pause=0)
        count(case, calm, live, succeeded(live, path))
    assert case.zeros
