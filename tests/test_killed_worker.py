"""A worker killed with SIGKILL in the middle: nothing lost, nothing twice, the same tables and the same weights."""

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.live import Live
from tests.worker.tiny import save_tiny

pytestmark = pytest.mark.slow
TABLES = {
    "analysis_batches": "batch_idx, batch_id, status, n_safe, n_unsafe, n_truncated",
    "batch_samples": "batch_idx, in_batch_idx, row_id, label, prompt_digest, token_ids, tokens, truncated, non_finite",
    "batch_routing": "batch_idx, scope, tokens, counts, weights, max_abs_risk_diff, noise_floor",
    "analysis_aggregates": "scope, n_batches, samples, tokens, counts, rate_sums",
    "contexts": "scope, next_batch, params, result",
    "context_sites": "site, length(pairs), pairs",
    "context_tokens": "ids, occurrences, texts",
    "context_experts": "site, expert, hits, shares",
    "training_examples": "batch_idx, in_batch_idx, row_id, target, prompt_digest, answer, answer_ids, cut",
    "training_steps": "step, epoch, batch_idx, batch_id, verified, loss, loss_safe, loss_unsafe, grad_norm, samples",
}


def outcome(live: Live, training: dict[str, Any]) -> dict[str, Any]:
    """Return every stored row (without times and ids of the run) and the SHA-256 of the trained weights."""
    connection = sqlite3.connect(live.home / "routeprint.sqlite3")
    rows = {
        name: connection.execute(f"SELECT {columns} FROM {name} ORDER BY 1, 2").fetchall()
        for name, columns in TABLES.items()
    }
    connection.close()
    folder = Path(training["result"]["model_path"])
    weights = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.glob("*.safetensors"))}
    return rows | {"weights": weights, "target_digest": training["target_digest"]}


def run(home: Path, *, kill: bool) -> tuple[dict[str, Any], list[Any]]:
    """Analyse, read in context and train; with `kill`, the worker dies in the middle of each and comes back."""
    save_tiny(home / "models" / "tiny" / "olmoe", "olmoe")
    with Live(home) as live:
        live.start_backend()
        live.start("worker", "--name", "w0")
        live.until(lambda: live.get("/models")["items"])
        dataset = live.post("/datasets/demo")
        analysis = live.post("/analyses", dataset_id=dataset["id"], model="tiny/olmoe")
        if kill:
            again(live, f"/analyses/{analysis['id']}", 1)
        analysis = live.finished(f"/analyses/{analysis['id']}")
        assert analysis["status"] == "succeeded", analysis["error"]
        context = live.post(f"/analyses/{analysis['id']}/context", experts=[[0, 1], [2, 7], [1, 3]])
        if kill:
            live.until(lambda: live.get(f"/context/{context['id']}")["stage"])
            again(live, f"/context/{context['id']}", 0)
        context = live.finished(f"/context/{context['id']}")
        assert context["status"] == "succeeded", context["error"]
        assert context["recounted"]["batches"] == 33
        assert context["recounted"]["differing"] == 0
        chosen = live.post(f"/analyses/{analysis['id']}/expert-sets", name="top", method="top_k", k=4)
        wanted = {"analysis_id": analysis["id"], "expert_set_id": chosen["id"], "learning_rate": 1e-2, "epochs": 2}
        training = live.post("/trainings", **wanted, checkpoint_every=7, max_answer_length=16)
        if kill:
            live.until(lambda: live.get(f"/trainings/{training['id']}")["stage"] == "training")
            again(live, f"/trainings/{training['id']}", 17)
        training = live.finished(f"/trainings/{training['id']}")
        assert training["status"] == "succeeded", training["error"]
        links = live.post(f"/trainings/{training['id']}/verify")["links"]
        return outcome(live, training), links


def again(live: Live, path: str, done: int) -> None:
    """Kill the worker once this much is done, check that the work is not, and start it again under its name."""
    live.progress(path, done)
    live.kill("worker")
    now = live.get(path)
    assert now["status"] == "running"
    assert now["progress"]["done"] < now["progress"]["total"], "killed too late to prove anything"
    live.start("worker", "--name", "w0")


def test_a_worker_killed_in_an_analysis_a_context_run_and_a_training_changes_nothing(tmp_path: Path) -> None:
    undisturbed, links = run(tmp_path / "undisturbed", kill=False)
    killed, killed_links = run(tmp_path / "killed", kill=True)
    assert all(link["ok"] for link in links + killed_links), links + killed_links
    for name, rows in undisturbed.items():
        assert killed[name] == rows, f"{name} differ"
    assert len(undisturbed["training_steps"]) == 66
    assert len(undisturbed["analysis_batches"]) == 33
    assert len(undisturbed["context_sites"]) == len(undisturbed["context_experts"]) == 3
