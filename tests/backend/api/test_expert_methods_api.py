"""Expert sets by statistics and by share. The other methods: test_experts_api.py."""

import numpy as np
import pytest
from sqlalchemy import Engine

from backend.domain.experts import expert_set_digest
from backend.store import tables as t
from backend.store.engine import writing
from tests.backend import seeding
from tests.backend.api.calls import Api

QUICK = {"n_permutations": 199, "n_resamples": 199, "n_stability": 20, "n_splits": 4}
LENIENT = {"method": "significant", "direction": "both", "alpha": 0.9}


@pytest.fixture
def path(api: Api, engine: Engine) -> str:
    seeding.add_model(engine)
    created = api.analysis()
    seeding.measure(engine, created["id"])
    return f"/analyses/{created['id']}"


@pytest.fixture
def statistics(api: Api, engine: Engine, path: str) -> str:
    id_ = api.post(f"{path}/statistics", 202, json=QUICK)["id"]
    seeding.examine(engine, id_)
    return id_


def pairs(rows: list[dict]) -> list[list[int]]:
    return sorted([row["layer"], row["expert"]] for row in rows)


@pytest.mark.parametrize(("correction", "figure"), [("max_t", "p_max_t"), ("bh", "q")])
@pytest.mark.parametrize("direction", ["unsafe", "safe", "both"])
def test_significant_is_what_the_table_of_experts_shows(
    api: Api, path: str, statistics: str, correction: str, figure: str, direction: str
):
    body = LENIENT | {"correction": correction, "direction": direction}
    tried = api.post(f"{path}/expert-sets?dry_run=true", json=body)
    query = {f"max_{figure}": 0.9, "direction": direction}
    rows = api.get(f"/statistics/{statistics}/experts", params=query)["items"]
    assert tried["experts"] == pairs(rows)
    assert tried["statistics_id"] == statistics
    assert tried["rule"]["statistics"] == api.get(f"/statistics/{statistics}")["sha256"]
    assert tried["share_of_experts"] == len(rows) / 8


def test_without_finished_statistics_the_answer_says_how_to_get_them(api: Api, path: str):
    body = {"method": "significant"}
    refused = api.post(f"{path}/expert-sets?dry_run=true", 409, json=body)
    assert f'POST /api/v1{path}/statistics {{"scope": "prompt", "pool": "mean"}}' in refused["detail"]
    asked = api.post(f"{path}/statistics", 202, json=QUICK)
    refused = api.post(f"{path}/expert-sets", 409, json=body)
    assert f"{asked['id']} are queued: wait" in refused["detail"]


