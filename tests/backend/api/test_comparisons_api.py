import csv
import io
import json
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from backend.domain.vocabulary import Site
from backend.store import tables as t
from backend.store import writes
from backend.store.engine import writing
from tests.backend import seeding
from tests.backend.api.calls import Api
from worker import comparing
from worker.comparing import compute, difference_intervals

TRAINED_ON = {"method": "manual", "experts": [[1, 0], [3, 2]]}


@pytest.fixture
def sides(api: Api, engine) -> tuple[str, str]:
    """Two analyses of one plan: the same prompts, other routing."""
    seeding.add_model(engine)
    first = api.analysis(api.dataset(20)["id"])
    seeding.measure(engine, first["id"])
    second = api.analysis(first["dataset_id"], plan_of=first["id"])
    seeding.measure(engine, second["id"], seed=1)
    return first["id"], second["id"]


def body(sides: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"analysis_a": sides[0], "analysis_b": sides[1]} | more


def matrix(rows: Any) -> np.ndarray:
    return np.array(rows, dtype=float)


def table_of(api: Api, analysis: str) -> str:
    content = api.client.get(f"/api/v1/analyses/{analysis}/risk-diff?format=csv&pool=pooled").content
    return api.post("/risk-tables", 201, files={"file": ("t.csv", content)}, data={"name": "ours"})["id"]


def test_a_comparison_shows_both_sides_and_their_difference_at_once(api: Api, sides):
    made = api.post("/comparisons", 201, json=body(sides, name="before and after"))
    assert made["id"].startswith("cmp_")
    assert (made["status"], made["scope"], made["pool"], made["has_intervals"]) == (
        "succeeded",
        "prompt",
        "mean",
        False,
    )
    found = api.get(f"/comparisons/{made['id']}")
    for place, key in enumerate(("risk_diff_a", "risk_diff_b")):
        risk = api.get(f"/analyses/{sides[place]}/risk-diff")["risk_diff"]
        np.testing.assert_allclose(matrix(found[key]), matrix(risk), atol=1e-6)
    np.testing.assert_allclose(
        matrix(found["difference"]), matrix(found["risk_diff_b"]) - matrix(found["risk_diff_a"]), atol=1e-6
    )
    assert found["max_abs"] == pytest.approx(
        max(np.abs(matrix(found[key])).max() for key in ("risk_diff_a", "risk_diff_b", "difference")), abs=1e-6
    )
    result = found["result"]
    assert result["pairing"]["same_plan"]
    assert result["pairing"]["intervals"] == "paired"
    assert [layer["layer"] for layer in result["layers"]] == [1, 3]
    assert result["trained"] is None
    assert found["low"] is found["high"] is None
    assert api.get("/comparisons")["items"] == [made]


def test_the_same_request_finds_the_first_comparison_and_a_dry_run_stores_nothing(api: Api, sides):
    tried = api.post("/comparisons?dry_run=true", json=body(sides))
    assert tried["id"] is None
    assert api.get("/comparisons")["items"] == []
    made = api.post("/comparisons", 201, json=body(sides))
    assert api.post("/comparisons", 200, json=body(sides)) == made
    found = api.get(f"/comparisons/{made['id']}")
    for key in ("result", "difference", "max_abs", "sites"):
        assert tried[key] == found[key]
    other = api.post("/comparisons", 201, json=body(sides[::-1]))
    assert api.get("/comparisons", params={"analysis_a": sides[1]})["items"] == [other]


def test_a_comparison_with_itself_finds_no_difference(api: Api, sides):
    found = api.post("/comparisons?dry_run=true", json=body((sides[0], sides[0])))
    assert found["result"]["drift"]["max_abs"] == 0
    assert {one["jaccard"] for one in found["result"]["overlap"]} == {1}


