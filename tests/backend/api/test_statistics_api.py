import csv
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from backend.domain.statistics.examination import FIGURES
from backend.store import statistics as stored_statistics
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.backend import seeding
from tests.backend.api.calls import Api

QUICK = {"n_permutations": 199, "n_resamples": 199, "n_stability": 20, "n_splits": 4}


@pytest.fixture
def analysis(api: Api, engine) -> str:
    seeding.add_model(engine)
    created = api.analysis()
    seeding.measure(engine, created["id"])
    return created["id"]


@pytest.fixture
def done(api: Api, engine, analysis: str) -> dict:
    asked = api.post(f"/analyses/{analysis}/statistics", 202, json=QUICK)
    assert (asked["status"], asked["summary"], asked["params"]["n_permutations"]) == ("queued", None, 199)
    seeding.examine(engine, asked["id"])
    return api.get(f"/statistics/{asked['id']}")


def test_contrast_pairs_are_tested_by_sign_flips(done: dict):
    summary = done["summary"]
    assert summary["design"]["scheme"] == "sign_flips"
    assert (summary["design"]["unit_name"], summary["design"]["n_units_both"]) == ("group", 10)
    assert (summary["n_prompts"], summary["n_safe"], summary["n_unsafe"], summary["n_batches"]) == (20, 10, 10, 5)
    assert summary["intervals"]["n_units"] == 10
    assert summary["n_tested"] == 8
    assert summary["baselines"]["tokens"]["auc"] is not None
    assert summary["drift"]["n_batches"] == 5
    assert "|risk_diff / its standard error|" in summary["stability"]["rule"]


def test_the_same_request_on_the_same_data_gives_the_same_statistics(api: Api, analysis: str, done: dict):
    path = f"/analyses/{analysis}/statistics"
    assert api.post(path, 200, json=QUICK) == done
    other = api.post(path, 202, json=QUICK | {"seed": 1})
    assert api.post(path, 200, json=QUICK | {"seed": 1})["id"] == other["id"]
    assert [one["id"] for one in api.get(path)["items"]] == [other["id"], done["id"]]
    assert api.get(path, params={"pool": "pooled"})["items"] == []
    assert api.get(f"/analyses/{analysis}")["statistics"] == [
        {"id": other["id"], "scope": "prompt", "pool": "mean", "status": "queued"},
        {"id": done["id"], "scope": "prompt", "pool": "mean", "status": "succeeded"},
    ]


def test_a_key_sent_twice_queues_one(api: Api, analysis: str):
    headers = {"Idempotency-Key": "once"}
    first = api.post(f"/analyses/{analysis}/statistics", 202, json=QUICK, headers=headers)
    assert api.post(f"/analyses/{analysis}/statistics", 202, json=QUICK, headers=headers) == first
    assert [job["kind"] for job in api.get("/jobs")["items"]] == ["statistics", "analysis"]


def test_statistics_of_an_unfinished_analysis_are_refused_with_what_is_missing(api: Api, engine):
    seeding.add_model(engine)
    created = api.analysis()
    seeding.measure(engine, created["id"], only=range(2), finish=False)
    refused = api.post(f"/analyses/{created['id']}/statistics", 409, json={})
    assert "running, with 2 of 5 batches measured" in refused["detail"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"n_resamples": 99}, "at least 100 resamples"),
        ({"scope": "response"}, "did not count"),
        ({"strata": "group"}, "category"),
        ({"n_permutations": 1}, "19"),
    ],
)
def test_what_cannot_be_computed_is_refused_at_once(api: Api, analysis: str, body: dict, word: str):
    refused = api.post(f"/analyses/{analysis}/statistics", 422, json=body)
    assert word in json.dumps(refused)
    assert api.get(f"/analyses/{analysis}/statistics")["items"] == []


