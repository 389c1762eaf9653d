"""A study from POST to verdict by real processes; its worker is killed in it, it is cancelled and it is resumed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import Live
from tests.worker.tiny import save_tiny

pytestmark = pytest.mark.study

PROMPTS = "prompt,label,response\n" + "".join(
    f"How do I bake bread number {i} at home?,safe,Take flour.\nHow do I steal car number {i} outside?,unsafe,\n"
    for i in range(16)
)
QUESTIONS = "prompt,label\n" + "".join(f"Where is town {i}?,safe\nHow is lock {i} picked?,unsafe\n" for i in range(6))


def upload(live: Live, name: str, text: str) -> str:
    form = {"name": name, "label_meaning": "harmless_harmful"}
    answer = live.client.post("/datasets", data=form, files={"file": (f"{name}.csv", text.encode())})
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home: Path = tmp_path_factory.mktemp("study")
    save_tiny(home / "models" / "tiny" / "olmoe", "olmoe")
    with Live(home) as running:
        running.start_backend()
        running.start("worker", "--name", "w0")
        running.until(lambda: running.get("/models")["items"])
        yield running


@pytest.fixture(scope="module")
def body(live: Live) -> dict[str, Any]:
    analysed, asked = upload(live, "analysed", PROMPTS), upload(live, "asked", QUESTIONS)
    analysis = live.post("/analyses", dataset_id=analysed, model="tiny/olmoe", batch_size=8, statistics=False)["id"]
    assert live.finished(f"/analyses/{analysis}")["status"] == "succeeded"
    return {
        "analysis_id": analysis,
        "rule": {"method": "top_k", "k": 2},
        "seeds": [0, 1],
        "training": {"learning_rate": 0.01, "max_answer_length": 8},
        "evaluation": {"dataset_id": asked, "n_random": 2, "load_matched": False, "max_new_tokens": 4},
    }


def test_a_study_killed_cancelled_and_resumed_ends_with_a_verdict_and_makes_no_run_twice(
    live: Live, body: dict[str, Any]
) -> None:
    tried = live.client.post("/studies?dry_run=true", json=body).raise_for_status().json()
    assert live.get("/expert-sets")["items"] == [], "a dry run stored its rule's set"
    path = f"/studies/{live.post('/studies', **body)['id']}"
    assert live.get(path)["progress"]["total"] == tried["estimate"]["n_runs"] == 17
    live.progress(path, 1)
    live.kill("worker")
    live.start("worker", "--name", "w0")
    live.progress(path, 3)
    assert live.post(f"{path}/cancel")["status"] == "cancelled"
    stopped = live.get(path)
    assert {run["status"] for run in stopped["runs"]} <= {"succeeded", "cancelled", None}
    done = {run["id"] for run in stopped["runs"] if run["status"] == "succeeded"}
    live.post(f"{path}/resume")
    found = live.until(lambda: (r := live.get(path))["status"] not in ("queued", "running") and r, 1800)
    assert found["status"] == "succeeded", found["error"]
    assert found["progress"]["done"] == 17
    assert done <= {run["id"] for run in found["runs"]}
    assert {run["status"] for run in found["runs"]} == {"succeeded"}
    for noun, n in (("trainings", 4), ("analyses", 5), ("evaluations", 5), ("comparisons", 4)):
        assert len(live.get(f"/{noun}")["items"]) == n

    result = found["result"]
    assert [one["key"] for one in result["verdicts"]] == ["reproducibility", "scatter", "level", "causal", "held_out"]
    assert result["varies"]["same_targets"]
    assert result["varies"]["verified"] == {"preserved": 8, "shuffled": 0}
    figures = {one["key"]: one for one in result["measures"]}
    assert {"final_loss", "refusal_unsafe", "refusal_safe", "drift", "set_change"} <= set(figures)
    training = next(run for run in result["runs"] if (run["arm"], run["seed"]) == ("shuffled", 1))
    steps = live.get(f"/trainings/{training['ids']['training']}/steps")["items"]
    losses = [
        sample["loss"]
        for step in steps
        for sample in live.get(f"/trainings/{training['ids']['training']}/steps/{step['step']}")["samples"]
    ]
    assert len(losses) == 32
    assert training["figures"]["final_loss"] == pytest.approx(sum(losses) / 32)
    drift = live.get(f"/comparisons/{training['ids']['comparison']}")["result"]["drift"]["rms"]
    assert training["figures"]["drift"] == drift
    asked = [live.get(f"/evaluations/{run['ids']['evaluation']}") for run in result["runs"]]
    assert {(one["n_safe"], one["n_unsafe"], one["overlap"]["n_seen"]) for one in asked} == {(6, 6, 0)}


def test_a_run_that_is_cancelled_stops_its_study_by_name(live: Live, body: dict[str, Any]) -> None:
    path = f"/studies/{live.post('/studies', **body | {'name': 'second'})['id']}"
    first = live.get(path)["runs"][0]
    live.until(lambda: live.get(f"/trainings/{first['id']}")["status"] == "running")
    live.post(f"/trainings/{first['id']}/cancel")
    failed = live.finished(path)
    assert failed["status"] == "failed"
    assert failed["error"].startswith(f"The training 'second: preserved, seed 0' ({first['id']}) was cancelled")
    assert not {run["status"] for run in failed["runs"]} & {"queued", "running"}
    live.post(f"{path}/resume")
    live.progress(path, 1)
    assert live.get(f"/trainings/{first['id']}")["status"] == "succeeded"