def test_other_statistics_of_the_analysis_can_be_named(api: Api, engine: Engine, path: str, statistics: str):
    newer = api.post(f"{path}/statistics", 202, json=QUICK | {"seed": 5})["id"]
    seeding.examine(engine, newer)
    tried = api.post(f"{path}/expert-sets?dry_run=true", json=LENIENT)
    assert tried["statistics_id"] == newer
    older = api.post(f"{path}/expert-sets?dry_run=true", json=LENIENT | {"statistics_id": statistics})
    assert older["statistics_id"] == statistics
    assert older["sha256"] != tried["sha256"]
    assert "pool 'mean', not" in str(
        api.post(f"{path}/expert-sets", 409, json=LENIENT | {"pool": "pooled", "statistics_id": newer})
    )
    api.post(f"{path}/expert-sets", 404, json=LENIENT | {"statistics_id": "st_0"})


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"method": "significant", "alpha": 0.001}, "smallest p-value"),
        ({"method": "significant", "kind": "per_batch"}, "too few prompts"),
        ({"method": "significant", "share": 0.5}, "means nothing"),
        ({"method": "cumulative"}, "needs share"),
        ({"method": "top_k", "k": 1, "statistics_id": "st_0"}, "belongs to method"),
        ({"method": "significant", "alpha": 0.01}, "no expert at all"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_with_the_reason(
    api: Api, path: str, statistics: str, body: dict, word: str
):
    assert word in str(api.post(f"{path}/expert-sets", 422, json=body))


def test_where_nothing_is_testable_no_set_can_be_significant(api: Api, engine: Engine):
    """The safe prompts are all of one category, the unsafe ones all of another."""
    seeding.add_model(engine)
    rows = [row | {"category": row["label"], "group": None} for row in seeding.prompt_rows()]
    form = {"name": "aliased", "label_meaning": "harmless_harmful"}
    dataset = api.post("/datasets", 201, files={"file": ("aliased.jsonl", seeding.jsonl(rows))}, data=form)["id"]
    created = api.analysis(dataset)["id"]
    seeding.measure(engine, created)
    asked = api.post(f"/analyses/{created}/statistics", 202, json=QUICK | {"strata": "category"})["id"]
    seeding.examine(engine, asked)
    summary = api.get(f"/statistics/{asked}")["summary"]
    assert (summary["design"]["scheme"], summary["smallest_p"], summary["n_tested"]) == ("not_testable", None, 0)
    assert summary["intervals"]["n_given"] == 8
    assert summary["baselines"]["routing"]["auc"] is not None
    assert summary["stability"]["rule"] == "the expert with the largest |risk_diff|"
    refused = api.post(f"/analyses/{created}/expert-sets", 422, json={"method": "significant"})
    assert "every stratum holds one label only" in refused["detail"]


def test_cumulative_needs_no_statistics_and_works_batch_by_batch(api: Api, path: str):
    body = {"method": "cumulative", "share": 0.5, "direction": "both"}
    tried = api.post(f"{path}/expert-sets?dry_run=true", json=body)
    diff = np.sort(np.abs(np.array(api.get(f"{path}/risk-diff")["risk_diff"])).ravel())[::-1]
    n = int(np.argmax(np.cumsum(diff) >= diff.sum() / 2)) + 1
    assert tried["n_experts"] == n
    each = api.post(f"{path}/expert-sets", 201, json=body | {"kind": "per_batch"})
    assert each["per_batch"]["n_batches"] == 5
    assert each["name"] == "cumulative 50% both in each batch"


def test_a_training_on_a_significant_set_verifies_down_to_the_statistics(
    api: Api, engine: Engine, path: str, statistics: str
):
    chosen = api.post(f"{path}/expert-sets", 201, json=LENIENT)
    assert chosen["name"] == "significant at 0.9 (max-T) both"
    assert api.get(f"/expert-sets/{chosen['id']}")["statistics_id"] == statistics
    training = api.post(
        "/trainings", 202, json={"analysis_id": path.rpartition("/")[2], "expert_set_id": chosen["id"]}
    )["id"]

    def link() -> dict:
        links = api.post(f"/trainings/{training}/verify")["links"]
        return next(one for one in links if one["name"].startswith("expert set"))

    assert (link()["ok"], link()["checked"]) == (True, 2)
    with writing(engine) as session:
        stored = session.get_one(t.Statistics, statistics)
        stored.figures = np.zeros_like(stored.figures)
    assert link()["where"] == f"{statistics}, its figures"
    with writing(engine) as session:
        session.delete(session.get_one(t.Statistics, statistics))
    assert link()["found"] == "none"


def test_verify_sees_batches_whose_experts_the_rule_would_not_choose(api: Api, engine: Engine, path: str):
    chosen = api.post(f"{path}/expert-sets", 201, json={"method": "top_k", "k": 1, "kind": "per_batch"})
    body = {"analysis_id": path.rpartition("/")[2], "expert_set_id": chosen["id"]}
    training = api.post("/trainings", 202, json=body)["id"]

    def link() -> dict:
        links = api.post(f"/trainings/{training}/verify")["links"]
        return next(one for one in links if one["name"].startswith("expert set"))

    assert link()["ok"]
    with writing(engine) as session:  # two batches exchange their experts: the same union, with a digest that fits
        stored = session.get_one(t.ExpertSet, chosen["id"])
        analysis = session.get_one(t.Analysis, stored.analysis_id)
        own = dict(stored.per_batch)
        first = next(iter(own))
        other = next(id_ for id_ in own if own[id_] != own[first])
        own[first], own[other] = own[other], own[first]
        stored.per_batch = own
        stored.sha256 = expert_set_digest(analysis.plan_digest, stored.rule, stored.experts, own)
    assert (link()["ok"], link()["where"]) == (False, f"expert set {chosen['id']}, its rule in each batch")


def test_verify_sees_experts_that_the_rule_would_not_choose(api: Api, engine: Engine, path: str):
    chosen = api.post(f"{path}/expert-sets", 201, json={"method": "top_k", "k": 2})
    training = api.post(
        "/trainings", 202, json={"analysis_id": path.rpartition("/")[2], "expert_set_id": chosen["id"]}
    )["id"]
    with writing(engine) as session:  # as if another set had been stored under the rule, with a digest that fits
        stored = session.get_one(t.ExpertSet, chosen["id"])
        analysis = session.get_one(t.Analysis, stored.analysis_id)
        stored.experts = [one for one in ([1, 0], [1, 1], [3, 0]) if one not in chosen["experts"]][:1]
        stored.sha256 = expert_set_digest(analysis.plan_digest, stored.rule, stored.experts)
    links = api.post(f"/trainings/{training}/verify")["links"]
    broken = next(one for one in links if one["name"].startswith("expert set"))
    assert (broken["ok"], broken["where"]) == (False, f"expert set {chosen['id']}, its rule")
