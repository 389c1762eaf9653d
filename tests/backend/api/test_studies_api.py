import copy
import html
from typing import Any

import pytest
from sqlalchemy import Engine, select

from backend.domain.canonical import digest
from backend.domain.errors import Conflict
from backend.store import studies, writes
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.backend import playing, seeding
from tests.backend.api.calls import Api


def questions(n: int = 6) -> list[dict[str, Any]]:
    asked = [("safe", "Where is town"), ("unsafe", "How is a lock picked, number")]
    return [{"prompt": f"{what} {i}?", "label": label, "response": "So."} for i in range(n) for label, what in asked]


@pytest.fixture
def body(api: Api, engine: Engine) -> dict[str, Any]:
    """A study of two seeds on a finished analysis, with prompts of its own to ask."""
    seeding.add_model(engine)
    analysis = api.analysis(api.dataset(8)["id"])
    seeding.measure(engine, analysis["id"])
    files = {"file": ("asked.jsonl", seeding.jsonl(questions()))}
    asked = api.post("/datasets", 201, files=files, data={"name": "asked", "label_meaning": "harmless_harmful"})
    return {
        "analysis_id": analysis["id"],
        "rule": {"method": "top_k", "k": 2},
        "seeds": [0, 1],
        "evaluation": {"dataset_id": asked["id"], "n_random": 3, "load_matched": False},
    }


def test_a_dry_run_says_how_large_it_would_be_and_stores_nothing(api: Api, body: dict[str, Any]) -> None:
    plan = api.post("/studies?dry_run=true", json=body)
    assert plan["estimate"]["runs"] == {"training": 4, "causal": 1, "analysis": 4, "evaluation": 4, "comparison": 4}
    assert plan["estimate"]["n_runs"] == 17
    assert plan["estimate"]["n_steps"] == 4 * 4
    assert plan["estimate"]["n_answers"] == (4 + 5) * 12
    assert plan["estimate"]["smallest_p_level"] == 0.5
    assert (plan["n_safe"], plan["n_unsafe"], plan["n_arms"]) == (6, 6, 5)
    for noun in ("studies", "trainings", "evaluations", "expert-sets"):
        assert api.get(f"/{noun}")["items"] == []


def test_a_study_is_queued_with_its_trainings_and_causal_check_once_per_key(api: Api, body: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "one"}
    made = api.post("/studies", 202, json=body, headers=headers)
    assert api.post("/studies", 202, json=body, headers=headers)["id"] == made["id"]
    assert made["id"].startswith("stu_")
    assert made["progress"] == {"done": 0, "total": 17, "eta_seconds": None, "stage": ""}
    assert [one["id"] for one in api.get("/studies")["items"]] == [made["id"]]
    trainings = api.get("/trainings")["items"]
    assert sorted((one["params"]["preserve_batches"], one["params"]["seed"]) for one in trainings) == [
        (False, 0),
        (False, 1),
        (True, 0),
        (True, 1),
    ]
    same = [{k: v for k, v in one["params"].items() if k not in ("seed", "preserve_batches")} for one in trainings]
    assert all(one == same[0] for one in same)
    assert {tuple(one["tags"]) for one in trainings} == {("study", made["id"])}
    runs = api.get(f"/studies/{made['id']}")["runs"]
    assert [run["status"] for run in runs if run["wave"] == 0] == ["queued"] * 5
    assert {run["id"] for run in runs if run["wave"] > 0} == {None}