def test_intervals_are_a_run_on_the_prompts_of_the_same_plan(api: Api, engine, sides):
    made = api.post("/comparisons", 202, json=body(sides, intervals=True, n_resamples=199))
    assert made["status"] == "queued"
    assert made["job_id"]
    assert api.get(f"/jobs/{made['job_id']}")["kind"] == "comparison"
    assert api.get(f"/comparisons/{made['id']}")["low"] is None
    seeding.draw(engine, made["id"])
    found = api.get(f"/comparisons/{made['id']}")
    assert found["status"] == "succeeded"
    assert found["has_intervals"]
    low, high, middle = (matrix(found[key]) for key in ("low", "high", "difference"))
    assert (low < middle).all()
    assert (middle < high).all()
    figures = found["result"]["intervals"]
    assert (figures["paired"], figures["unit"], figures["n_a"], figures["n_left_out"]) == (True, "group", 40, 0)
    assert len(figures["layers"]) == 2
    assert api.post("/comparisons", 200, json=body(sides, intervals=True, n_resamples=199))["id"] == made["id"]
    assert api.post("/comparisons", 202, json=body(sides, intervals=True, seed=1, n_resamples=199))["id"] != made["id"]


def test_other_prompts_give_unpaired_intervals_and_say_so(api: Api, engine, sides):
    other = api.analysis(api.dataset(15, name="others")["id"], batch_size=2)["id"]
    seeding.measure(engine, other, seed=2)
    made = api.post("/comparisons", 202, json=body((sides[0], other), intervals=True, n_resamples=199))
    assert made["result"]["pairing"]["same_plan"] is False
    assert "less powerful" in made["result"]["pairing"]["reason"]
    seeding.draw(engine, made["id"])
    figures = api.get(f"/comparisons/{made['id']}")["result"]["intervals"]
    assert (figures["paired"], figures["n_a"], figures["n_b"]) == (False, 40, 30)


def test_what_is_not_finite_on_one_side_is_left_out_of_both(api: Api, engine, sides):
    third = api.analysis(api.get(f"/analyses/{sides[0]}")["dataset_id"], plan_of=sides[0])["id"]
    seeding.measure(engine, third, seed=3, non_finite=(2,))
    made = api.post("/comparisons", 202, json=body((sides[0], third), intervals=True, n_resamples=199))
    seeding.draw(engine, made["id"])
    figures = api.get(f"/comparisons/{made['id']}")["result"]["intervals"]
    assert (figures["n_a"], figures["n_b"], figures["n_left_out"]) == (36, 36, 4)


def test_a_published_table_is_compared_in_its_own_pool_without_intervals(api: Api, sides):
    table = table_of(api, sides[0])
    found = api.post("/comparisons?dry_run=true", json=body((sides[0], table)))
    assert found["pool"] == "pooled"
    assert found["result"]["drift"]["max_abs"] < 1e-6
    assert found["result"]["pairing"]["intervals"] is None
    assert "pooled" in api.post("/comparisons", 422, json=body((sides[0], table), pool="mean"))["detail"]
    assert "no prompts" in api.post("/comparisons", 422, json=body((sides[0], table), intervals=True))["detail"]
    made = api.post("/comparisons", 201, json=body((table, sides[1])))
    assert "uses the risk table" in api.call("DELETE", f"/risk-tables/{table}", 409)["detail"]
    api.call("DELETE", f"/comparisons/{made['id']}", 204)
    assert "restored" in api.call("DELETE", f"/risk-tables/{table}", 409)["detail"]


def test_the_trained_side_is_named_with_its_experts_and_the_drift_inside_and_outside(api: Api, engine, sides):
    experts = api.post(f"/analyses/{sides[0]}/expert-sets", 201, json=TRAINED_ON)
    training = api.post("/trainings", 202, json={"analysis_id": sides[0], "expert_set_id": experts["id"]})
    with writing(engine) as session:
        writes.finish(session, t.Training, training["id"], "succeeded")
    seeding.add_model(engine, f"training:{training['id']}")
    dataset = api.get(f"/analyses/{sides[0]}")["dataset_id"]
    after = api.analysis(dataset, model=f"training:{training['id']}", plan_of=sides[0])["id"]
    seeding.measure(engine, after, seed=5)
    found = api.post("/comparisons?dry_run=true", json=body((sides[0], after)))
    trained = found["result"]["trained"]
    assert (trained["side"], trained["training_id"], trained["mode"]) == ("b", training["id"], "selected")
    assert trained["experts"] == TRAINED_ON["experts"]
    moved = np.abs(matrix(found["difference"]))
    assert trained["inside"]["mean_abs"] == pytest.approx((moved[0, 0] + moved[1, 2]) / 2, abs=1e-6)
    assert trained["inside"]["n"] + trained["outside"]["n"] == 8
    turned = api.post("/comparisons?dry_run=true", json=body((after, sides[0])))["result"]["trained"]
    assert turned["side"] == "a"


