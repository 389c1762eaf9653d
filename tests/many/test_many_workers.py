"""One analysis on many workers over PostgreSQL: the tables of one worker on SQLite, whoever dies meanwhile."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.settings import Settings
from backend.store.engine import make_engine
from benchmarks import sleeping
from tests.backend import seeding
from tests.live import Live
from tests.many.stored import differing, stored
from tests.postgres import Postgres
from tests.worker.tiny import save_tiny
from worker.leaving import HANDING_SECONDS

pytestmark = pytest.mark.slow
NAMES = ("w0", "w1", "w2")


def executors(live: Live, job: str) -> set[str]:
    """Return the workers that measured something of a job, by what they said in its log."""
    lines = live.get(f"/jobs/{job}/logs", limit=500)["items"]
    return {line["message"].split(" takes")[0] for line in lines if " takes batches " in line["message"]}


def analyse(live: Live, model: str, prompts: int, **more: Any) -> Any:
    rows = seeding.jsonl(seeding.prompt_rows(prompts))
    form = {"name": "prompts", "label_meaning": "harmless_harmful"}
    answer = live.client.post("/datasets", files={"file": ("p.jsonl", rows)}, data=form)
    assert answer.status_code == 201, answer.text
    return live.post("/analyses", dataset_id=answer.json()["id"], model=model, **more)


def test_three_workers_on_postgresql_leave_the_tables_of_one_on_sqlite(tmp_path: Path, url: str) -> None:
    found = {}
    homes = {"one": (Settings(home=tmp_path / "one").tables_url, NAMES[:1], {})}
    homes["three"] = (url, NAMES, {"ROUTEPRINT_DATABASE_URL": url})
    for name, (tables, workers, more) in homes.items():
        save_tiny(tmp_path / name / "models" / "tiny", "olmoe")
        with Live(tmp_path / name, **more) as live:
            live.start_backend()
            live.start_workers(*workers)
            live.until(lambda: live.get("/models")["items"])
            asked = {"scopes": ["prompt", "response"], "max_new_tokens": 4}
            analysis = analyse(live, "tiny", 320, **asked)
            done = live.finished(f"/analyses/{analysis['id']}")
            assert done["status"] == "succeeded", done["error"]
            live.until(lambda: not live.busy())
            assert executors(live, analysis["job_id"]) == set(workers)
            assert live.post(f"/analyses/{analysis['id']}/verify")["ok"]
            found[name] = stored(tables)
    assert differing(found["one"], found["three"]) == []
    assert len(found["three"]["analysis_batches"]) == 40
    assert len(found["three"]["statistics"]) == 2


@contextmanager
def sleepers(home: Path, seconds: float, *names: str, **more: str) -> Iterator[Live]:
    """Run services whose workers sleep instead of measuring."""
    with Live(home, **sleeping.environment(seconds), **more) as live:
        live.start_backend()
        live.start_workers(*names)
        engine = make_engine(live.more.get("ROUTEPRINT_DATABASE_URL") or Settings(home=home).tables_url)
        live.until(lambda: not live.busy())
        sleeping.add_model(engine)
        engine.dispose()
        yield live


class Trouble:
    """Kills workers and the database in turn, and starts what has ended again, as a supervisor would."""

    def __init__(self, live: Live, postgres: Postgres, seed: int = 0) -> None:
        self.live, self.postgres, self.random = live, postgres, random.Random(seed)
        self.kills = self.crashes = self.ended = 0

    def make(self) -> None:
        if self.kills <= self.crashes:
            self.live.kill(self.random.choice(NAMES))
            self.kills += 1
        else:
            self.postgres.crash()
            time.sleep(self.random.uniform(0, 1.5))
            self.postgres.start()
            self.crashes += 1

    def mend(self) -> None:
        for name in NAMES:
            process = self.live.processes.get(name)
            if process is None or process.poll() is not None:
                self.ended += process is not None
                self.live.start("worker", "--name", name, key=name)


def patient(live: Live, path: str) -> Any:
    """GET, asking again while the API says that the database is away."""
    while (answer := live.client.get(path)).status_code == httpx.codes.SERVICE_UNAVAILABLE:
        time.sleep(0.2)
    return answer.raise_for_status().json()


def test_workers_killed_and_postgresql_restarted_every_few_seconds_lose_nothing(
    tmp_path: Path, postgres: Postgres, url: str
) -> None:
    with sleepers(tmp_path / "calm", 0.0, "w0") as live:
        analysis = analyse(live, sleeping.MODEL, 2400, statistics=False)
        assert live.finished(f"/analyses/{analysis['id']}")["status"] == "succeeded"
        calm = stored(Settings(home=tmp_path / "calm").tables_url)
    with sleepers(tmp_path / "wild", 0.05, *NAMES, ROUTEPRINT_DATABASE_URL=url) as live:
        trouble = Trouble(live, postgres)
        analysis = analyse(live, sleeping.MODEL, 2400, statistics=False)
        path = f"/analyses/{analysis['id']}"
        deadline, seen = time.monotonic() + 400, 0
        while (now := patient(live, path))["status"] in ("queued", "running"):
            assert time.monotonic() < deadline, now
            if now["progress"]["done"] > seen:  # on a slow machine a worker needs its time to start
                seen = now["progress"]["done"]
                trouble.make()
            time.sleep(trouble.random.uniform(1, 3))
            trouble.mend()
        assert now["status"] == "succeeded", now["error"]
        assert min(trouble.kills, trouble.crashes) >= 3
        assert patient(live, f"{path}/batches?limit=1")["items"]
    assert differing(calm, stored(url)) == []
    assert len(calm["analysis_batches"]) == 300


def test_a_worker_that_is_asked_to_end_while_postgresql_is_gone_ends_and_its_work_goes_on(
    tmp_path: Path, postgres: Postgres, url: str
) -> None:
    with sleepers(tmp_path, 0.05, "w0", ROUTEPRINT_DATABASE_URL=url, ROUTEPRINT_GRACE_SECONDS="1") as live:
        analysis = analyse(live, sleeping.MODEL, 1600, statistics=False)
        live.progress(f"/analyses/{analysis['id']}", 5)
        worker = live.processes.pop("w0")
        postgres.crash()
        time.sleep(1.0)
        worker.terminate()
        ended = worker.wait(1 + HANDING_SECONDS + 10)
        assert ended == os.EX_TEMPFAIL, (tmp_path / "w0.log").read_text()[-2000:]
        assert "gone without handing back" in (tmp_path / "w0.log").read_text()
        postgres.start()
        live.start_workers("w1")
        done = live.finished(f"/analyses/{analysis['id']}")
        assert done["status"] == "succeeded", done["error"]
        assert done["progress"]["done"] == 200