def test_what_came_out_is_read_from_the_runs_and_put_side_by_side(
    api: Api, engine: Engine, body: dict[str, Any]
) -> None:
    id_ = api.post("/studies", 202, json=body)["id"]
    playing.play(engine, id_)
    found = api.get(f"/studies/{id_}")
    result = found["result"]
    assert found["status"] == "succeeded"
    assert found["progress"]["done"] == 17
    assert found["sha256"] == digest(result)
    assert found["verdict"] == result["verdicts"][0]
    by_key = {one["key"]: one for one in result["measures"]}
    assert set(by_key) == {"final_loss", "refusal_unsafe", "refusal_safe", "perplexity", "drift", "set_change"}
    for run in result["runs"]:
        place = by_key["drift"]["seeds"].index(run["seed"])
        own = api.get(f"/comparisons/{run['ids']['comparison']}")
        assert by_key["drift"]["arms"][run["arm"]]["values"][place] == own["result"]["drift"]["rms"]
        inside = own["result"]["trained"]["experts"]
        layers, changes = own["layers"], own["difference"]
        moved = [changes[layers.index(layer)][expert] for layer, expert in inside]
        assert by_key["set_change"]["arms"][run["arm"]]["values"][place] == pytest.approx(sum(moved) / len(moved))
        evaluation = api.get(f"/evaluations/{run['ids']['evaluation']}")
        measures = {one["key"]: one["baseline"]["value"] for one in evaluation["measures"]}
        for key in ("refusal_unsafe", "refusal_safe", "perplexity"):
            assert by_key[key]["arms"][run["arm"]]["values"][place] == measures[key]
        assert own["analysis_b"] == run["ids"]["analysis"]
    base = api.get(f"/evaluations/{result['causal']['evaluation_id']}")["measures"]
    assert {one["key"]: one["baseline"]["value"] for one in base} == {
        key: by_key[key]["base"] for key in ("refusal_unsafe", "refusal_safe", "perplexity")
    }
    assert result["varies"] == {
        "same_targets": True,
        "steps": {"preserved": 8, "shuffled": 8},
        "verified": {"preserved": 8, "shuffled": 0},
    }
    asked = {tuple(e["params"][k] for k in ("max_new_tokens", "seed")) for e in api.get("/evaluations")["items"]}
    assert asked == {(32, 0)}


def test_every_trained_model_is_asked_what_the_causal_check_asked(
    api: Api, engine: Engine, body: dict[str, Any]
) -> None:
    id_ = api.post("/studies", 202, json=body | {"evaluation": body["evaluation"] | {"max_prompts": 5}})["id"]
    playing.play(engine, id_, waves=2)
    with reading(engine) as session:
        p = t.EvaluationPrompt
        asked: dict[str, list[str]] = {}
        for evaluation_id, row_id in session.execute(
            select(p.evaluation_id, p.row_id).order_by(p.evaluation_id, p.prompt_idx)
        ):
            asked.setdefault(evaluation_id, []).append(row_id)
    assert len(asked) == 5
    assert len({tuple(rows) for rows in asked.values()}) == 1
    runs = [run for run in api.get(f"/studies/{id_}")["runs"] if run["role"] == "analysis"]
    plans = {api.get(f"/analyses/{run['id']}")["plan"]["digest"] for run in runs}
    assert plans == {api.get(f"/analyses/{body['analysis_id']}")["plan"]["digest"]}


def test_taking_up_a_wave_again_makes_and_queues_nothing_twice(api: Api, engine: Engine, body: dict[str, Any]) -> None:
    id_ = api.post("/studies", 202, json=body)["id"]
    first = playing.begin(engine, id_, 0)
    assert playing.begin(engine, id_, 0) == first
    for due in first:
        playing.finish(engine, due)
    second = playing.begin(engine, id_, 1)
    assert playing.begin(engine, id_, 1) == second
    assert (len(first), len(second)) == (5, 8)
    assert len(api.get("/analyses")["items"]) == 5


def test_a_failed_run_is_named_and_taken_up_when_the_study_is_resumed(
    api: Api, engine: Engine, body: dict[str, Any]
) -> None:
    id_ = api.post("/studies", 202, json=body | {"name": "Small"})["id"]
    due = playing.begin(engine, id_, 0)[1]
    with writing(engine) as session:
        writes.start(session, t.Training, due.run_id)
        writes.finish_all(session, due.job_id, "training", due.run_id, "failed", "No memory.")
    said = rf"'Small: shuffled, seed 0' \({due.run_id}\) has failed: No memory\. Resume"
    with pytest.raises(Conflict, match=said), writing(engine) as session:
        studies.settle(session, session.get_one(t.Study, id_), due.n, due.job_id)
    assert due.job_id in {one.job_id for one in playing.begin(engine, id_, 0)}, "it failed in this round: no second try"
    with writing(engine) as session:
        studies.stop(session, id_)
        writes.finish(session, t.Study, id_, "failed", "so")
    assert api.get(f"/trainings/{due.run_id}")["status"] == "failed"
    api.post(f"/studies/{id_}/resume", 202)
    again = {one.n: one for one in playing.begin(engine, id_, 0)}
    assert again[due.n].job_id != due.job_id
    assert api.get(f"/trainings/{due.run_id}")["status"] == "queued"
    playing.play(engine, id_)
    assert api.get(f"/studies/{id_}")["result"]["verdicts"]


