"""Statistics on real services: they come by themselves, beside a training, and survive the death of their worker."""

from pathlib import Path
from typing import Any

import pytest

from tests.live import Live
from tests.worker.tiny import save_tiny

pytestmark = pytest.mark.slow


def started(live: Live) -> str:
    """Start the services with a tiny model and return the id of the demonstration's prompt set."""
    save_tiny(live.home / "models" / "tiny", "olmoe")
    live.start_backend()
    live.start("worker", "--name", "w0")
    live.until(lambda: live.get("/models")["items"])
    return str(live.post("/datasets/demo")["id"])


def done(live: Live, path: str) -> Any:
    found = live.finished(path)
    assert found["status"] == "succeeded", found["error"]
    return found


def test_a_finished_analysis_gets_its_statistics_and_a_training_does_not_hold_them_up(tmp_path: Path) -> None:
    with Live(tmp_path) as live:
        dataset = started(live)
        bare = live.post("/analyses", dataset_id=dataset, model="tiny", statistics=False)["id"]
        assert done(live, f"/analyses/{bare}")["statistics"] == []
        analysis = live.post("/analyses", dataset_id=dataset, model="tiny", plan_of=bare, scopes=["prompt", "last"])
        heads = done(live, f"/analyses/{analysis['id']}")["statistics"]
        assert sorted((head["scope"], head["pool"]) for head in heads) == [("last", "mean"), ("prompt", "mean")]
        for head in heads:
            found = done(live, f"/statistics/{head['id']}")
            assert found["summary"]["design"]["scheme"] == "sign_flips"
            assert found["summary"]["n_prompts"] == 520
        assert live.get(f"/analyses/{bare}")["statistics"] == []

        training = live.post("/trainings", analysis_id=bare, mode="full", epochs=40, max_answer_length=16)["id"]
        live.progress(f"/trainings/{training}", 1)
        asked = live.post(f"/analyses/{bare}/statistics", pool="pooled", n_permutations=999)
        done(live, f"/statistics/{asked['id']}")
        assert live.get(f"/trainings/{training}")["status"] == "running"
        live.post(f"/trainings/{training}/cancel")


def test_a_worker_killed_in_the_middle_changes_no_bit_of_the_result(tmp_path: Path) -> None:
    with Live(tmp_path) as live:
        dataset = started(live)
        analysis = live.post("/analyses", dataset_id=dataset, model="tiny", statistics=False)["id"]
        done(live, f"/analyses/{analysis}")
        asked = {"n_permutations": 200_000, "n_resamples": 999}
        first = live.post(f"/analyses/{analysis}/statistics", **asked)["id"]
        live.until(lambda: live.get(f"/statistics/{first}")["stage"] == "permutations")
        live.kill("worker")
        assert live.get(f"/statistics/{first}")["status"] == "running"
        assert live.get(f"/statistics/{first}")["summary"] is None
        live.start("worker", "--name", "w0")
        interrupted = done(live, f"/statistics/{first}")
        live.client.delete(f"/statistics/{first}").raise_for_status()
        second = live.post(f"/analyses/{analysis}/statistics", **asked)["id"]
        assert second != first
        undisturbed = done(live, f"/statistics/{second}")
        for name in ("input_digest", "sha256", "summary"):
            assert interrupted[name] == undisturbed[name], name
        assert live.post(f"/statistics/{second}/verify")["ok"]
