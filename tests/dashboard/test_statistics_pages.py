"""What the statistics say on the pages of an analysis, in a fresh session, against the real API and the real stage."""

import base64
import json

import numpy as np
import pytest

from backend.store import tables as t
from backend.store import writes
from tests.dashboard.backdrop import MODEL, Backdrop
from tests.dashboard.conftest import Open
from tests.dashboard.reading import components, heatmaps, plots, tables, words

Ids = dict[str, str]


def _floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def test_the_heatmap_holds_what_the_statistics_say_of_every_cell(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    heat = heatmaps(open_page(backdrop.url, "/analysis", id=ids["analysis"]))[0]
    table = backdrop.call("GET", f"/statistics/{ids['statistics']}/table")
    sent = {"low": "ci_low", "high": "ci_high", "p": "p_max_t", "q": "q", "frequency": "frequency"}
    for name, figure in sent.items():
        np.testing.assert_allclose(_floats(heat[name]), np.ravel(table[figure]), rtol=1e-6)
    assert heat["interval"] == "95 % interval"


def test_marked_cells_are_those_the_statistics_count_and_the_legend_says_so(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    summary = backdrop.call("GET", f"/statistics/{ids['statistics']}")["summary"]
    assert 0 < summary["n_significant"] < summary["n_tested"], "the made-up lean is there to be found"
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"])
    assert len(heatmaps(at)[0]["marks"]) == summary["n_significant"]
    assert f"family-wise p ≤ 0.05: {summary['n_significant']} of {summary['n_tested']} experts" in words(at)
    by_q = open_page(backdrop.url, "/analysis", id=ids["analysis"], marks="q")
    assert len(heatmaps(by_q)[0]["marks"]) == summary["n_q05"]
    none = open_page(backdrop.url, "/analysis", id=ids["analysis"], marks="none")
    assert heatmaps(none)[0]["marks"] == []
    assert "family-wise p ≤" not in words(none)


def test_the_scale_does_not_depend_on_marks_or_statistics(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    scales = {
        heatmaps(open_page(backdrop.url, "/analysis", id=ids["analysis"], marks=kind))[0]["vmax"]
        for kind in ("family", "q", "none")
    }
    assert len(scales) == 1


def test_the_panel_of_an_expert_says_interval_p_q_and_what_the_other_half_says(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], layer=2, expert=5)
    found = backdrop.call("GET", f"/analyses/{ids['analysis']}/experts/2/5")
    steady = backdrop.call("GET", f"/statistics/{ids['statistics']}")["summary"]["stability"]
    said = words(at)
    low, high = (f"{found[name]:+.4f}".replace("-", "−") for name in ("ci_low", "ci_high"))
    assert f"{low} to {high}" in said
    assert "max-T over 24 experts" in said
    assert f"{steady['risk_diff_in_other']:.3f} in the other half" in said
    assert len(tables(at)["One expert in every batch"]["rows"]) == len(found["batches"])


def test_experts_are_filtered_ordered_and_selected_by_the_address(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    asked = {"view": "experts", "side": "unsafe", "significant": "yes", "sort": "p_max_t", "in_layer": "2"}
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], layer=2, expert=5, **asked)
    shown = tables(at)["Experts"]
    params = {"direction": "unsafe", "max_p_max_t": 0.05, "sort": "p_max_t", "layer": 2}
    rows = backdrop.call("GET", f"/statistics/{ids['statistics']}/experts", params=params)["items"]
    assert rows, "the made-up lean is there to be found"
    assert [r["id"] for r in shown["rows"]] == [f"{r['layer']}.{r['expert']}" for r in rows]
    assert shown["sel"] == "2.5"
    assert shown["sort"] == "p_max_t"
    assert shown["rows"][0]["cells"]["risk"]["e"] == [rows[0]["ci_low"], rows[0]["ci_high"]]
    curl = [dict(one["texts"])["Copy as curl"] for one in components(at, "routeprint_share") if one["texts"]]
    assert any("direction=unsafe" in line and "max_p_max_t=0.05" in line for line in curl), "curl says the same"


def test_a_filter_that_is_changed_goes_back_to_the_first_page(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    cursor = backdrop.call("GET", f"/statistics/{ids['statistics']}/experts", params={"limit": 20})["next_cursor"]
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="experts", after=cursor)
    assert len(tables(at)["Experts"]["rows"]) == 4, "24 experts, the first 20 skipped"
    next(s for s in at.selectbox if s.label == "Layer").set_value("3").run()
    assert "after" not in at.query_params
    assert len(tables(at)["Experts"]["rows"]) == 8


@pytest.mark.parametrize("after", ["nonsense", "W10", "x" * 5000, "<b>"])
def test_a_place_that_the_list_does_not_know_is_its_beginning(
    backdrop: Backdrop, ids: Ids, open_page: Open, after: str
) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="experts", after=after)
    assert len(tables(at)["Experts"]["rows"]) == 24