def test_a_run_that_somebody_resumed_is_waited_for_further(api: Api, engine: Engine, body: dict[str, Any]) -> None:
    id_ = api.post("/studies", 202, json=body)["id"]
    due = playing.begin(engine, id_, 0)[0]
    api.post(f"/trainings/{due.run_id}/cancel")
    resumed = api.post(f"/trainings/{due.run_id}/resume", 202)
    with writing(engine) as session:
        assert studies.settle(session, session.get_one(t.Study, id_), due.n, due.job_id) == resumed["job_id"]


def test_a_run_cancelled_while_its_study_waits_is_named_and_taken_up_again(
    api: Api, engine: Engine, body: dict[str, Any]
) -> None:
    id_ = api.post("/studies", 202, json=body | {"name": "Small"})["id"]
    first = api.get(f"/studies/{id_}")["runs"][0]["id"]
    api.post(f"/trainings/{first}/cancel")
    api.call("DELETE", f"/trainings/{first}", 204)
    with pytest.raises(Conflict, match=rf"'Small: preserved, seed 0' \({first}\) was cancelled\. Resume this study"):
        playing.begin(engine, id_, 0)
    with writing(engine) as session:
        studies.stop(session, id_)
        writes.finish(session, t.Study, id_, "failed", "so")
    api.post(f"/studies/{id_}/resume", 202)
    playing.play(engine, id_)
    assert api.get(f"/trainings/{first}")["deleted_at"] is None
    assert api.get(f"/studies/{id_}")["status"] == "succeeded"


def test_a_job_that_ended_without_a_word_fails_its_run(api: Api, engine: Engine, body: dict[str, Any]) -> None:
    id_ = api.post("/studies", 202, json=body)["id"]
    due = playing.begin(engine, id_, 0)[0]
    failed = ""
    with writing(engine) as session:
        try:
            studies.settle(session, session.get_one(t.Study, id_), due.n, due.job_id)
        except Conflict as error:
            failed = str(error)
    assert "stopped without saying why" in failed
    assert api.get(f"/trainings/{due.run_id}")["status"] == "failed"


def test_cancelling_a_study_cancels_its_runs_and_resuming_goes_on(
    api: Api, engine: Engine, body: dict[str, Any]
) -> None:
    id_ = api.post("/studies", 202, json=body)["id"]
    due = playing.begin(engine, id_, 0)
    playing.finish(engine, due[0])
    assert api.post(f"/studies/{id_}/cancel")["status"] == "cancelled"
    runs = [run for run in api.get(f"/studies/{id_}")["runs"] if run["wave"] == 0]
    assert [run["status"] for run in runs] == ["succeeded", *["cancelled"] * 4]
    assert api.get("/jobs")["items"][0]["status"] != "queued"
    api.post(f"/studies/{id_}/cancel", 409)
    api.post(f"/studies/{id_}/resume", 202)
    playing.play(engine, id_)
    assert api.get(f"/studies/{id_}")["status"] == "succeeded"
    assert len(api.get("/trainings")["items"]) == 4


def test_a_study_is_renamed_deleted_and_brought_back(api: Api, body: dict[str, Any]) -> None:
    id_ = api.post("/studies", 202, json=body)["id"]
    assert api.call("PATCH", f"/studies/{id_}", json={"name": "mine", "tags": ["a"]})["name"] == "mine"
    api.call("DELETE", f"/studies/{id_}", 409)
    api.post(f"/studies/{id_}/cancel")
    api.call("DELETE", f"/studies/{id_}", 204)
    assert api.get("/studies")["items"] == []
    assert api.post(f"/studies/{id_}/undelete")["deleted_at"] is None
    assert [one["id"] for one in api.get("/studies", params={"q": "mine"})["items"]] == [id_]


