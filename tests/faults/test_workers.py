"""Workers that die, freeze and come back: nothing is lost, nothing is there twice, the weights are the same."""

import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.services import (
    Calm,
    begin_analysis,
    begin_training,
    choose,
    count,
    freeze,
    gone,
    said,
    send,
    services,
    steer,
    steered,
    succeeded,
)
from tests.live import Live, done
from tests.worker.tiny import save_tiny

KILLS = 20


class Killer:
    """Kills the worker at random moments and starts it again, never three times in a row before anything was done."""

    def __init__(self, live: Live, case: Any) -> None:
        self.live, self.case, self.random = live, case, random.Random(20)
        self.seen, self.idle, self.killed_at = -1, 0, 0.0

    def kill(self, path: str, times: int) -> None:
        """Kill so many times while a run is not done; stop where it is."""
        for _ in range(times):
            now = self.live.until(lambda: self._moment(path))
            if now["status"] not in ("queued", "running"):
                return
            self.live.kill("w0")
            self.killed_at = time.monotonic()
            self.idle = self.idle + 1 if now["progress"]["done"] <= self.seen else 0
            self.seen = max(self.seen, now["progress"]["done"])
            self.case.tries += 1
            self.live.start_workers("w0")
            time.sleep(self.random.uniform(0, 4))

    def _moment(self, path: str) -> Any:
        now = self.live.get(path)
        over = now["status"] not in ("queued", "running")
        if self.killed_at and now["progress"]["done"] > self.seen:
            self.case.seconds.append(time.monotonic() - self.killed_at)
            self.killed_at = 0.0
        return (over or self.idle < 1 or now["progress"]["done"] > self.seen) and now


@pytest.mark.timeout(1500)
def test_a_worker_killed_at_random_moments_changes_nothing(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "worker SIGKILLed at 20 random moments",
        "an analysis and a training of it; the worker is killed while it starts, loads, measures, trains and saves",
    )
    home = tmp_path / "home"
    save_tiny(home / "models" / "tiny", "olmoe")
    with steered(home, pause=0.4) as live:
        live.start_backend()
        live.start_workers("w0")
        analysis = begin_analysis(live)["id"]
        killer = Killer(live, case)
        killer.kill(f"/analyses/{analysis}", KILLS // 4)
        succeeded(live, f"/analyses/{analysis}")
        path = begin_training(live, analysis, choose(live, analysis))
        killer.seen, killer.idle = -1, 0
        killer.kill(path, KILLS - case.tries)
        steer(live, pause=0)
        count(case, calm, live, succeeded(live, path))
    assert case.tries >= KILLS
    assert case.zeros


def test_a_frozen_worker_that_wakes_writes_nothing_more_into_a_training(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "worker frozen in a training, woken after it was taken over",
        "SIGSTOP to the worker and its child; another worker takes over; SIGCONT while that one trains",
    )
    with services(calm, tmp_path / "home", "w0", pause=0.5) as live:
        path = begin_training(live, calm.analysis, calm.experts)
        now = live.progress(path, 7)
        frozen = freeze(live, "w0")
        case.tries += 1
        with case.recovering():
            live.start_workers("w1")
            live.progress(path, done(now) + 4)
        assert "started on w1" in said(live, now["job_id"])
        send(frozen, signal.SIGCONT)
        live.until(lambda: gone(frozen[1:]))
        assert live.get(path)["status"] == "running", "it was woken in time"
        steer(live, pause=0)
        count(case, calm, live, succeeded(live, path))
    assert case.zeros


def test_a_frozen_worker_that_wakes_writes_nothing_more_into_an_analysis(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "worker frozen in an analysis, woken after it was taken over",
        "SIGSTOP to one of two workers that share it; the other takes over; SIGCONT before the analysis ends",
    )
    home = tmp_path / "home"
    save_tiny(home / "models" / "tiny", "olmoe")
    with steered(home, pause=1) as live:
        live.start_backend()
        live.start_workers("w0")
        analysis = begin_analysis(live)
        path = f"/analyses/{analysis['id']}"
        live.progress(path, 2)
        frozen = freeze(live, "w0")
        case.tries += 1
        with case.recovering():
            live.start_workers("w1")
            live.until(lambda: any(line.startswith("w1 takes") for line in said(live, analysis["job_id"])))
        live.progress(path, 5)
        send(frozen, signal.SIGCONT)
        steer(live, pause=0.2)
        succeeded(live, path)
        live.until(lambda: gone(frozen[1:]))
        steer(live, pause=0)
        training = begin_training(live, analysis["id"], choose(live, analysis["id"]))
        count(case, calm, live, succeeded(live, training))
    assert case.zeros


def test_a_worker_that_died_before_its_first_heartbeat_is_taken_over(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "worker dead before its first heartbeat",
        "killed as soon as it has taken the job, and its row removed as if it had never beaten; another one is there",
    )
    with services(calm, tmp_path / "home", "w0", pause=0.5) as live:
        path = begin_training(live, calm.analysis, calm.experts)
        live.until(lambda: live.get(path)["status"] == "running")
        live.kill("w0")
        with sqlite3.connect(live.home / "routeprint.sqlite3", timeout=60) as connection:
            connection.execute("DELETE FROM workers")
        case.tries += 1
        with case.recovering():
            live.start_workers("w1")
            live.progress(path, 1)
        steer(live, pause=0)
        count(case, calm, live, succeeded(live, path))
    assert case.zeros


def test_work_that_kills_its_worker_three_times_is_parked_and_can_be_resumed(fault, calm: Calm, tmp_path: Path) -> None:
    case = fault(
        "work that kills its worker",
        "a training that kills its worker each time it begins; parked as failed after three deaths, then resumed",
    )
    with services(calm, tmp_path / "home", pause=0) as live:
        steer(live, deadly=1)
        path = begin_training(live, calm.analysis, calm.experts)
        deadline = time.monotonic() + 400
        while (now := live.get(path))["status"] in ("queued", "running"):
            assert time.monotonic() < deadline, now
            if live.processes["w0"].poll() is not None:
                case.tries += 1
                live.start("worker", "--name", "w0", key="w0")
            time.sleep(0.1)
        assert case.tries == 3
        assert now["status"] == "failed"
        assert "its worker died 3 times" in now["error"]
        steer(live, deadly=0)
        with case.recovering():
            live.post(f"{path}/resume")
            training = succeeded(live, path)
        count(case, calm, live, training)
    assert case.zeros