def test_the_table_comes_as_csv_parquet_and_npy_with_the_same_numbers(api: Api, engine, sides):
    made = api.post("/comparisons", 202, json=body(sides, intervals=True, n_resamples=199))
    path = f"/api/v1/comparisons/{made['id']}/table"
    assert "low" not in api.client.get(f"{path}?format=csv").text.splitlines()[0]
    seeding.draw(engine, made["id"])
    whole = api.get(f"/comparisons/{made['id']}")
    rows = list(csv.DictReader(io.StringIO(api.client.get(f"{path}?format=csv").text)))
    assert list(rows[0]) == ["layer", "expert", "risk_diff_a", "risk_diff_b", "difference", "low", "high"]
    parquet = pq.read_table(io.BytesIO(api.client.get(f"{path}?format=parquet").content)).to_pydict()
    for key in ("risk_diff_a", "difference", "low"):
        flat = matrix(whole[key]).ravel()
        np.testing.assert_array_equal([float(row[key]) for row in rows], flat)
        np.testing.assert_array_equal(parquet[key], flat)
    npy = np.load(io.BytesIO(api.client.get(f"{path}?format=npy").content), allow_pickle=False)
    np.testing.assert_array_equal(npy, matrix(whole["difference"]))
    tag = api.client.get(path).headers["etag"]
    assert api.client.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_a_comparison_is_renamed_deleted_brought_back_cancelled_and_resumed(api: Api, sides):
    made = api.post("/comparisons", 202, json=body(sides, intervals=True, n_resamples=199))
    path = f"/comparisons/{made['id']}"
    assert api.call("PATCH", path, json={"name": "n", "tags": ["x"], "notes": "y"})["name"] == "n"
    api.call("DELETE", path, 409)
    assert api.post(f"{path}/cancel")["status"] == "cancelled"
    assert api.post(f"{path}/resume", 202)["status"] == "queued"
    api.post(f"{path}/cancel")
    api.call("DELETE", path, 204)
    assert api.get("/comparisons")["items"] == []
    assert api.post(f"{path}/undelete")["deleted_at"] is None


def test_a_cancelled_computation_stores_nothing(api: Api, engine, sides):
    made = api.post("/comparisons", 202, json=body(sides, intervals=True, n_resamples=199))
    api.post(f"/comparisons/{made['id']}/cancel")
    assert compute(engine, made["id"], made["job_id"]) == 0
    found = api.get(f"/comparisons/{made['id']}")
    assert (found["status"], found["has_intervals"], found["low"]) == ("cancelled", False, None)


def test_a_computation_that_is_cancelled_at_its_very_end_stores_nothing(api: Api, engine, sides, monkeypatch):
    made = api.post("/comparisons", 202, json=body(sides, intervals=True, n_resamples=199))
    with writing(engine) as session:
        writes.start(session, t.Comparison, made["id"])

    def cancelled_meanwhile(*args: Any, **more: Any) -> Any:
        found = difference_intervals(*args, **more)
        api.post(f"/comparisons/{made['id']}/cancel")
        return found

    monkeypatch.setattr(comparing, "difference_intervals", cancelled_meanwhile)
    assert compute(engine, made["id"], made["job_id"]) == 0
    found = api.get(f"/comparisons/{made['id']}")
    assert (found["status"], found["has_intervals"], found["low"]) == ("cancelled", False, None)


def test_a_renamed_comparison_is_not_taken_for_unchanged(api: Api, sides):
    made = api.post("/comparisons", 201, json=body(sides, name="first"))
    path = f"/api/v1/comparisons/{made['id']}/table"
    tag = api.client.get(path).headers["ETag"]
    assert api.client.get(path, headers={"If-None-Match": tag}).status_code == 304
    api.call("PATCH", f"/comparisons/{made['id']}", json={"name": "second"})
    answer = api.client.get(path, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.json()["name"]) == (200, "second")