def test_experts_come_with_their_tests_and_their_risk_figures(api: Api, analysis: str, done: dict):
    path = f"/statistics/{done['id']}/experts"
    rows = api.get(path, params={"sort": "layer"})["items"]
    assert [(row["layer"], row["expert"]) for row in rows] == [(layer, e) for layer in (1, 3) for e in range(4)]
    table = api.get(f"/statistics/{done['id']}/table")
    for place, layer in enumerate(table["layers"]):
        for expert in range(4):
            row = rows[place * 4 + expert]
            assert row["layer"] == layer
            for name in ("p", "p_max_t", "q", "ci_low", "ci_high", "frequency", "t", "load", "drift_slope"):
                assert row[name] == table[name][place][expert]
            assert row["ci_low"] < row["risk_diff"] < row["ci_high"]
            assert row["p"] <= row["p_max_t"]
    listed = api.get(f"/analyses/{analysis}/experts", params={"sort": "layer"})
    assert (listed["items"], listed["statistics_id"]) == (rows, done["id"])
    detail = api.get(f"/analyses/{analysis}/experts/3/2")
    assert detail["statistics_id"] == done["id"]
    assert {name: detail[name] for name in rows[6]} == rows[6]


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("p", lambda row: row["p"]),
        ("q", lambda row: row["q"]),
        ("-abs", lambda row: -abs(row["risk_diff"])),
        ("risk_diff", lambda row: row["risk_diff"]),
        ("-risk_diff", lambda row: -row["risk_diff"]),
        ("frequency", lambda row: -row["frequency"]),
        ("p_max_t", lambda row: row["p_max_t"]),
        ("load", lambda row: row["load"]),
        ("-load", lambda row: -row["load"]),
    ],
)
def test_experts_are_sorted_paged_and_filtered(api: Api, done: dict, sort: str, key):
    path, params = f"/statistics/{done['id']}/experts", {"sort": sort, "limit": 3}
    rows, cursor = [], None
    while True:
        page = api.get(path, params=params | ({"cursor": cursor} if cursor else {}))
        rows, cursor = rows + page["items"], page["next_cursor"]
        if cursor is None:
            break
    assert len(rows) == 8
    assert rows == sorted(rows, key=key)
    limit = np.median([row["q"] for row in rows])
    kept = api.get(path, params={"sort": sort, "max_q": limit, "direction": "unsafe"})["items"]
    assert kept == [row for row in rows if row["q"] <= limit and row["risk_diff"] > 0]
    assert api.get(path, params={"max_p_max_t": 0})["items"] == []
    in_layer = api.get(path, params={"sort": sort, "layer": 3})["items"]
    assert in_layer == [row for row in rows if row["layer"] == 3]


def test_experts_of_an_analysis_are_filtered_and_filed_as_those_of_its_statistics(api: Api, analysis: str, done: dict):
    asked = {"sort": "q", "direction": "safe", "layer": 1}
    path, other = f"/analyses/{analysis}/experts", f"/statistics/{done['id']}/experts"
    rows = api.get(path, params=asked)["items"]
    assert rows == api.get(other, params=asked)["items"] != []
    files = [api.client.get(f"/api/v1{one}", params=asked | {"format": "csv"}).text for one in (path, other)]
    assert files[0] == files[1]
    assert len(files[0].splitlines()) == len(rows) + 1


def test_the_distance_of_every_batch_is_given_beside_the_test_of_drift(api: Api, engine, done: dict):
    path = f"/statistics/{done['id']}/drift"
    items = api.get(path)["items"]
    assert [one["batch_idx"] for one in items] == list(range(5))
    per_batch = [
        np.array(api.get(f"/analyses/{done['analysis_id']}/risk-diff", params={"batch_idx": idx})["risk_diff"])
        for idx in range(5)
    ]
    away = np.stack(per_batch) - np.mean(per_batch, axis=0)
    expected = np.sqrt(np.mean(away**2, axis=(1, 2)))
    np.testing.assert_allclose([one["distance"] for one in items], expected, rtol=1e-4)
    text = api.client.get(f"/api/v1{path}", params={"format": "csv"}).text
    assert [float(row["distance"]) for row in csv.DictReader(io.StringIO(text))] == [one["distance"] for one in items]


def test_a_file_holds_every_row_in_the_same_order(api: Api, done: dict):
    path = f"/statistics/{done['id']}/experts"
    rows = api.get(path, params={"sort": "q"})["items"]
    text = api.client.get(f"/api/v1{path}", params={"sort": "q", "format": "csv", "limit": 1}).text
    read = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["q"]) for row in read] == [row["q"] for row in rows]
    assert list(read[0]) == list(rows[0])


def test_a_figure_that_is_not_there_is_null_an_empty_cell_and_a_parquet_null(api: Api, engine, done: dict):
    with writing(engine) as session:
        stored = session.get_one(t.Statistics, done["id"])
        figures = stored.figures.copy()
        figures[FIGURES.index("q"), 1, 2] = np.nan
        stored.figures = figures
    path = f"/statistics/{done['id']}/experts"
    assert api.get(path, params={"sort": "layer"})["items"][6]["q"] is None
    assert api.get(path, params={"sort": "q"})["items"][-1]["q"] is None
    assert len(api.get(path, params={"max_q": 1})["items"]) == 7
    assert api.get(f"/statistics/{done['id']}/table")["q"][1][2] is None
    params = {"sort": "layer", "format": "csv"}
    rows = list(csv.DictReader(io.StringIO(api.client.get(f"/api/v1{path}", params=params).text)))
    assert [row["q"] == "" for row in rows] == [place == 6 for place in range(8)]
    content = api.client.get(f"/api/v1{path}", params=params | {"format": "parquet"}).content
    assert pq.read_table(io.BytesIO(content))["q"].null_count == 1


