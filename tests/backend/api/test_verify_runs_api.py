"""Evaluations, comparisons and context runs: what they stand on is checked, and every change of it is seen."""

from typing import Any

import pytest
from sqlalchemy import Engine, update

from backend.store import tables as t
from backend.store.engine import writing
from tests.backend import seeding
from tests.backend.api.calls import Api

CHOSEN = [[1, 0], [3, 2]]


@pytest.fixture
def measured(api: Api, engine: Engine) -> str:
    seeding.add_model(engine)
    made = api.analysis()
    seeding.measure(engine, made["id"])
    return made["id"]


def change(engine: Engine, table: type[t.Base], values: dict[str, Any], *where: Any) -> None:
    with writing(engine) as session:
        assert session.execute(update(table).where(*where).values(**values)).rowcount


def verified(api: Api, path: str) -> dict[str, Any]:
    found = api.post(f"{path}/verify")
    assert all(link["ok"] for link in found["links"]), found["first_break"]
    assert all(link["checked"] for link in found["links"] if "person" not in link["name"]), found["links"]
    return found


def broken(api: Api, path: str, link: str) -> str:
    found = api.post(f"{path}/verify")
    names = [one["name"] for one in found["links"] if not one["ok"]]
    assert any(link in name for name in names), (names, found["first_break"])
    return str(next(one["where"] for one in found["links"] if not one["ok"] and link in one["name"]))


def test_a_comparison_of_analyses_follows_from_their_counts(api: Api, engine: Engine, measured: str):
    other = api.analysis(api.get(f"/analyses/{measured}")["dataset_id"], plan_of=measured)["id"]
    seeding.measure(engine, other, seed=1)
    made = api.post("/comparisons", 201, json={"analysis_a": measured, "analysis_b": other})
    path = f"/comparisons/{made['id']}"
    names = [link["name"] for link in verified(api, path)["links"]]
    assert {name.split(",")[0] for name in names if "," in name and name.startswith("an_")} == {measured, other}
    change(engine, t.Comparison, {"result": made["result"] | {"n_cells": 1}}, t.Comparison.id == made["id"])
    assert "n_cells" in broken(api, path, "figures")
    change(engine, t.Analysis, {"plan_digest": "0" * 64}, t.Analysis.id == other)
    assert broken(api, path, "sides") == f"{other}, plan_digest"
    api.call("DELETE", f"/analyses/{other}", 204)
    assert broken(api, path, "sides") == other


def test_a_comparison_with_a_table_sees_that_its_counts_changed(api: Api, engine: Engine, measured: str):
    content = api.client.get(f"/api/v1/analyses/{measured}/risk-diff?format=csv&pool=pooled").content
    table = api.post("/risk-tables", 201, files={"file": ("t.csv", content)}, data={"name": "ours"})["id"]
    made = api.post("/comparisons", 201, json={"analysis_a": measured, "analysis_b": table})
    path = f"/comparisons/{made['id']}"
    verified(api, path)
    with writing(engine) as session:
        row = session.get_one(t.RiskTable, table)
        counts = row.counts.copy()
        counts[0, 0, 0] += 1
        row.counts = counts
    assert broken(api, path, "sides") == f"{table}, its counts"


def test_a_context_run_adds_up_to_the_counts_of_its_analysis(api: Api, engine: Engine, measured: str):
    made = api.post(f"/analyses/{measured}/context", 202, json={"top_tokens": 3})
    path = f"/context/{made['id']}"
    seeding.read_in_context(engine, made["id"])
    verified(api, path)
    with writing(engine) as session:
        row = session.query(t.ContextExpert).filter_by(context_id=made["id"]).first()
        assert row is not None
        place = f"site {row.site}, expert {row.expert}"
        hits = row.hits.copy()
        hits[0, 0] += 1
        row.hits = hits
    assert broken(api, path, "tokens") == place
    with writing(engine) as session:
        pairs = session.query(t.ContextSite).filter_by(context_id=made["id"], site=0).one()
        changed = pairs.pairs.copy()
        changed[0, 0, 1] += 1
        pairs.pairs = changed
    assert broken(api, path, "pairs") == "layer 1"


@pytest.fixture
def evaluation(api: Api, engine: Engine, measured: str) -> str:
    chosen = api.post(
        f"/analyses/{measured}/expert-sets", 201, json={"name": "two", "method": "manual", "experts": CHOSEN}
    )
    rows = [
        row | {"prompt": f"{row['prompt']} Really?", "group": f"new-{i}"}
        for i, row in enumerate(seeding.prompt_rows(6))
    ]
    files = {"file": ("new.jsonl", seeding.jsonl(rows))}
    fresh = api.post("/datasets", 201, files=files, data={"name": "new", "label_meaning": "harmless_harmful"})
    body = {"model": "tiny", "dataset_id": fresh["id"], "expert_set_id": chosen["id"], "n_random": 2}
    made = api.post("/evaluations", 202, json=body | {"load_matched": False})
    seeding.evaluate(engine, made["id"])
    return made["id"]


PROMPT, ARM, ANSWER = t.EvaluationPrompt, t.EvaluationArm, t.EvaluationAnswer
CHANGES: dict[str, tuple[str, Any, dict[str, Any], Any]] = {
    "a prompt": ("prompts", PROMPT, {"row_id": "0" * 64}, PROMPT.prompt_idx == 3),
    "a model": ("models", t.Model, {"weights_digest": "0" * 64}, t.Model.id == "tiny"),
    "an arm": ("arms", ARM, {"experts": [[1, 1], [3, 2]]}, ARM.arm_idx == 1),
    "a random arm": ("arms", ARM, {"experts": [[1, 1], [1, 2]]}, ARM.arm_idx == 2),
    "an answer": ("answers", ANSWER, {"prompt_idx": 0}, ANSWER.n == 5),
    "a verdict": ("verdicts", ANSWER, {"overruled": "refused"}, ANSWER.n == 5),
    "the expert set": ("expert set", t.ExpertSet, {"experts": [[1, 0], [3, 3]]}, t.ExpertSet.n_experts == 2),
}
"""What is changed behind the product's back -> the link that breaks; there is one evaluation."""


def test_an_evaluation_that_nobody_touched_holds(api: Api, evaluation: str):
    api.post(
        f"/evaluations/{evaluation}/answers/0/overrule", json={"verdict": "refused", "reason": "it does", "by": "me"}
    )
    links = {link["name"]: link for link in verified(api, f"/evaluations/{evaluation}")["links"]}
    [record] = [link for name, link in links.items() if "person" in name]
    assert record["checked"] == 1


@pytest.mark.parametrize("what", CHANGES)
def test_an_evaluation_sees_that_something_it_stands_on_changed(api: Api, engine: Engine, evaluation: str, what: str):
    link, table, values, where = CHANGES[what]
    change(engine, table, values, where)
    broken(api, f"/evaluations/{evaluation}", link)
