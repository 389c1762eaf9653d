import pytest

from backend.store import tables as t
from backend.store.engine import writing
from tests.backend import seeding
from tests.backend.api.calls import Api


def dry(api: Api, dataset_id: str, **more) -> dict:
    body = {"dataset_id": dataset_id, "model": "tiny"} | more
    return api.post("/analyses?dry_run=true", json=body)["estimate"]


def took(engine, table, id_: str, seconds: int) -> None:
    with writing(engine) as session:
        run = session.get_one(table, id_)
        run.started_at, run.finished_at = "2026-01-01T00:00:00+00:00", f"2026-01-01T00:{seconds // 60:02}:00+00:00"


@pytest.fixture
def measured(api: Api, engine) -> dict:
    """An analysis of 40 prompts that took 120 seconds."""
    seeding.add_model(engine)
    made = api.analysis(api.dataset(20)["id"])
    seeding.measure(engine, made["id"])
    took(engine, t.Analysis, made["id"], 120)
    return made


def test_before_the_first_run_no_time_is_invented(api: Api, engine):
    seeding.add_model(engine)
    found = dry(api, api.dataset(20)["id"])
    assert found["seconds"] is None
    assert found["n_past"] == 0
    assert "the first one tells" in found["basis"]
    assert 0 < found["memory_bytes"]["low"] < found["memory_bytes"]["high"]


def test_a_finished_run_of_the_same_prompts_gives_a_range_around_its_time(api: Api, measured: dict):
    found = dry(api, measured["dataset_id"])
    assert found["seconds"]["low"] < 120 < found["seconds"]["high"]
    assert found["basis"] == "from 1 finished analysis of this model"
    other = dry(api, api.dataset(10)["id"])
    assert other["seconds"]["low"] < 60 < other["seconds"]["high"]
    assert other["seconds"]["high"] / other["seconds"]["low"] > found["seconds"]["high"] / found["seconds"]["low"]


def test_generated_tokens_are_not_estimated_from_runs_without_them(api: Api, measured: dict):
    found = dry(api, measured["dataset_id"], max_new_tokens=8)
    assert found["seconds"] is None


def test_a_training_is_checked_and_estimated_without_being_stored(api: Api, engine, measured: dict):
    body = {"analysis_id": measured["id"], "mode": "full", "epochs": 3}
    found = api.post("/trainings?dry_run=true", json=body)
    assert found["n_steps"] == 3 * measured["plan"]["n_batches"]
    assert found["estimate"]["seconds"] is None
    assert api.get("/trainings")["items"] == []
    api.post("/trainings?dry_run=true", 422, json=body | {"mode": "selected"})


def test_training_few_experts_takes_less_memory_than_training_all(api: Api, engine, measured: dict):
    rule = {"name": "one", "method": "manual", "experts": [[1, 0]]}
    chosen = api.post(f"/analyses/{measured['id']}/expert-sets", 201, json=rule)["id"]
    full, few = (
        api.post("/trainings?dry_run=true", json={"analysis_id": measured["id"]} | more)["estimate"]["memory_bytes"]
        for more in ({"mode": "full"}, {"expert_set_id": chosen})
    )
    assert few["high"] < full["high"]