def test_experts_without_statistics_are_listed_all_the_same(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["running"], view="experts", side="safe", marks="family")
    shown = tables(at)["Experts"]
    assert shown["rows"]
    assert {c["key"] for c in shown["columns"]} == {"expert", "risk", "unsafe", "safe"}
    assert all(r["cells"]["risk"]["v"] < 0 for r in shown["rows"])
    assert heatmaps(at)[0]["marks"] == []


def test_the_room_of_statistics_shows_every_part_with_its_alternative_in_words(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="statistics")
    stored = backdrop.call("GET", f"/statistics/{ids['statistics']}")
    summary, said = stored["summary"], words(at)
    assert summary["design"]["reason"] in said
    assert "199 random permutations" in said
    assert "0.005" in said, "the smallest attainable p of 199 permutations"
    assert f"of {summary['n_tested']} experts" in said
    assert "Words alone separate most public sets" in said
    assert "16 prompts in 1 batch with values that are not finite" in said
    beside, drift = plots(at)
    assert beside["traces"][1]["x"] == [
        summary["baselines"][name]["auc"] for name in ("routing", "length", "tokens", "routing_and_tokens")
    ]
    distances = backdrop.call("GET", f"/statistics/{ids['statistics']}/drift")["items"]
    assert drift["traces"][0]["y"] == [d["distance"] for d in distances]
    assert drift["traces"][0]["y"][7] is None, "a batch that is not finite is a gap"
    assert len(tables(at)["AUC of routing and of the baselines"]["rows"]) == 4
    assert len(tables(at)["Distance of every batch from the mean"]["rows"]) == len(distances)


def test_statistics_are_started_from_their_room_and_followed(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    analysis = empty.analyse(empty.call("POST", "/datasets/demo")["id"])
    at = open_page(empty.url, "/analysis", id=analysis, view="statistics")
    assert "No statistics yet" in words(at)
    next(b for b in at.button if b.label == "Compute the statistics").click().run()
    made = empty.call("GET", f"/analyses/{analysis}/statistics")["items"][0]
    assert (made["status"], made["params"]["n_permutations"]) == ("queued", 10_000)
    assert at.query_params["statistics"] == made["id"]
    with empty.writing() as session:
        writes.start(session, t.Statistics, made["id"])
        writes.set_stage(session, t.Statistics, made["id"], stage="permutations", done=412, total=1000)
    at.run()
    assert "Permutations: 41 %" in words(at)
    next(b for b in at.button if b.label == "Cancel").click().run()
    assert empty.call("GET", f"/statistics/{made['id']}")["status"] == "cancelled"
    assert "This run was cancelled" in words(at)
    assert any(b.label == "Resume" for b in at.button)


def test_statistics_start_again_with_other_settings(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    analysis = empty.analyse(empty.call("POST", "/datasets/demo")["id"])
    first = empty.examine(analysis)
    at = open_page(empty.url, "/analysis", id=analysis, view="statistics")
    next(n for n in at.number_input if n.label == "Permutations").set_value(499)
    next(s for s in at.selectbox if s.label == "Strata").set_value("category")
    next(b for b in at.button if b.label == "Compute").click().run()
    newest, before = empty.call("GET", f"/analyses/{analysis}/statistics")["items"]
    assert before["id"] == first
    assert (newest["params"]["n_permutations"], newest["params"]["strata"]) == (499, "category")
    assert heatmaps(at)[0]["p"], "until they are finished the heatmap shows those before"


def test_what_is_not_testable_is_shown_as_such_and_marks_nothing(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    rows = [
        {"prompt": f"{label} prompt number {i}", "label": label, "category": f"only {label}"}
        for i in range(24)
        for label in ("safe", "unsafe")
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    form = {"name": "aliased", "label_meaning": "harmless_harmful"}
    files = {"file": ("aliased.jsonl", content)}
    analysis = empty.analyse(empty.call("POST", "/datasets", files=files, data=form)["id"])
    empty.examine(analysis, strata="category")
    reason = empty.call("GET", f"/analyses/{analysis}/statistics")["items"][0]["summary"]["design"]["reason"]
    at = open_page(empty.url, "/analysis", id=analysis, view="statistics", layer=1, expert=0)
    said = words(at)
    assert "Not testable" in said
    assert reason in said
    assert heatmaps(at)[0]["marks"] == []
    assert "family-wise p ≤" not in said
    experts = tables(open_page(empty.url, "/analysis", id=analysis, view="experts"))["Experts"]
    assert "p_max_t" not in {c["key"] for c in experts["columns"]}
    sets = open_page(empty.url, "/analysis", id=analysis, view="sets", rule="significant")
    assert "No expert can be called significant" in words(sets)


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"rule": "top_k", "k": 7}, {"method": "top_k", "k": 7}),
        ({"rule": "top_k_per_layer", "k": 2}, {"method": "top_k_per_layer", "k": 2}),
        ({"rule": "significant", "correction": "bh"}, {"method": "significant", "correction": "bh", "alpha": 0.05}),
        ({"rule": "cumulative", "share": 40}, {"method": "cumulative", "share": 0.4}),
        ({"rule": "manual", "hand": "1.3 2.5"}, {"method": "manual", "experts": [[1, 3], [2, 5]]}),
    ],
)
def test_a_rule_shows_at_once_exactly_what_the_dry_run_keeps(
    backdrop: Backdrop, ids: Ids, open_page: Open, asked: dict[str, object], rule: dict[str, object]
) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="sets", **asked)
    path = f"/analyses/{ids['analysis']}/expert-sets"
    found = backdrop.call("POST", path, json=rule, params={"dry_run": True})
    assert found["experts"]
    assert heatmaps(at)[-1]["frames"] == [[layer - 1, expert] for layer, expert in found["experts"]]
    kept = tables(at)["Experts kept in each layer"]["rows"]
    assert [r["cells"]["kept"]["t"] for r in kept] == [f"{p['n']} of 8" for p in found["per_layer"]]
    share = found["n_experts"] / found["n_total"]
    assert (f"This rule keeps {100 * share:.0f} % of all experts" in words(at)) == (share > 0.25)


