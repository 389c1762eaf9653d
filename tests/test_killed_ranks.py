"""A worker killed with SIGKILL while two processes train: none of them outlives it, nothing is lost or doubled."""

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.live import Live
from tests.worker.tiny import save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # two whole trainings by real services
STEP = "step, epoch, batch_idx, batch_id, verified, loss, loss_safe, loss_unsafe, grad_norm, learning_rate, samples"
PROMPTS = "prompt,label\n" + "".join(
    f"How do I bake bread number {i} at home?,safe\nHow do I steal car number {i} outside?,unsafe\n" for i in range(12)
)


def outcome(live: Live, training: dict[str, Any]) -> dict[str, Any]:
    """Return every stored step (without its time) and the SHA-256 of the trained weights."""
    connection = sqlite3.connect(live.home / "routeprint.sqlite3")
    query = f"SELECT {STEP} FROM training_steps WHERE training_id = ? ORDER BY step"
    steps = connection.execute(query, (training["id"],)).fetchall()
    connection.close()
    files = sorted(Path(training["result"]["model_path"]).glob("*.safetensors"))
    weights = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return {"steps": steps, "weights": weights, "targets": training["target_digest"]}


def below(live: Live) -> list[psutil.Process]:
    """Return every process that the worker started, however deep."""
    return psutil.Process(live.processes["worker"].pid).children(recursive=True)


def is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ranks(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that train: `python ... -m worker.rank ...`, not the launcher, which names them too."""
    names = [(process, process.cmdline()) for process in processes if is_there(process)]
    return [process for process, words in names if "worker.rank" in words and "worker.launching" not in words]


def test_two_processes_die_with_their_worker_and_what_it_resumes_ends_as_if_it_never_was(tmp_path: Path) -> None:
    save_tiny(tmp_path / "models" / "tiny" / "olmoe", "olmoe")
    with Live(tmp_path) as live:
        live.start_backend()
        live.start("worker", "--name", "w0")
        live.until(lambda: live.get("/models")["items"])
        sent = live.client.post(
            "/datasets",
            files=[("file", ("prompts.csv", PROMPTS, "text/csv"))],
            data={"name": "small", "label_meaning": "harmless_harmful"},
        )
        assert sent.status_code == 201, sent.text
        wanted = {"dataset_id": sent.json()["id"], "model": "tiny/olmoe", "batch_size": 8, "statistics": False}
        analysis = live.finished(f"/analyses/{live.post('/analyses', **wanted)['id']}")
        assert analysis["status"] == "succeeded", analysis["error"]
        chosen = live.post(f"/analyses/{analysis['id']}/expert-sets", name="top", method="top_k", k=4)
        asked = {"analysis_id": analysis["id"], "expert_set_id": chosen["id"], "learning_rate": 1e-3, "epochs": 14}
        asked |= {"n_processes": 2, "checkpoint_every": 5, "max_answer_length": 8}
        undisturbed = live.finished(f"/trainings/{live.post('/trainings', **asked)['id']}")
        assert undisturbed["status"] == "succeeded", undisturbed["error"]

        path = f"/trainings/{live.post('/trainings', **asked)['id']}"
        live.until(lambda: live.get(path)["n_recorded"] >= 7)
        started = below(live)
        assert len(ranks(started)) == 2
        live.kill("worker")
        live.until(lambda: not any(map(is_there, started)), seconds=60)
        left = live.get(path)
        assert left["status"] == "running"
        assert 7 <= left["n_recorded"] < left["n_steps"] == 42, "killed too late to prove anything"
        live.start("worker", "--name", "w0")
        resumed = live.finished(path)
        assert resumed["status"] == "succeeded", resumed["error"]
        told = [line["message"] for line in live.get(f"/jobs/{resumed['job_id']}/logs", limit=500)["items"]]
        assert any(line.startswith("going on after step ") for line in told), told
        assert outcome(live, resumed) == outcome(live, undisturbed)
        assert resumed["n_recorded"] == resumed["n_verified"] == 42
        links = live.post(f"{path}/verify")["links"]
        assert all(link["ok"] for link in links), links
