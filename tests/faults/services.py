"""Real services over homes that begin alike, and what differs from a run that nothing disturbed."""

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.backend import seeding
from tests.faults import hooks
from tests.faults.record import Case
from tests.live import Live
from tests.test_killed_worker import outcome
from tests.worker.tiny import save_tiny

PAIRS, BATCH_SIZE, EPOCHS, CHECKPOINT_EVERY = 48, 8, 4, 5
STEPS = EPOCHS * 2 * PAIRS // BATCH_SIZE


@dataclass(frozen=True)
class Calm:
    """An undisturbed run. home: as it was when the analysis was done; outcome: all that the training left then."""

    home: Path
    analysis: str
    experts: str
    outcome: dict[str, Any]


def begin_analysis(live: Live) -> dict[str, Any]:
    """Import the prompts and begin their analysis: 12 batches of 8."""
    live.until(lambda: live.get("/models")["items"])
    rows = seeding.jsonl(seeding.prompt_rows(PAIRS, response="Here is how to do it"))
    form = {"name": "prompts", "label_meaning": "harmless_harmful"}
    answer = live.client.post("/datasets", files={"file": ("p.jsonl", rows)}, data=form)
    wanted = {"dataset_id": answer.raise_for_status().json()["id"], "model": "tiny", "batch_size": BATCH_SIZE}
    return dict(live.post("/analyses", **wanted, statistics=False))


def choose(live: Live, analysis: str) -> str:
    """Choose the experts to train."""
    return str(live.post(f"/analyses/{analysis}/expert-sets", name="top", method="top_k", k=4)["id"])


def begin_training(live: Live, analysis: str, experts: str, **more: Any) -> str:
    """Begin the training that the undisturbed run did: 48 steps; return its address."""
    wanted = {"analysis_id": analysis, "expert_set_id": experts, "learning_rate": 1e-2, "epochs": EPOCHS}
    wanted |= {"checkpoint_every": CHECKPOINT_EVERY, "max_answer_length": 16}
    return f"/trainings/{live.post('/trainings', **wanted | more)['id']}"


def make_calm(folder: Path) -> Calm:
    """Analyse and train, undisturbed."""
    home = folder / "calm"
    save_tiny(home / "models" / "tiny", "olmoe")
    with Live(home) as live:
        live.start_backend()
        live.start("worker", "--name", "w0")
        analysis = begin_analysis(live)["id"]
        assert succeeded(live, f"/analyses/{analysis}")
        experts = choose(live, analysis)
        live.until(lambda: not live.busy())
    shutil.copytree(home, folder / "analysed")
    with Live(home) as live:
        live.start_backend()
        live.start("worker", "--name", "w0")
        training = succeeded(live, begin_training(live, analysis, experts))
        found = outcome(live, training)
    assert len(found["training_steps"]) == STEPS
    assert len(found["analysis_batches"]) == 2 * PAIRS // BATCH_SIZE
    return Calm(folder / "analysed", analysis, experts, found)


@contextmanager
def services(calm: Calm, home: Path, *names: str, pause: float = 0.1, **more: str) -> Iterator[Live]:
    """Run backend and workers (w0 if none is named) where the analysis is done. pause: per batch and step."""
    shutil.copytree(calm.home, home, dirs_exist_ok=True)
    with steered(home, pause=pause, **more) as live:
        live.start_backend()
        live.start_workers(*(names or ("w0",)))
        yield live


@contextmanager
def steered(home: Path, *, pause: float = 0.1, **more: str) -> Iterator[Live]:
    """Make services that files in `faults` steer; nothing is started."""
    with Live(home, **hooks.environment(home.parent / "faults"), **more) as live:
        steer(live, pause=pause)
        yield live


def steer(live: Live, **values: float) -> None:
    """Set what steers the faults inside the services; 0 takes one back."""
    for name, value in values.items():
        (live.home.parent / "faults" / name).write_text(str(value))


def succeeded(live: Live, path: str) -> dict[str, Any]:
    """Wait for a run to end, and return it if it succeeded."""
    found = live.finished(path)
    assert found["status"] == "succeeded", found["error"]
    return dict(found)


def count(case: Case, calm: Calm, live: Live, training: dict[str, Any]) -> None:
    """Add what a disturbed run lost and has twice, row by row and file by file, against the undisturbed one."""
    now = outcome(live, training)
    for name, before in calm.outcome.items():
        there, here = (Counter(_rows(value)) for value in (before, now[name]))
        case.lost += sum((there - here).values())
        case.doubled += sum((here - there).values())
    case.lost += len(live.busy())


def _rows(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return sorted(value.items())
    return value if isinstance(value, list) else [value]


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all that it started."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.kill(process.pid, number)


def freeze(live: Live, name: str) -> list[psutil.Process]:
    """Stop a worker and its children between two transactions; return them.

    Stopped inside one, it would hold the lock of SQLite's file, and everybody would wait for it to wake.
    """
    frozen = family(live.processes[name].pid)
    while True:
        send(frozen, signal.SIGSTOP)
        if all(_free(live.home / file) for file in ("routeprint.sqlite3", "jobs.sqlite3")):
            return frozen
        send(frozen, signal.SIGCONT)
        time.sleep(0.2)


def _free(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def gone(processes: list[psutil.Process]) -> bool:
    """Tell whether all of these have ended."""
    return not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def said(live: Live, job: str) -> list[str]:
    """Return a job's log."""
    return [line["message"] for line in live.get(f"/jobs/{job}/logs", limit=500)["items"]]
