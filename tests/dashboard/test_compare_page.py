"""The comparison of two sides: every address in a fresh session, against the real API."""

import numpy as np
import pytest

from backend.store import plans, writes
from backend.store import tables as t
from backend.store.engine import shared_engine
from tests.dashboard.backdrop import MODEL, Backdrop
from tests.dashboard.conftest import Open
from tests.dashboard.reading import heatmaps, plots, tables, words
from worker.comparing import compute

Ids = dict[str, str]


@pytest.fixture(scope="module")
def pair(backdrop: Backdrop, ids: Ids) -> Ids:
    """A training, its model as a worker registers it, and that model measured on the plan it was trained on."""
    origin = backdrop.analyse(ids["dataset"], name="Before")
    rule = {"name": "two", "method": "manual", "experts": [[1, 0], [3, 5]]}
    chosen = backdrop.call("POST", f"/analyses/{origin}/expert-sets", json=rule)["id"]
    training = backdrop.train(origin, expert_set_id=chosen, name="Two experts")
    model = f"training:{training}"
    with backdrop.writing() as session:
        known = session.get_one(t.Model, MODEL)
        row = {column.name: getattr(known, column.name) for column in t.Model.__table__.columns}
        writes.record_model(session, row | {"id": model})
        session.get_one(t.Training, training).result = {"model_id": model}
    body = {"dataset_id": ids["dataset"], "model": model, "plan_of": origin, "name": "After"}
    after = backdrop.call("POST", "/analyses", json=body)["id"]
    rng = np.random.default_rng(1)
    with backdrop.writing() as session:
        writes.start(session, t.Analysis, after)
        analysis = session.get_one(t.Analysis, after)
        lean = rng.normal(0, 0.25, (3, 8))
        for planned in plans.load(session, after).batches:
            measured = backdrop._measure(planned, rng, lean, broken=False)
            writes.record_batch(session, analysis, planned, measured)
        writes.finish(session, t.Analysis, after, "succeeded")
    return {"a": origin, "b": after, "training": training}


def test_three_maps_share_one_scale_and_mark_the_trained_experts(backdrop: Backdrop, pair: Ids, open_page: Open):
    at = open_page(backdrop.url, "/compare", a=pair["a"], b=pair["b"], layer=3, expert=5)
    maps = heatmaps(at)
    assert len(maps) == 3
    assert len({one["vmax"] for one in maps}) == 1
    assert {tuple(map(tuple, one["marks"])) for one in maps} == {((0, 0), (2, 5))}
    assert {tuple(one["sel"]) for one in maps} == {(2, 5)}
    said = words(at)
    assert "same plan" in said
    assert "b was trained here: 2 experts" in said
    assert "Layer 3 · Expert 5" in said
    assert "no interval" in said
    assert any("Compute intervals" in button.label for button in at.button)


def test_intervals_are_computed_on_request_and_shown(backdrop: Backdrop, pair: Ids, open_page: Open):
    address = {"a": pair["b"], "b": pair["a"]}
    at = open_page(backdrop.url, "/compare", **address)
    next(button for button in at.button if "Compute intervals" in button.label).click().run()
    [made] = backdrop.call("GET", f"/comparisons?analysis_a={pair['b']}")["items"]
    assert made["status"] == "queued"
    engine = shared_engine(backdrop.settings.tables_url)
    with backdrop.writing() as session:
        writes.start(session, t.Comparison, made["id"])
    compute(engine, made["id"], "job")
    with backdrop.writing() as session:
        writes.finish(session, t.Comparison, made["id"], "succeeded")
    at = open_page(backdrop.url, "/compare", **address)
    row = tables(at)["Experts that moved most"]["rows"][0]
    assert " to " in row["cells"]["interval"]["t"]
    assert "without sampling noise" in words(at)
    at = open_page(backdrop.url, "/compare", **address, view="layers")
    assert {trace["name"] for trace in plots(at)[0]["traces"]} >= {"sampling noise alone", "without sampling noise"}
    kept = tables(open_page(backdrop.url, "/compare"))["Kept comparisons"]["rows"]
    assert "same plan, with intervals" in kept[0]["cells"]["pairing"]["t"]


def test_the_pool_and_the_room_of_the_address_are_shown(backdrop: Backdrop, pair: Ids, open_page: Open):
    address = {"a": pair["a"], "b": pair["b"]}
    mean = heatmaps(open_page(backdrop.url, "/compare", **address))[0]
    at = open_page(backdrop.url, "/compare", **address, pool="pooled", view="overlap")
    assert heatmaps(at)[0]["z"] != mean["z"]
    rows = tables(at)["Overlap of the top experts"]["rows"]
    assert {row["cells"]["top"]["t"] for row in rows} == {"8", "16", "5 %"}


