"""A worker killed with SIGKILL in the middle of an evaluation: the same answers and likelihoods as undisturbed."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.live import Live
from tests.worker.tiny import save_tiny

pytestmark = pytest.mark.slow
TABLES = {
    "evaluation_prompts": "prompt_idx, row_id, label, group_, seen",
    "evaluation_answers": "n, arm_idx, prompt_idx, text, n_tokens, ended, verdict, why, judge, overruled",
    "evaluation_arms": "arm_idx, family, experts, load_share, finished, effect, nll, nll_tokens, picked",
}


def run(home: Path, *, kill: bool) -> dict[str, Any]:
    """Evaluate an expert set; with `kill`, the worker dies twice and comes back."""
    save_tiny(home / "models" / "tiny" / "olmoe", "olmoe")
    with Live(home) as live:
        live.start_backend()
        live.start("worker", "--name", "w0")
        live.until(lambda: live.get("/models")["items"])
        dataset = live.post("/datasets/demo")["id"]
        analysis = live.post("/analyses", dataset_id=dataset, model="tiny/olmoe", statistics=False)["id"]
        assert live.finished(f"/analyses/{analysis}")["status"] == "succeeded"
        chosen = live.post(f"/analyses/{analysis}/expert-sets", method="top_k", k=3)["id"]
        asked = {"model": "tiny/olmoe", "dataset_id": dataset, "expert_set_id": chosen}
        path = f"/evaluations/{live.post('/evaluations', **asked, n_random=5, max_prompts=200)['id']}"
        if kill:
            for done in (300, 1400):
                live.progress(path, done)
                live.kill("worker")
                now = live.get(path)["progress"]
                assert now["done"] < now["total"], "killed too late to prove anything"
                live.start("worker", "--name", "w0")
        finished = live.finished(path)
        assert finished["status"] == "succeeded", finished["error"]
        assert finished["progress"]["done"] == 12 * 200
    connection = sqlite3.connect(home / "routeprint.sqlite3")
    rows = {
        name: connection.execute(f"SELECT {columns} FROM {name} ORDER BY 1").fetchall()
        for name, columns in TABLES.items()
    }
    connection.close()
    return rows


def test_a_worker_killed_twice_in_an_evaluation_changes_nothing(tmp_path: Path) -> None:
    undisturbed = run(tmp_path / "undisturbed", kill=False)
    killed = run(tmp_path / "killed", kill=True)
    for name, rows in undisturbed.items():
        assert killed[name] == rows, f"{name} differ"
    assert len(undisturbed["evaluation_answers"]) == 2400
