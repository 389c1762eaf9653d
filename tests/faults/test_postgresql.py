"""Many workers on PostgreSQL, some killed, and the server crashed: the tables of one worker that nothing disturbed."""

import time
from collections import Counter
from pathlib import Path

from backend.settings import Settings
from backend.store.engine import shared_engine
from benchmarks import sleeping
from tests.many.stored import stored
from tests.many.test_many_workers import NAMES, Trouble, analyse, patient, sleepers
from tests.postgres import Postgres

PROMPTS, TROUBLES, SECONDS = 1600, 6, 400


def test_workers_killed_and_postgresql_crashed_lose_nothing(fault, tmp_path: Path, postgres: Postgres) -> None:
    case = fault(
        "workers killed and PostgreSQL crashed, in turn",
        "three workers share an analysis of 200 batches on a real server; an engine that sleeps stands for the model; "
        "every row against one worker on SQLite",
    )
    with sleepers(tmp_path / "calm", 0.0, "w0") as live:
        analysis = analyse(live, sleeping.MODEL, PROMPTS, statistics=False)
        assert live.finished(f"/analyses/{analysis['id']}")["status"] == "succeeded"
        calm = stored(Settings(home=tmp_path / "calm").tables_url)
    url = postgres.database()
    with sleepers(tmp_path / "wild", 0.1, *NAMES, ROUTEPRINT_DATABASE_URL=url) as live:
        trouble = Trouble(live, postgres)
        path = f"/analyses/{analyse(live, sleeping.MODEL, PROMPTS, statistics=False)['id']}"
        deadline, seen, since = time.monotonic() + SECONDS, 0, 0.0
        while (now := patient(live, path))["status"] in ("queued", "running"):
            assert time.monotonic() < deadline, now
            if now["progress"]["done"] > seen:
                seen = now["progress"]["done"]
                if since:
                    case.seconds.append(time.monotonic() - since)
                since = 0.0
                if trouble.kills + trouble.crashes < TROUBLES:
                    since = time.monotonic()
                    trouble.make()
            time.sleep(trouble.random.uniform(0.5, 2))
            trouble.mend()
        assert now["status"] == "succeeded", now["error"]
    case.tries = trouble.kills + trouble.crashes
    found = stored(url)
    for name, rows in calm.items():
        there, here = Counter(rows), Counter(found[name])  # SQLite says 0 where PostgreSQL says False
        case.lost += sum((there - here).values())
        case.doubled += sum((here - there).values())
    shared_engine(url).dispose()
    postgres.drop(url)
    assert case.tries >= TROUBLES
    assert case.zeros