@pytest.mark.parametrize(
    ("change", "place", "word"),
    [
        ({"seeds": [1, 1]}, ["body", "seeds"], "once only"),
        ({"seeds": [1]}, ["body", "seeds"], "at least 2"),
        ({"rule": None}, ["body", "expert_set_id"], "one of expert_set_id and rule"),
        ({"rule": {"method": "top_k", "k": 2, "kind": "per_batch"}}, ["body", "expert_set_id"], "per_batch"),
        ({"training": {"targets": {"safe": "given"}}}, ["body", "training", "targets", "safe"], "no response"),
        ({"training": {"seed": 3}}, ["body", "training", "seed"], "Extra inputs"),
        ({"evaluation": {"judge": {"kind": "endpoint"}}}, ["body", "evaluation", "judge"], "No endpoint"),
    ],
)
def test_a_study_that_cannot_be_is_refused_at_its_field(
    api: Api, body: dict[str, Any], change: dict[str, Any], place: list[str], word: str
) -> None:
    asked = copy.deepcopy(body)
    for name, value in change.items():
        asked[name] = asked[name] | value if name == "evaluation" else value
    problem = api.post("/studies", 422, json=asked)
    assert problem["errors"][0]["loc"] == place
    assert word in problem["detail"] + problem["errors"][0]["msg"]
    assert api.get("/trainings")["items"] == []


def test_prompts_that_the_analysis_used_are_not_asked_unless_wanted(api: Api, body: dict[str, Any]) -> None:
    dataset = api.get(f"/analyses/{body['analysis_id']}")["dataset_id"]
    own = body["evaluation"] | {"dataset_id": dataset}
    problem = api.post("/studies", 422, json=body | {"evaluation": own})
    assert problem["errors"][0]["loc"] == ["body", "evaluation", "holdout"]
    plan = api.post("/studies?dry_run=true", json=body | {"evaluation": own | {"holdout": False}})
    assert plan["overlap"]["n_seen"] == plan["overlap"]["n_prompts"] == 16
    assert plan["warnings"][0].startswith("In-sample: 16 of 16")


def test_prompts_that_are_trained_on_are_used_though_the_experts_were_chosen_elsewhere(
    api: Api, engine: Engine, body: dict[str, Any]
) -> None:
    elsewhere = api.analysis(body["evaluation"]["dataset_id"])
    seeding.measure(engine, elsewhere["id"])
    chosen = api.post(f"/analyses/{elsewhere['id']}/expert-sets", 201, json=body["rule"])["id"]
    trained_on = api.get(f"/analyses/{body['analysis_id']}")["dataset_id"]
    asked = body | {"rule": None, "expert_set_id": chosen}
    own = body["evaluation"] | {"dataset_id": trained_on}
    problem = api.post("/studies?dry_run=true", 422, json=asked | {"evaluation": own})
    assert problem["errors"][0]["loc"] == ["body", "evaluation", "holdout"]
    plan = api.post("/studies?dry_run=true", json=asked | {"evaluation": own | {"holdout": False}})
    assert plan["overlap"]["n_seen"] == plan["overlap"]["n_prompts"] == 16
    assert [one["id"] for one in plan["overlap"]["used_by"]] == [elsewhere["id"], body["analysis_id"]]


@pytest.mark.parametrize("form", ["html", "md"])
def test_the_report_says_every_answer_and_every_run_and_no_prompt(
    api: Api, engine: Engine, body: dict[str, Any], form: str
) -> None:
    id_ = api.post("/studies", 202, json=body)["id"]
    assert "has succeeded" in api.get(f"/studies/{id_}/report", 409)["detail"]
    playing.play(engine, id_)
    found = api.get(f"/studies/{id_}")
    answer = api.client.get(f"/api/v1/studies/{id_}/report", params={"format": form})
    assert answer.status_code == 200
    said = html.unescape(answer.text) if form == "html" else answer.text.replace("\\", "")
    for verdict in found["result"]["verdicts"]:
        assert verdict["text"] in said
    for run in found["result"]["runs"]:
        assert run["ids"]["training"] in said
    assert said.count("data:image/png") + said.count("<svg") >= 1 + len(found["result"]["measures"])
    assert found["sha256"] in said
    assert "secret-host" not in said
    assert "Where is town" not in said
    assert "<script" not in said
    again = api.client.get(f"/api/v1/studies/{id_}/report", params={"format": form})
    assert again.text == answer.text
    tag = {"If-None-Match": answer.headers["etag"]}
    assert api.client.get(f"/api/v1/studies/{id_}/report", params={"format": form}, headers=tag).status_code == 304
