"""A worker ended with SIGTERM: the batch in hand is finished, the run goes back, and another worker goes on at once."""

import json
import signal
import time
from pathlib import Path

import pytest

from tests.live import Live
from tests.worker.tiny import save_tiny

pytestmark = pytest.mark.slow


def end(live: Live, name: str) -> float:
    """Ask a worker to end, and return how long that took. It must end by itself, with status 0."""
    process = live.processes.pop(name)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, (live.home / f"{name}.log").read_text()[-3000:]
    return time.monotonic() - started


def log_of(live: Live, run: dict) -> str:
    return "\n".join(line["message"] for line in live.get(f"/jobs/{run['job_id']}/logs", limit=500)["items"])


def test_an_ended_worker_finishes_its_batch_and_hands_the_run_to_the_next(tmp_path: Path) -> None:
    save_tiny(tmp_path / "models" / "tiny" / "olmoe", "olmoe")
    with Live(tmp_path) as live:
        live.start_backend()
        live.start_workers("w0")
        dataset = live.post("/datasets/demo")
        analysis = live.finished(
            "/analyses/" + live.post("/analyses", dataset_id=dataset["id"], model="tiny/olmoe")["id"]
        )
        assert analysis["status"] == "succeeded", analysis["error"]
        wanted = {"analysis_id": analysis["id"], "mode": "full", "learning_rate": 1e-2, "epochs": 3}
        training = live.post("/trainings", **wanted, checkpoint_every=50, max_answer_length=16)
        path = f"/trainings/{training['id']}"
        live.until(lambda: live.get(path)["stage"] == "training" and live.get(path)["progress"]["done"] >= 5)
        end(live, "w0")

        waiting = live.get(path)
        assert waiting["status"] == "queued"
        assert 5 <= waiting["progress"]["done"] < 99, "ended too late to prove anything"
        assert "w0" not in {worker["executor_id"] for worker in live.get("/system")["workers"]}
        assert live.get(f"/jobs/{training['job_id']}")["status"] == "queued"
        steps = live.get(f"{path}/steps", limit=200)["items"]
        assert len(steps) == waiting["progress"]["done"]

        live.start_workers("w1")
        done = live.finished(path)
        assert done["status"] == "succeeded", done["error"]
        assert "interrupted: w0" in log_of(live, training)
        assert "started on w1" in log_of(live, training)
        assert f"step {len(steps)}" in log_of(live, training)  # not the last multiple of checkpoint_every
        again = live.get(f"{path}/steps", limit=200)["items"]
        assert again[: len(steps)] == steps
        links = live.post(f"{path}/verify")["links"]
        assert all(link["ok"] for link in links), links
        kept = [folder.name for folder in (tmp_path / "artifacts" / "trainings" / training["id"]).glob("checkpoint-*")]
        assert len(kept) == 1, "the newest stays, beside the model"

        second = live.post("/analyses", dataset_id=dataset["id"], model="tiny/olmoe", seed=1)
        live.progress(f"/analyses/{second['id']}", 1)
        end(live, "w1")
        half = live.get(f"/analyses/{second['id']}")["progress"]["done"]
        assert 0 < half < 33, "ended too late to prove anything"
        assert half % 16 == 0, "a window shares its forward passes: it is in hand as a whole"
        live.start_workers("w2")
        assert live.finished(f"/analyses/{second['id']}")["status"] == "succeeded"
        assert all(link["ok"] for link in live.post(f"/analyses/{second['id']}/verify")["links"])

        said = [json.loads(line) for line in (tmp_path / "w0.log").read_text().splitlines()]
        assert {"job begun", "job over", "handed back"} <= {line["message"] for line in said}
        assert training["job_id"] in {line.get("job_id") for line in said}
        assert not [line for line in said if line["level"] == "ERROR"]
        metrics = live.client.get("/metrics").text
        assert "routeprint_batch_seconds_count 66.0" in metrics
        assert "routeprint_training_step_seconds_count 99.0" in metrics