def test_a_published_table_can_be_compared_and_says_that_it_has_no_intervals(
    backdrop: Backdrop, pair: Ids, open_page: Open
):
    lines = [f"{layer},{expert},{expert},{layer},9,9" for layer in (1, 2, 3) for expert in range(8)]
    content = "\n".join(["layer,expert,a1,a2,d1,d2", *lines]).encode()
    files, data = {"file": ("t.csv", content)}, {"name": "Elsewhere"}
    table = backdrop.call("POST", "/risk-tables", files=files, data=data)["id"]
    at = open_page(backdrop.url, "/compare", a=pair["a"], b=table)
    said = words(at)
    assert "published table" in said
    assert "no intervals" in said
    assert not any("Compute intervals" in button.label for button in at.button)
    assert "Elsewhere" in str(tables(open_page(backdrop.url, "/compare"))["Published tables"]["rows"])


def test_a_kept_comparison_opens_by_its_own_id(backdrop: Backdrop, pair: Ids, open_page: Open):
    body = {"analysis_a": pair["a"], "analysis_b": pair["a"], "pool": "pooled"}
    made = backdrop.call("POST", "/comparisons", json=body)
    at = open_page(backdrop.url, "/compare", id=made["id"])
    assert len(heatmaps(at)) == 3
    assert at.query_params["pool"] in ("pooled", ["pooled"])
    assert "No expert's risk_diff differs" in words(at).replace("&#x27;", "'")


@pytest.mark.parametrize("b", ["an_nothing", "rt_nothing", "x"])
def test_a_side_that_does_not_exist_is_said_with_a_way_back(backdrop: Backdrop, pair: Ids, open_page: Open, b: str):
    said = words(open_page(backdrop.url, "/compare", a=pair["a"], b=b))
    assert b in said


def test_a_training_and_its_analysis_lead_to_the_comparison(backdrop: Backdrop, pair: Ids, open_page: Open):
    for path, id_ in (("/training", pair["training"]), ("/analysis", pair["b"])):
        at = open_page(backdrop.url, path, id=id_)
        links = [link.proto for link in at.get("page_link")]
        wanted = next(link for link in links if "Compare with the analysis" in link.label)
        assert f"a={pair['a']}" in wanted.query_string
        assert f"b={pair['b']}" in wanted.query_string


def test_a_finished_training_offers_to_measure_its_model_on_the_same_plan(
    backdrop: Backdrop, ids: Ids, pair: Ids, open_page: Open
):
    origin = backdrop.call("GET", f"/trainings/{pair['training']}")["analysis_id"]
    training = backdrop.train(origin, mode="full", name="Whole")
    with backdrop.writing() as session:
        known = session.get_one(t.Model, MODEL)
        row = {column.name: getattr(known, column.name) for column in t.Model.__table__.columns}
        writes.record_model(session, row | {"id": f"training:{training}"})
        session.get_one(t.Training, training).result = {"model_id": f"training:{training}"}
    at = open_page(backdrop.url, "/training", id=training)
    next(button for button in at.button if "Measure the trained model" in button.label).click().run()
    newest = backdrop.call("GET", "/analyses")["items"][0]
    assert newest["model"] == f"training:{training}"
    assert newest["params"]["plan_of"] == origin
    assert newest["plan"]["digest"] == backdrop.call("GET", f"/analyses/{origin}")["plan"]["digest"]


def test_kept_comparisons_are_found_by_their_tag_and_a_deleted_one_is_restored(
    backdrop: Backdrop, pair: Ids, open_page: Open
):
    body = {"analysis_a": pair["a"], "analysis_b": pair["b"], "pool": "pooled"}
    made = backdrop.call("POST", "/comparisons", json=body)["id"]
    backdrop.call("PATCH", f"/comparisons/{made}", json={"name": "Pooled", "tags": ["pilot"]})
    [row] = tables(open_page(backdrop.url, "/compare", tag="pilot"))["Kept comparisons"]["rows"]
    assert (row["id"], row["cells"]["name"]["t"]) == (made, "Pooled · pilot")
    assert "No comparison matches" in words(open_page(backdrop.url, "/compare", q="nothing like it"))
    backdrop.call("DELETE", f"/comparisons/{made}")
    [row] = tables(open_page(backdrop.url, "/compare", status="deleted"))["Kept comparisons"]["rows"]
    assert row["href"] == f"/compare?id={made}"
    at = open_page(backdrop.url, "/compare", id=made)
    assert "hidden from every list" in words(at)
    next(b for b in at.button if b.label == "Restore").click().run()
    assert backdrop.call("GET", f"/comparisons/{made}")["deleted_at"] is None
    assert len(heatmaps(at)) == 3, "the comparison itself"
    backdrop.call("DELETE", f"/comparisons/{made}")  # the backdrop is shared