def test_models_of_other_shapes_are_refused_with_what_differs(api: Api, engine, sides):
    seeding.add_model(engine, "wide", sites=tuple(Site(layer, f"l{layer}", 8, 2) for layer in (1, 3)))
    seeding.add_model(engine, "deep", sites=tuple(Site(layer, f"l{layer}", 4, 2) for layer in (1, 3, 5)))
    dataset = api.get(f"/analyses/{sides[0]}")["dataset_id"]
    for model, word in (("wide", "layer 1 has 4 experts in a and 8 in b"), ("deep", "only b has the MoE layers 5")):
        other = api.analysis(dataset, model=model)["id"]
        seeding.measure(engine, other)
        refused = api.post("/comparisons", 422, json=body((sides[0], other)))
        assert word in refused["detail"]
        assert refused["errors"][0]["loc"] == ["body", "analysis_b"]


def test_what_cannot_be_compared_is_refused_with_the_reason(api: Api, engine, sides):
    queued = api.analysis(api.get(f"/analyses/{sides[0]}")["dataset_id"])["id"]
    assert "queued" in api.post("/comparisons", 409, json=body((sides[0], queued)))["detail"]
    api.post("/comparisons", 404, json=body((sides[0], "an_nothing")))
    api.post("/comparisons", 404, json=body(("rt_nothing", sides[0])))
    assert "response" in json.dumps(api.post("/comparisons", 422, json=body(sides, scope="response")))
    few = api.post("/comparisons", 422, json=body(sides, intervals=True, level=0.99, n_resamples=199))
    assert "500 resamples" in few["detail"]


def test_the_same_key_makes_one_comparison(api: Api, sides):
    headers = {"Idempotency-Key": "k"}
    first = api.post("/comparisons", 202, json=body(sides, intervals=True), headers=headers)
    assert api.post("/comparisons", 202, json=body(sides, intervals=True), headers=headers) == first


def test_following_a_comparison_fetches_no_matrix(api: Api, sides):
    made = api.post("/comparisons", 201, json=body(sides))
    assert api.get(f"/comparisons/{made['id']}?matrices=false") == made
    assert "difference" not in api.get(f"/comparisons/{made['id']}?matrices=false")


def test_three_sides_stand_side_by_side_on_one_scale(api: Api, engine, sides):
    third = api.analysis(api.get(f"/analyses/{sides[0]}")["dataset_id"], plan_of=sides[0])["id"]
    seeding.measure(engine, third, seed=2)
    three = [*sides, third]
    found = api.get("/side-by-side", params={"side": three})
    assert [one["id"] for one in found["sides"]] == three
    for own, id_ in zip(found["risk_diff"], three, strict=True):
        np.testing.assert_allclose(matrix(own), matrix(api.get(f"/analyses/{id_}/risk-diff")["risk_diff"]), atol=1e-6)
    assert found["max_abs"] == pytest.approx(np.nanmax(np.abs(matrix(found["risk_diff"]))), abs=1e-6)
    pair = api.post("/comparisons?dry_run=true", json=body((three[0], three[2])))["result"]
    assert next(p for p in found["pairs"] if (p["a"], p["b"]) == (0, 2))["drift"] == pair["drift"]
    text = api.client.get("/api/v1/side-by-side", params={"side": three, "format": "csv"}).text
    head, *lines = csv.reader(io.StringIO(text))
    assert head == ["layer", "expert", "risk_diff_1", "risk_diff_2", "risk_diff_3", "spread"]
    assert len(lines) == sum(site["n_experts"] for site in found["sites"])


def test_side_by_side_says_which_side_is_wrong(api: Api, sides):
    assert "named twice" in api.get("/side-by-side", 422, params={"side": [sides[0], sides[0]]})["detail"]
    api.get("/side-by-side", 422, params={"side": [sides[0]]})
    api.get("/side-by-side", 404, params={"side": [sides[0], "an_nothing"]})


def test_analyses_are_found_by_their_model(api: Api, sides):
    model = api.get(f"/analyses/{sides[0]}")["model"]
    assert {one["id"] for one in api.get("/analyses", params={"model": model})["items"]} == set(sides)
    assert api.get("/analyses", params={"model": "training:none"})["items"] == []
