import json

import pytest
from sqlalchemy import update

from backend.store import tables as t
from backend.store.engine import writing
from tests.backend import seeding
from tests.backend.api.calls import Api

pytestmark = pytest.mark.usefixtures("model")


@pytest.fixture
def model(engine) -> str:
    return seeding.add_model(engine)


def test_an_analysis_waits_in_the_queue_with_its_plan_frozen(api: Api):
    created = api.analysis(name="first")
    assert created["status"] == "queued"
    assert created["plan"]["n_batches"] == 5
    assert created["plan"]["n_samples"] == 20
    assert created["progress"] == {"done": 0, "total": 5, "eta_seconds": None, "stage": ""}
    assert created["template"] == "chat template"
    assert [site["layer"] for site in created["sites"]] == [1, 3]
    assert created["params"]["strategy"] == "shuffled"
    assert created["params"]["max_length"] == 512
    job = api.get(f"/jobs/{created['job_id']}")
    assert (job["kind"], job["subject_id"], job["subject_name"]) == ("analysis", created["id"], "first")
    assert job["waiting_for"] == "no worker is running: start one with `routeprint worker`"
    states = api.client.app.state.edge.queue.states([job["id"]])
    assert states == {job["id"]: "ENQUEUED"}


def test_a_dry_run_shows_the_plan_and_stores_nothing(api: Api):
    body = {"dataset_id": api.dataset(5)["id"], "model": "tiny", "batch_size": 4, "keep_short": False}
    tried = api.post("/analyses?dry_run=true", json=body)
    assert tried["plan"]["n_batches"] == 2
    assert sum(tried["plan"]["left_out_reasons"].values()) == tried["plan"]["n_left_out"] == 2
    assert api.get("/analyses")["items"] == []
    assert api.get("/jobs")["items"] == []
    assert api.post("/analyses", 202, json=body)["plan"] == tried["plan"]


def test_left_out_prompts_are_listed_with_their_reason(api: Api):
    created = api.analysis(api.dataset(5)["id"], keep_short=False)
    left = api.get(f"/analyses/{created['id']}/left-out")["items"]
    assert len(left) == 2
    assert all(row["text"] and "short" in row["reason"] for row in left)


def test_every_strategy_plans_the_same_prompts_differently(api: Api):
    dataset = api.dataset(8)["id"]
    digests = {api.analysis(dataset, strategy=name)["plan"]["digest"] for name in ("shuffled", "as_listed", "paired")}
    assert len(digests) == 3


def test_the_same_plan_can_be_measured_again(api: Api):
    dataset = api.dataset(6)["id"]
    first = api.analysis(dataset, seed=7, strategy="stratified", batch_size=6)
    again = api.analysis(dataset, plan_of=first["id"])
    assert again["plan"] == first["plan"]
    assert again["params"]["seed"] == 7
    assert again["params"]["plan_of"] == first["id"]
    refused = api.post(
        "/analyses", 422, json={"dataset_id": api.dataset(4)["id"], "model": "tiny", "plan_of": first["id"]}
    )
    assert refused["errors"][0]["loc"] == ["body", "plan_of"]


def test_a_model_nobody_scanned_answers_how_to_scan(api: Api):
    refused = api.post("/analyses", 409, json={"dataset_id": api.dataset(3)["id"], "model": "nobody/knows"})
    assert "not scanned yet" in refused["detail"]


def test_an_unsupported_model_is_refused_with_its_architecture(api: Api, engine):
    seeding.add_model(
        engine, "dense", supported=False, architecture="LlamaForCausalLM", reason="it has no experts", engines=[]
    )
    refused = api.post("/analyses", 422, json={"dataset_id": api.dataset(3)["id"], "model": "dense"})
    assert "LlamaForCausalLM" in refused["detail"]
    assert "it has no experts" in refused["detail"]


def test_an_engine_that_cannot_serve_the_model_is_named(api: Api):
    body = {"dataset_id": api.dataset(3)["id"], "model": "tiny", "engine": "vllm"}
    assert "transformers" in api.post("/analyses", 422, json=body)["detail"]


def test_leaving_out_template_tokens_is_part_of_the_record(api: Api):
    body = {"dataset_id": api.dataset(3)["id"], "model": "tiny", "batch_size": 4}
    assert api.post("/analyses", 202, json=body)["params"]["exclude_template_tokens"] is False
    made = api.post("/analyses", 202, json=body | {"exclude_template_tokens": True})
    assert made["params"]["exclude_template_tokens"] is True


def test_response_tokens_need_responses_from_somewhere(api: Api):
    bare = api.dataset(3, name="bare")["id"]
    body = {"dataset_id": bare, "model": "tiny", "batch_size": 4, "scopes": ["response", "prompt", "response"]}
    assert "max_new_tokens" in api.post("/analyses", 422, json=body)["detail"]
    assert api.post("/analyses", 202, json=body | {"max_new_tokens": 8})["params"]["scopes"] == ["prompt", "response"]
    answered = api.dataset(3, name="answered", response="Like this")["id"]
    api.post("/analyses", 202, json=body | {"dataset_id": answered})