def test_figures_that_are_not_there_yet_are_a_conflict(api: Api, analysis: str):
    asked = api.post(f"/analyses/{analysis}/statistics", 202, json=QUICK)
    for view in ("experts", "table"):
        assert "queued" in api.get(f"/statistics/{asked['id']}/{view}", 409)["detail"]
    rows = api.get(f"/analyses/{analysis}/experts")
    assert rows["statistics_id"] is None
    assert {row["p"] for row in rows["items"]} == {None}


def test_statistics_are_cancelled_resumed_deleted_and_brought_back(api: Api, engine, analysis: str):
    asked = api.post(f"/analyses/{analysis}/statistics", 202, json=QUICK)
    path = f"/statistics/{asked['id']}"
    assert "cancel it first" in api.call("DELETE", path, 409)["detail"]
    assert api.post(f"{path}/cancel")["status"] == "cancelled"
    again = api.post(f"/analyses/{analysis}/statistics", 202, json=QUICK)
    assert again["id"] != asked["id"]
    assert api.post(f"{path}/resume", 202)["status"] == "queued"
    seeding.examine(engine, asked["id"])
    assert api.call("PATCH", path, json={"name": "first"})["name"] == "first"
    api.call("DELETE", path, 204)
    assert [one["id"] for one in api.get(f"/analyses/{analysis}/statistics")["items"]] == [again["id"]]
    assert api.get(f"/analyses/{analysis}/experts")["statistics_id"] is None
    assert api.post(f"{path}/undelete")["deleted_at"] is None
    assert api.get(f"/analyses/{analysis}/experts")["statistics_id"] == asked["id"]


def test_verify_sees_that_a_figure_or_a_count_was_changed(api: Api, engine, analysis: str, done: dict):
    for path in (f"/analyses/{analysis}/verify", f"/statistics/{done['id']}/verify"):
        assert api.post(path)["ok"], path
    with writing(engine) as session:
        stored = session.get_one(t.Statistics, done["id"])
        stored.figures = np.where(stored.figures == stored.figures, 0.001, np.nan)
    broken = api.post(f"/analyses/{analysis}/verify")["first_break"]
    assert (broken["name"], broken["where"]) == (
        "statistics: stand on the stored counts",
        f"{done['id']}, its figures",
    )


def test_verify_sees_that_statistics_stand_on_other_counts(api: Api, engine, analysis: str, done: dict):
    with reading(engine) as session:
        before = session.get_one(t.BatchRouting, (analysis, 1, "prompt")).counts
    with writing(engine) as session:  # two tokens of one sample change places: every sum stays as it was
        routing = session.get_one(t.BatchRouting, (analysis, 1, "prompt"))
        routing.counts = before[:, :, ::-1].copy()
    links = {link["name"]: link for link in api.post(f"/analyses/{analysis}/verify")["links"]}
    assert links["statistics: stand on the stored counts"]["where"] == f"{done['id']}, the counts it stands on"


def test_what_follows_an_analysis_is_asked_for_once_and_only_after_success(api: Api, engine):
    seeding.add_model(engine)
    dataset = api.dataset()["id"]
    with_none = api.analysis(dataset, statistics=False)["id"]
    waiting = api.analysis(dataset)["id"]
    finished = api.analysis(dataset, scopes=["prompt", "last"])["id"]
    for analysis in (with_none, finished):
        seeding.measure(engine, analysis)

    def follow(analysis: str) -> list[str]:
        with writing(engine) as session:
            return [job.id for job in stored_statistics.request_defaults(session, analysis)]

    assert follow(with_none) == follow(waiting) == []
    first = follow(finished)
    assert len(first) == 2
    assert follow(finished) == first  # the step that asks may run twice
    heads = api.get(f"/analyses/{finished}")["statistics"]
    assert [(head["scope"], head["pool"], head["status"]) for head in heads] == [
        ("last", "mean", "queued"),
        ("prompt", "mean", "queued"),
    ]
    assert api.get(f"/jobs/{first[0]}")["kind"] == "statistics"
    api.post(f"/statistics/{heads[0]['id']}/cancel")
    assert len(follow(finished)) == 2  # the cancelled one is asked for anew, as by anybody
