"""A worker takes only what its engines can do: on real services, with a worker that has no vLLM."""

import sqlite3
from pathlib import Path
from pkgutil import resolve_name

import pytest

from backend.domain.jobs import QUEUE_CONTROL, QUEUE_GPU, QUEUE_VLLM, RUN_STAGE, RUN_STUDY, WORKFLOWS
from tests.live import Live
from tests.worker.tiny import save_tiny
from worker.engine import RUNS
from worker.heart import queue_of


@pytest.mark.slow
def test_batches_for_a_missing_engine_wait_and_block_nobody(tmp_path: Path) -> None:
    save_tiny(tmp_path / "models" / "tiny", "olmoe")
    with Live(tmp_path) as live:
        live.start_backend()
        live.start("worker", "--name", "w0")
        live.until(lambda: live.get("/models")["items"])
        with sqlite3.connect(tmp_path / "routeprint.sqlite3") as connection:  # as if another worker had found it out
            connection.execute("""UPDATE models SET engines = '["transformers", "vllm"]'""")
        dataset = live.post("/datasets/demo")["id"]
        waiting = live.post("/analyses", dataset_id=dataset, model="tiny", engine="vllm")
        words = live.until(
            lambda: (job := live.get(f"/jobs/{waiting['job_id']}"))["status"] == "running" and job["waiting_for"]
        )
        assert words == "no running worker has the engine 'vllm'; those that run have: transformers"
        other = live.post("/analyses", dataset_id=dataset, model="tiny")
        assert live.finished(f"/analyses/{other['id']}")["status"] == "succeeded"
        still = live.get(f"/analyses/{waiting['id']}")
        assert (still["status"], still["progress"]["done"]) == ("running", 0)
        live.post(f"/analyses/{waiting['id']}/cancel")
        assert live.get(f"/analyses/{waiting['id']}")["status"] == "cancelled"


def test_work_of_a_dead_worker_goes_back_where_its_engine_is() -> None:
    assert queue_of(QUEUE_VLLM, None) == QUEUE_VLLM
    assert queue_of("_dbos_internal_queue", None) == QUEUE_GPU
    assert queue_of(None, "analysis") == QUEUE_CONTROL


def test_every_kind_of_run_that_is_one_stage_has_that_stage() -> None:
    assert set(RUNS) == {kind for kind, (workflow, _) in WORKFLOWS.items() if workflow in (RUN_STAGE, RUN_STUDY)}
    assert all(callable(resolve_name(name)) for name in RUNS.values())
