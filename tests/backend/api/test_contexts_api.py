import csv
import io

import numpy as np
import pyarrow.parquet as pq
import pytest

from backend.domain.jobs import QUEUE_CPU, QUEUE_GPU, QUEUE_VLLM, queue_for
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.backend import seeding
from tests.backend.api.calls import Api


@pytest.fixture
def analysis(api: Api, engine) -> str:
    seeding.add_model(engine)
    created = api.analysis()
    seeding.measure(engine, created["id"], non_finite=(2,))
    return created["id"]


@pytest.fixture
def context(api: Api, engine, analysis: str) -> str:
    made = api.post(f"/analyses/{analysis}/context", 202, json={"top_tokens": 3})
    seeding.read_in_context(engine, made["id"])
    return made["id"]


def rows_of(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def sums(engine, analysis: str) -> t.AnalysisAggregate:
    with reading(engine) as session:
        return session.get_one(t.AnalysisAggregate, (analysis, "prompt"))


# --- load


@pytest.mark.parametrize("label", ["all", "safe", "unsafe"])
def test_load_is_the_counts_over_the_tokens_and_sums_to_top_k(api: Api, engine, analysis: str, label: str):
    shown = api.get(f"/analyses/{analysis}/load", params={"label": label})
    row = sums(engine, analysis)
    which = {"all": [0, 1], "safe": [0], "unsafe": [1]}[label]
    counts, tokens = row.counts[which].sum(axis=0), int(row.tokens[which].sum())
    assert shown["tokens"] == tokens
    assert np.allclose(shown["rate"], counts / tokens)
    assert np.allclose(np.sum(shown["rate"], axis=1), 2)
    assert np.allclose(np.array(shown["relative"]) * 2 / 4, shown["rate"])
    share = counts / counts.sum(axis=1, keepdims=True)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(axis=1)
    assert np.allclose(shown["entropy"], entropy / np.log(4))
    assert np.allclose(shown["effective_experts"], np.exp(entropy))
    assert (shown["layers"], shown["dead"], shown["n_batches"]) == ([1, 3], [], 4)


def test_load_as_a_table_holds_the_same_numbers(api: Api, analysis: str):
    path, params = f"/analyses/{analysis}/load", {"label": "safe"}
    shown = api.get(path, params=params)
    found = rows_of(api.get(path, params=params | {"format": "csv"}).text)
    assert [float(row["rate"]) for row in found] == np.ravel(shown["rate"]).tolist()
    assert {row["site"] for row in found} == {site.site for site in seeding.SITES}
    table = pq.read_table(io.BytesIO(api.get(path, params=params | {"format": "parquet"}).content))
    assert table.column("relative_load").to_pylist() == np.ravel(shown["relative"]).tolist()


def test_load_before_the_first_batch_says_so(api: Api, engine):
    seeding.add_model(engine)
    path = f"/analyses/{api.analysis()['id']}/load"
    shown = api.get(path)
    assert (shown["rate"], shown["reason"]) == (None, "not measured yet")
    assert "not measured yet" in api.get(path, 409, params={"format": "csv"})["detail"]
    assert "did not count the scope" in api.get(path, 422, params={"scope": "last"})["detail"]


def test_load_is_not_sent_twice(api: Api, analysis: str):
    first = api.client.get(f"/api/v1/analyses/{analysis}/load")
    again = api.client.get(f"/api/v1/analyses/{analysis}/load", headers={"If-None-Match": first.headers["etag"]})
    assert (first.status_code, again.status_code) == (200, 304)


# --- the run


def test_a_context_run_is_queued_with_the_experts_of_the_largest_risk_diff(api: Api, analysis: str):
    made = api.post(f"/analyses/{analysis}/context", 202, json={})
    assert (made["status"], made["recounted"], made["dtype"]) == ("queued", None, None)
    by_size = [[e["layer"], e["expert"]] for e in api.get(f"/analyses/{analysis}/experts")["items"]]
    assert made["params"] == {"experts": by_size, "top_tokens": 20}  # 8 experts in all
    assert api.get(f"/jobs/{made['job_id']}")["kind"] == "context"
    assert [c["id"] for c in api.get(f"/analyses/{analysis}/context")["items"]] == [made["id"]]


def test_a_context_run_is_started_once_per_key(api: Api, analysis: str):
    headers = {"Idempotency-Key": "once"}
    made = [api.post(f"/analyses/{analysis}/context", 202, json={}, headers=headers)["id"] for _ in range(2)]
    assert made[0] == made[1]
    assert len(api.get(f"/analyses/{analysis}/context")["items"]) == 1


def test_named_experts_are_checked_and_kept_in_their_order(api: Api, analysis: str):
    made = api.post(f"/analyses/{analysis}/context", 202, json={"experts": [[3, 1], [1, 0], [3, 1]]})
    assert made["params"]["experts"] == [[3, 1], [1, 0]]
    problem = api.post(f"/analyses/{analysis}/context", 422, json={"experts": [[1, 0], [2, 0]]})
    assert "no expert 0 in layer 2" in problem["detail"]
    assert problem["errors"][0]["loc"] == ["body", "experts", 1]


def test_an_analysis_that_is_not_finished_is_not_read_in_context(api: Api, engine):
    seeding.add_model(engine)
    made = api.analysis()["id"]
    assert "is queued" in api.post(f"/analyses/{made}/context", 409, json={})["detail"]
    seeding.measure(engine, made)
    assert "did not count the scope" in api.post(f"/analyses/{made}/context", 422, json={"scope": "last"})["detail"]


def test_a_context_run_is_cancelled_resumed_deleted_and_brought_back(api: Api, analysis: str):
    id_ = api.post(f"/analyses/{analysis}/context", 202, json={})["id"]
    assert api.call("DELETE", f"/context/{id_}", 409)
    assert api.post(f"/context/{id_}/cancel")["status"] == "cancelled"
    assert api.post(f"/context/{id_}/resume", 202)["status"] == "queued"
    api.post(f"/context/{id_}/cancel")
    assert api.call("PATCH", f"/context/{id_}", json={"name": "mine"})["name"] == "mine"
    api.call("DELETE", f"/context/{id_}", 204)
    assert api.get(f"/analyses/{analysis}/context")["items"] == []
    assert api.post(f"/context/{id_}/undelete")["deleted_at"] is None


def test_a_run_that_has_counted_nothing_yet_says_so(api: Api, analysis: str):
    id_ = api.post(f"/analyses/{analysis}/context", 202, json={})["id"]
    assert api.get(f"/context/{id_}/experts")["items"] == []
    assert "counted window" in api.get(f"/context/{id_}/coactivation", 404, params={"layer": 1})["detail"]
    assert "looked at" in api.get(f"/context/{id_}/experts/1/0", 404)["detail"]


def test_work_waits_in_the_queue_of_its_engine(api: Api, engine, analysis: str):
    assert queue_for("context", "vllm") == QUEUE_VLLM
    assert queue_for("context", "transformers") == queue_for("training") == QUEUE_GPU
    assert queue_for("statistics", "vllm") == QUEUE_CPU
    queue = api.client.app.state.edge.queue
    for name, expected in (("transformers", QUEUE_GPU), ("vllm", QUEUE_VLLM)):
        with writing(engine) as session:
            session.get_one(t.Analysis, analysis).engine = name
        job = api.post(f"/analyses/{analysis}/context", 202, json={})["job_id"]
        [found] = queue._client.list_workflows(workflow_ids=[job])
        assert found.queue_name == expected


# --- what it found


def chosen(engine, analysis: str, site: int) -> list[tuple[int, np.ndarray]]:
    """(label, [token, k]) of every sample of a measured batch, as `seeding.read_in_context` dealt its counts out."""
    with reading(engine) as session:
        bad = {b.batch_idx for b in session.query(t.AnalysisBatch).filter_by(status="non_finite")}
        counts = {r.batch_idx: r.counts for r in session.query(t.BatchRouting)}
        return [
            (int(s.label == "unsafe"), seeding.chosen_of(counts[s.batch_idx][s.in_batch_idx, site], int(s.tokens)))
            for s in session.query(t.BatchSample).order_by("batch_idx", "in_batch_idx")
            if s.batch_idx not in bad
        ]


@pytest.mark.parametrize("label", ["all", "safe", "unsafe"])
def test_coactivation_counts_the_tokens_that_two_experts_share(
    api: Api, engine, analysis: str, context: str, label: str
):
    shown = api.get(f"/context/{context}/coactivation", params={"layer": 3, "label": label})
    slow = np.zeros((4, 4), int)
    n = 0
    for code, tokens in chosen(engine, analysis, 1):
        if label in ("all", ("safe", "unsafe")[code]):
            n += len(tokens)
            for a, b in tokens:
                slow[a, b] += 1
                slow[b, a] += 1
    assert shown["observed"] == slow.tolist()
    assert shown["pairs"] == n  # top-2: one pair a token
    assert (shown["n_experts"], shown["top_k"], shown["layer"], shown["n_batches"]) == (4, 2, 3, 5)
    counts = slow.sum(axis=1)
    total = sum(counts[a] * counts[b] for a in range(4) for b in range(a))
    for pair in shown["top_pairs"]:
        expected = n * counts[pair["a"]] * counts[pair["b"]] / total
        assert pair["observed"] == slow[pair["a"], pair["b"]]
        assert pair["expected"] == pytest.approx(expected)
        assert pair["lift"] == pytest.approx(pair["observed"] / expected)
        assert shown["lift"][pair["b"]][pair["a"]] == round(pair["lift"], 4)
    assert all(shown["lift"][a][a] is None for a in range(4))
    excess = [pair["observed"] - pair["expected"] for pair in shown["top_pairs"]]
    assert excess == sorted(excess, reverse=True)


def test_coactivation_comes_as_files_too(api: Api, context: str):
    path = f"/context/{context}/coactivation"
    shown = api.get(path, params={"layer": 1})
    matrix = np.load(io.BytesIO(api.get(path, params={"layer": 1, "format": "npy"}).content), allow_pickle=False)
    assert matrix.tolist() == shown["observed"]
    rows = rows_of(api.get(path, params={"layer": 1, "format": "csv"}).text)
    assert [(int(r["expert_a"]), int(r["expert_b"]), int(r["observed"])) for r in rows] == [
        (a, b, shown["observed"][a][b]) for a in range(4) for b in range(a + 1, 4)
    ]
    table = pq.read_table(io.BytesIO(api.get(path, params={"layer": 1, "format": "parquet"}).content))
    assert table.num_rows == 6
    assert api.get(path, params={"layer": 1, "matrix": False})["observed"] is None
    assert "MoE layer" in api.get(path, 404, params={"layer": 2})["detail"]


@pytest.mark.parametrize("pool", ["mean", "pooled"])
def test_what_is_shown_and_the_rest_add_up_to_the_risk_diff_of_the_analysis(
    api: Api, analysis: str, context: str, pool: str
):
    items = api.get(f"/context/{context}/experts", params={"pool": pool})["items"]
    assert len(items) == 8
    for item in items:
        where = f"{item['layer']}/{item['expert']}"
        own = api.get(f"/analyses/{analysis}/experts/{where}", params={"pool": pool})
        shown = api.get(f"/context/{context}/experts/{where}", params={"pool": pool})
        assert item["risk_diff"] == shown["risk_diff"] == shown["analysis_risk_diff"] == own["risk_diff"]
        assert (item["hits_safe"], item["hits_unsafe"]) == (own["count_safe"], own["count_unsafe"])
        both = shown["raising"] + shown["lowering"]
        assert len(shown["raising"]) <= 3
        assert abs(sum(token["contribution"] for token in both) + shown["rest"] - own["risk_diff"]) < 1e-9
        assert all(token["contribution"] > 0 for token in shown["raising"])
        assert all(token["contribution"] < 0 for token in shown["lowering"])
        assert abs(item["top"]["contribution"]) == max(abs(token["contribution"]) for token in both)
        assert all(token["share"] == token["contribution"] / own["risk_diff"] for token in both)
        assert all(token["text"] == f"␣word{token['token_id']}" for token in both)
        assert 0 < item["concentration"] <= 1


def test_every_token_is_in_the_table_of_an_expert(api: Api, analysis: str, context: str):
    path = f"/context/{context}/experts/1/2"
    shown = api.get(path, params={"top": 200})
    rows = rows_of(api.get(path, params={"format": "csv"}).text)
    total = sum(float(row["contribution"]) for row in rows)
    assert abs(total - shown["risk_diff"]) < 1e-9
    assert abs(shown["rest"]) < 1e-9
    by_id = {int(row["token_id"]): row for row in rows}
    for token in shown["raising"] + shown["lowering"]:
        row = by_id[token["token_id"]]
        for name in ("hits_safe", "hits_unsafe", "occurrences_safe", "occurrences_unsafe"):
            assert int(row[name]) == token[name]
    assert sum(int(row["hits_safe"]) for row in rows) == shown["hits_safe"]
    sizes = sorted((abs(float(row["contribution"])) for row in rows), reverse=True)
    assert shown["concentration"] == pytest.approx(sum(sizes[:5]) / sum(sizes))
    assert pq.read_table(io.BytesIO(api.get(path, params={"format": "parquet"}).content)).num_rows == len(rows)


def test_a_part_of_a_run_shows_what_it_has(api: Api, engine, analysis: str):
    id_ = api.post(f"/analyses/{analysis}/context", 202, json={})["id"]
    seeding.read_in_context(engine, id_, windows=2, finish=False)
    shown = api.get(f"/context/{id_}")
    assert (shown["status"], shown["progress"]["done"], shown["progress"]["total"]) == ("running", 2, 5)
    assert shown["recounted"]["batches"] == 2
    detail = api.get(f"/context/{id_}/experts/1/2")
    assert (detail["n_batches"], detail["raising"][0]["text"]) == (2, "")
    assert api.get(f"/context/{id_}/coactivation", params={"layer": 1})["n_batches"] == 2


def test_the_recount_is_part_of_the_record(api: Api, context: str):
    shown = api.get(f"/context/{context}")
    expected = {"batches": 4, "differing": 0, "counts": 9, "differing_counts": 0, "non_finite": 1}
    assert (shown["recounted"], shown["dtype"], shown["status"]) == (expected, "float32", "succeeded")