def test_a_rule_that_needs_statistics_explains_itself_and_offers_them(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    analysis = empty.analyse(empty.call("POST", "/datasets/demo")["id"])
    at = open_page(empty.url, "/analysis", id=analysis, view="sets", rule="significant")
    assert "This rule needs the statistics" in words(at)
    next(b for b in at.button if b.label == "Compute the statistics").click().run()
    assert empty.call("GET", f"/analyses/{analysis}/statistics")["items"][0]["status"] == "queued"
    assert at.query_params["view"] == "statistics"


def test_lists_are_read_page_by_page_with_a_bounded_request(
    empty: Backdrop, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dashboard.client import Api

    empty.scan()
    dataset = empty.call("POST", "/datasets/demo")["id"]
    first = empty.analyse(dataset, batches=1, name="number 00000")
    with empty.writing() as session:  # 10,000 runs, as the store holds them
        stored = session.get_one(t.Analysis, first)
        columns = {c.key: getattr(stored, c.key) for c in t.Analysis.__table__.columns if c.key not in ("id", "name")}
        session.execute(
            t.Analysis.__table__.insert(),
            [
                columns | {"id": f"an_{i:012d}", "name": f"number {i:05d}", "tags": ["even"] if i % 2 == 0 else []}
                for i in range(1, 10_000)
            ],
        )
    asked, get = [], Api.get

    def counted(self: Api, path: str, **params: object) -> object:
        answer = get(self, path, **params)
        if path == "/analyses":
            asked.append((params["limit"], len(answer["items"])))
        return answer

    monkeypatch.setattr(Api, "get", counted)
    at = open_page(empty.url, "/analysis", sort="name")
    names = [r["cells"]["name"]["t"] for r in tables(at)["Analyses"]["rows"]]
    assert names[:2] == ["number 00000", "number 00001"]
    assert names[2] == "number 00002 · even", "tags are shown"
    next(b for b in at.button if b.label == "Next").click().run()
    names = [r["cells"]["name"]["t"] for r in tables(at)["Analyses"]["rows"]]
    assert names[0] == "number 00050 · even"
    next(b for b in at.button if b.label == "Previous").click().run()
    assert "after" not in at.query_params
    next(i for i in at.text_input if i.label == "Search").set_value("number 0999").run()
    assert len(tables(at)["Analyses"]["rows"]) == 10
    assert all(given <= limit <= 100 for limit, given in asked), asked
    assert MODEL in tables(at)["Analyses"]["rows"][0]["cells"]["model"]["t"]


def test_an_interval_that_says_nothing_does_not_flatten_the_bars() -> None:
    from dashboard.parts.experts_room import reach

    known = {"risk_diff": 0.25, "ci_low": 0.23, "ci_high": 0.27}
    assert reach([known, {"risk_diff": -0.0003, "ci_low": -1.0, "ci_high": 1.0}]) == 0.27
    assert reach([known | {"ci_low": None, "ci_high": None}]) == 0.25
    assert reach([]) == 1.0