def test_a_plan_that_cannot_be_made_is_refused_before_any_work(api: Api):
    body = {"dataset_id": api.dataset(2)["id"], "model": "tiny", "batch_size": 4096, "safe_ratio": 0.999}
    refused = api.post("/analyses", 422, json=body)
    assert refused["errors"]
    assert api.get("/jobs")["items"] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 1),
        ("batch_size", 2**63),
        ("batch_size", "16"),
        ("batch_size", True),
        ("safe_ratio", 0),
        ("safe_ratio", 1),
        ("seed", -1),
        ("strategy", "random"),
        ("scopes", []),
        ("scopes", ["everything"]),
        ("stratify_by", ["colour"]),
        ("max_length", 0),
        ("max_new_tokens", -1),
        ("system_prompt", "a\x00b"),
        ("system_prompt", "\ud800"),
        ("system_prompt", "x" * 20_001),
        ("dtype", "int4"),
        ("name", ""),
        ("name", 5),
        ("surprise", 1),
    ],
)
def test_a_field_out_of_range_is_refused_with_its_place(api: Api, field: str, value: object):
    body = {"dataset_id": "ds_0", "model": "tiny", field: value}
    refused = api.post("/analyses", 422, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert refused["errors"][0]["loc"][:2] == ["body", field]


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(api: Api, raw: str):
    body = f'{{"dataset_id": "ds_0", "model": "tiny", "safe_ratio": {raw}}}'
    refused = api.post("/analyses", 422, content=body, headers={"Content-Type": "application/json"})
    assert refused["errors"][0]["loc"] == ["body", "safe_ratio"]


@pytest.mark.parametrize("raw", ["", "{", "[1]", '{"a": "\\ud800"}', "null"])
def test_a_body_that_is_no_object_is_a_problem_document(api: Api, raw: str):
    refused = api.post("/analyses", 422, content=raw, headers={"Content-Type": "application/json"})
    assert refused["errors"]


def test_cancelling_stops_the_job_too_and_only_once(api: Api):
    created = api.analysis()
    cancelled = api.post(f"/analyses/{created['id']}/cancel")
    assert cancelled["status"] == "cancelled"
    assert cancelled["finished_at"]
    assert api.get(f"/jobs/{created['job_id']}")["status"] == "cancelled"
    assert api.client.app.state.edge.queue.states([created["job_id"]]) == {created["job_id"]: "CANCELLED"}
    refused = api.post(f"/analyses/{created['id']}/cancel", 409)
    assert "cancelled already" in refused["detail"]


def test_only_failed_and_cancelled_runs_can_be_resumed(api: Api, engine):
    created = api.analysis()
    api.post(f"/analyses/{created['id']}/resume", 409)
    api.post(f"/analyses/{created['id']}/cancel")
    resumed = api.post(f"/analyses/{created['id']}/resume", 202)
    assert resumed["status"] == "queued"
    assert resumed["id"] == created["id"]
    assert resumed["job_id"] != created["job_id"]
    assert resumed["finished_at"] is None
    assert resumed["plan"] == created["plan"]
    seeding.measure(engine, created["id"])
    refused = api.post(f"/analyses/{created['id']}/resume", 409)
    assert "succeeded" in refused["detail"]


def test_a_resumed_analysis_keeps_what_was_measured(api: Api, engine):
    created = api.analysis()
    seeding.measure(engine, created["id"], only=range(2), finish=False)
    running = api.get(f"/analyses/{created['id']}")
    assert running["progress"]["done"] == 2
    assert running["progress"]["eta_seconds"] >= 0
    api.post(f"/analyses/{created['id']}/cancel")
    resumed = api.post(f"/analyses/{created['id']}/resume", 202)
    assert resumed["n_measured"] == 2
    assert resumed["progress"]["done"] == 2


def test_deleting_hides_and_undeleting_brings_back(api: Api, engine):
    created = api.analysis(name="gone")
    path = f"/analyses/{created['id']}"
    assert "cancel it first" in api.call("DELETE", path, 409)["detail"]
    seeding.measure(engine, created["id"])
    api.call("DELETE", path, 204)
    assert api.get("/analyses")["items"] == []
    assert [one["id"] for one in api.get("/analyses", params={"deleted": True})["items"]] == [created["id"]]
    assert api.get(path)["deleted_at"]
    api.call("PATCH", path, 409, json={"name": "x"})
    assert api.post(f"{path}/undelete")["deleted_at"] is None
    assert len(api.get("/analyses")["items"]) == 1


def test_name_tags_and_notes_can_be_changed_alone(api: Api):
    path = f"/analyses/{api.analysis(name='before')['id']}"
    changed = api.call("PATCH", path, json={"tags": ["a", " b "]})
    assert (changed["name"], changed["tags"], changed["notes"]) == ("before", ["a", "b"], "")
    changed = api.call("PATCH", path, json={"name": " after ", "notes": "line\nline"})
    assert (changed["name"], changed["tags"], changed["notes"]) == ("after", ["a", "b"], "line\nline")
    api.call("PATCH", path, 422, json={"status": "succeeded"})
    api.call("PATCH", path, 422, json={"tags": ["x"] * 51})


def test_analyses_are_found_by_status_and_text(api: Api, engine):
    dataset = api.dataset()["id"]
    done = api.analysis(dataset, name="done one")
    seeding.measure(engine, done["id"])
    api.analysis(dataset, name="waiting one")
    assert [one["name"] for one in api.get("/analyses", params={"status": "succeeded"})["items"]] == ["done one"]
    assert [one["name"] for one in api.get("/analyses", params={"q": "WAIT"})["items"]] == ["waiting one"]
    api.get("/analyses", 422, params={"status": "lost"})


def test_the_whole_chain_verifies_and_a_changed_row_breaks_it(api: Api, engine):
    created = api.analysis()
    seeding.measure(engine, created["id"])
    verified = api.post(f"/analyses/{created['id']}/verify")
    assert verified["ok"], verified
    assert verified["first_break"] is None
    assert all(link["checked"] > 0 for link in verified["links"])
    with writing(engine) as session:
        session.execute(update(t.PromptRow).where(t.PromptRow.row_idx == 3).values(response="forged"))
    broken = api.post(f"/analyses/{created['id']}/verify")
    assert not broken["ok"]
    assert broken["first_break"]["expected"] != broken["first_break"]["found"]


@pytest.mark.parametrize("id_", ["an_000000000000", "nonsense", "%F0%9F%98%80"])
def test_what_does_not_exist_is_a_404_problem(api: Api, id_: str):
    for path in (f"/analyses/{id_}", f"/analyses/{id_}/risk-diff", f"/analyses/{id_}/batches/0", f"/trainings/{id_}"):
        assert api.get(path, 404)["status"] == 404
    api.post(f"/analyses/{id_}/cancel", 404)
    api.post(f"/analyses/{id_}/resume", 404)
    api.post(f"/analyses/{id_}/verify", 404)
    api.call("DELETE", f"/analyses/{id_}", 404)


def test_a_cursor_of_another_listing_is_refused(api: Api):
    dataset = api.dataset(3)["id"]
    cursor = api.get(f"/datasets/{dataset}/rows", params={"limit": 1})["next_cursor"]
    for wrong in (cursor, "???", "W10", "WzFd", "x" * 500):
        assert api.get("/analyses", 422, params={"cursor": wrong})["errors"][0]["loc"] == ["query", "cursor"]


@pytest.mark.parametrize("sort", ["-created_at", "created_at", "name", "-name"])
def test_a_list_is_paged_in_every_order_without_a_gap_or_a_double(api: Api, engine, sort: str):
    seeding.add_model(engine)
    dataset = api.dataset()["id"]
    names = ["beta", "alpha", "Gamma", "alpha", "\U0001f600" * 200]
    made = [api.analysis(dataset, name=name, seed=seed)["id"] for seed, name in enumerate(names)]
    found, cursor = [], None
    while True:
        page = api.get("/analyses", params={"sort": sort, "limit": 2} | ({"cursor": cursor} if cursor else {}))
        found, cursor = found + page["items"], page["next_cursor"]
        if cursor is None:
            break
    assert sorted(one["id"] for one in found) == sorted(made)
    column = sort.removeprefix("-")
    keys = [(one[column], one["id"]) for one in found]
    assert keys == sorted(keys, reverse=sort.startswith("-"))


def test_a_run_is_found_by_its_tags_and_its_id(api: Api, engine):
    seeding.add_model(engine)
    dataset = api.dataset()["id"]
    one, other = (api.analysis(dataset, seed=seed)["id"] for seed in (0, 1))
    api.call("PATCH", f"/analyses/{one}", json={"tags": ['Größe "50%"']})
    for q in ("größe", 'E "50%', one):
        assert [found["id"] for found in api.get("/analyses", params={"q": q})["items"]] == [one], q
    assert [found["id"] for found in api.get("/analyses", params={"q": other})["items"]] == [other]


def test_an_analysis_waits_with_the_priority_that_was_asked_for(api: Api, engine):
    seeding.add_model(engine)
    made = api.analysis(priority=7)
    assert api.get(f"/jobs/{made['job_id']}")["priority"] == 7
    assert "priority" not in made["params"]
    api.post(f"/analyses/{made['id']}/cancel")
    again = api.post(f"/analyses/{made['id']}/resume", 202)
    assert again["job_id"] != made["job_id"]
    assert api.get(f"/jobs/{again['job_id']}")["priority"] == 7
