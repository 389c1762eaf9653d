"""The life of jobs, in any order: submit, cancel, resume, sweep, worker killed and started, queue out of reach.

The API, the tables, the queue and the worker are the real ones; only the work is tiny (tiny_worker.py). What must hold:
no job is lost, no work is done twice, a status only changes as it may, what is cancelled stays cancelled, and what is
called succeeded has all its work.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from backend.api.app import create_app
from backend.domain.jobs import ACTIVE
from backend.queue import sweep
from backend.settings import Settings
from backend.store import tables as t
from backend.store.engine import make_engine, reading
from tests.backend import seeding
from tests.backend.api.calls import Api
from tests.backend.api.conftest import TOKEN
from tests.fuzz.tiny_worker import UNITS, open_ledger

ROOT = Path(__file__).parents[2]
FINAL = ("succeeded", "failed", "cancelled")
MAY_BECOME = {
    "queued": {"queued", "running", *FINAL},
    "running": {"running", *FINAL},
    **{status: {status} for status in FINAL},
}
QUICK = {"n_permutations": 99, "n_resamples": 199, "n_stability": 10, "n_splits": 2}


class Lives(RuleBasedStateMachine):
    """One home: an API in this process, a worker in another, and runs of statistics as the work."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        home = Path(self.folder.name) / "home"
        self.settings = Settings(home=home, token=TOKEN)
        self.ledger = open_ledger(str(Path(self.folder.name) / "ledger.sqlite3"))
        app = create_app(self.settings)
        self.edge = app.state.edge
        self.client = TestClient(app, base_url="http://127.0.0.1:8321", headers={"Authorization": f"Bearer {TOKEN}"})
        self.api = Api(self.client)
        self.engine = make_engine(self.settings.tables_url)
        self.worker: subprocess.Popen[str] | None = None
        self.last: dict[str, str] = {}
        self.kills = 0

    @initialize()
    def measured(self) -> None:
        """Give the runs an analysis to be about."""
        seeding.add_model(self.engine)
        self.analysis = self.api.analysis(self.api.dataset(4)["id"], statistics=False)["id"]
        seeding.measure(self.engine, self.analysis)
        self.start_worker()

    @rule(target=runs)
    def submit(self) -> str:
        """Ask for a piece of work."""
        return self._asked()

    @rule(target=runs)
    def submit_with_the_queue_out_of_reach(self) -> str:
        """Ask for one, and die between the two databases: the tables know it, the queue does not."""
        with self._no_queue():
            return self._asked()

    def _asked(self) -> str:
        body = QUICK | {"seed": len(self.last)}
        made = self.api.post(f"/analyses/{self.analysis}/statistics", 202, json=body)
        self.last[made["id"]] = made["status"]
        return str(made["id"])

    @rule(run=runs, reached=st.booleans())
    def cancel(self, run: str, reached: bool) -> None:
        """Cancel; from then on it is cancelled, or it had finished before."""
        with self._no_queue() if not reached else _nothing():
            answer = self.client.post(f"/api/v1/statistics/{run}/cancel")
        now = self._status(run)
        assert answer.status_code in (200, 202, 409), answer.text
        assert now == "cancelled" if answer.is_success else now in FINAL
        self._seen(run, now)

    @rule(run=runs, reached=st.booleans())
    def resume(self, run: str, reached: bool) -> None:
        """Resume what failed or was cancelled; all else refuses."""
        before = self._status(run)
        with self._no_queue() if not reached else _nothing():
            answer = self.client.post(f"/api/v1/statistics/{run}/resume")
        self._seen(run, before)
        if before in ("failed", "cancelled"):
            assert answer.status_code == 202, answer.text
            self.last[run] = "queued"
        else:
            assert answer.status_code == 409

    @rule()
    def sweep(self) -> None:
        """What the API does every few seconds."""
        sweep(self.engine, self.edge.queue, older_than_seconds=0)

    @precondition(lambda self: self.worker is not None)
    @rule()
    def kill_the_worker(self) -> None:
        """End it as a power cut would."""
        assert self.worker is not None
        assert self.worker.stdout is not None
        self.worker.kill()
        self.worker.wait()
        self.worker.stdout.close()
        self.worker = None
        self.kills += 1

    @precondition(lambda self: self.worker is None)
    @rule()
    def start_worker(self) -> None:
        """Start it (again), under the same name."""
        environment = os.environ | {"ROUTEPRINT_HOME": str(self.settings.home), "ROUTEPRINT_TOKEN": TOKEN}
        command = [sys.executable, "-m", "tests.fuzz.tiny_worker", f"{self.folder.name}/ledger.sqlite3"]
        log = (Path(self.folder.name) / "worker.log").open("ab")
        self.worker = subprocess.Popen(
            command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=log
        )
        log.close()
        assert self.worker.stdout is not None
        assert self.worker.stdout.readline(), self._said()

    @rule(seconds=st.sampled_from([0.02, 0.1, 0.4]))
    def wait(self, seconds: float) -> None:
        """Let the worker work."""
        time.sleep(seconds)

    @invariant()
    def every_status_changed_as_it_may(self) -> None:
        for run in self.last:
            self._seen(run, self._status(run))

    @invariant()
    def what_succeeded_has_all_its_work(self) -> None:
        for run, status in self.last.items():
            if status == "succeeded":
                assert self._units(run) == UNITS, run

    @invariant()
    def at_most_one_job_of_a_run_is_active(self) -> None:
        with reading(self.engine) as session:  # one look at both: the worker goes on meanwhile
            of_job = (t.Statistics.status, t.Job.subject_id)
            query = select(*of_job).join(t.Job, t.Job.subject_id == t.Statistics.id).where(t.Job.status.in_(ACTIVE))
            active = session.execute(query).all()
        assert len(active) == len({subject for _, subject in active})
        assert all(status in ACTIVE for status, _ in active), "a job without its run"

    def teardown(self) -> None:
        """At the end everything that was wanted is done: nothing was lost on the way."""
        try:
            if self.last:
                if self.worker is None:
                    self.start_worker()
                self._all_end()
        finally:
            if self.worker is not None:
                self.kill_the_worker()
            self.ledger.close()
            self.engine.dispose()
            self.edge.queue.close()
            self.client.close()
            self.folder.cleanup()

    def _all_end(self) -> None:
        wanted = [run for run, status in self.last.items() if status in ("queued", "running")]
        deadline = time.monotonic() + 90
        while any(self._status(run) not in FINAL for run in wanted):
            assert time.monotonic() < deadline, f"lost: {[(r, self._status(r)) for r in wanted]}\n{self._said()}"
            self.sweep()
            time.sleep(0.1)
        self.every_status_changed_as_it_may()
        self.what_succeeded_has_all_its_work()
        for run in wanted:
            given_up = self.kills > 2 and self._status(run) == "failed"  # its worker died three times
            assert self._status(run) == "succeeded" or given_up, self._said()

    def _status(self, run: str) -> str:
        with reading(self.engine) as session:
            return session.get_one(t.Statistics, run).status

    def _seen(self, run: str, now: str) -> None:
        assert now in MAY_BECOME[self.last[run]], f"{run} was {self.last[run]} and is {now}"
        self.last[run] = now

    def _units(self, run: str) -> int:
        return int(self.ledger.execute("SELECT count(*) FROM units WHERE run = ?", (run,)).fetchone()[0])

    def _said(self) -> str:
        return (Path(self.folder.name) / "worker.log").read_text()[-3000:]

    @contextmanager
    def _no_queue(self) -> Iterator[None]:
        """Break the queue's front for a while: what it is told gets lost, as the API then logs."""
        queue: Any = self.edge.queue
        kept = queue.submit, queue.cancel

        def broken(*_: object) -> None:
            raise ConnectionError("the queue is out of reach")

        queue.submit = queue.cancel = broken
        try:
            yield
        finally:
            del queue.submit, queue.cancel
            assert kept[0] == queue.submit


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def lived(examples: int, steps: int, *, derandomize: bool) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Lives,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # time decides here too, so a shorter story need not fail
        ),
    )


@pytest.mark.slow
def test_jobs_are_never_lost_and_never_done_twice_in_whatever_order_things_happen() -> None:
    lived(4, 20, derandomize=True)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_jobs_are_never_lost_and_never_done_twice_however_long_it_is_tried() -> None:
    lived(60, 40, derandomize=False)
