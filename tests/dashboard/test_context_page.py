"""The room "Experts in context", against the real API."""

import numpy as np
import pytest

from backend.store import tables as t
from dashboard import context_charts
from dashboard.data import matrix
from tests.dashboard.backdrop import Backdrop
from tests.dashboard.conftest import Open
from tests.dashboard.reading import heatmaps, tables, words

Ids = dict[str, str]
TOKENS, PAIRS = "Tokens that drive this expert", "Pairs of experts"
EXPERTS = "Experts and the token that does most for each"


def button(at: object, label: str) -> object:
    return next(b for b in at.button if label in b.label)  # type: ignore[attr-defined]


def test_an_analysis_without_a_context_run_leads_to_one(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    analysis = backdrop.analyse(ids["dataset"], seed=11, name="Never read in context")
    at = open_page(backdrop.url, "/analysis", id=analysis, view="context")
    assert "Is it a safety expert, or does it read question marks?" in words(at)
    assert len(heatmaps(at)) == 2  # risk_diff and load
    button(at, "token by token").click().run()
    [made] = backdrop.call("GET", f"/analyses/{analysis}/context")["items"]
    assert (made["status"], made["scope"], made["n_experts"]) == ("queued", "prompt", 24)
    assert button(at, "Cancel")


def test_an_analysis_that_is_not_finished_shows_its_load_and_says_what_it_waits_for(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["running"], view="context")
    assert "It can start when the analysis has finished." in words(at)
    assert len(heatmaps(at)) == 2


def test_load_is_drawn_as_doublings_of_an_even_share(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="context", label="unsafe")
    load = backdrop.call("GET", f"/analyses/{ids['analysis']}/load", params={"label": "unsafe"})
    drawn = heatmaps(at)[1]
    expected = context_charts.load_heat(load | {"relative": matrix(load["relative"])}, "First look").spec()
    assert drawn["z"] == expected["z"]
    assert drawn["palette"] == "share", "red and blue mean unsafe and safe"
    rows = tables(at)["Load of every layer"]["rows"]
    assert [r["cells"]["even"]["v"] for r in rows] == load["entropy"]
    assert f"{load['tokens']:,}" in words(at)


def test_the_tokens_of_the_chosen_expert_are_plain_text_and_the_rest_is_said(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="context", layer=2, expert=5)
    found = backdrop.call("GET", f"/context/{ids['context']}/experts/2/5")
    rows = tables(at)[TOKENS]["rows"]
    shown = [(int(r["id"]), r["cells"]["part"]["v"], r["cells"]["text"]["t"]) for r in rows]
    both = sorted(found["raising"] + found["lowering"], key=lambda x: -abs(x["contribution"]))
    assert shown == [(x["token_id"], x["contribution"], f"<b>:red[{x['token_id']}]</b>") for x in both]
    assert "<b>:red[" not in words(at), "tokens are cells of a table, never markup"
    assert "everything adds up to the risk_diff exactly" in words(at)
    assert "every count is the stored one" in words(at)
    ids_shown = [r["id"] for r in tables(at)[EXPERTS]["rows"]]
    assert ids_shown[0] == "{layer}.{expert}".format(
        **backdrop.call("GET", f"/context/{ids['context']}/experts")["items"][0]
    )
    assert tables(at)[EXPERTS]["sel"] == "2.5"


def test_pairs_are_drawn_for_the_layer_of_the_address(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="context", pairs=3, order="count", label="safe")
    params = {"layer": 3, "label": "safe", "order": "count"}
    found = backdrop.call("GET", f"/context/{ids['context']}/coactivation", params=params)
    drawn = heatmaps(at)[-1]
    assert (drawn["rows"], drawn["cols"], drawn["row"]) == (8, 8, "Expert")
    lift = matrix(found["lift"])
    assert lift is not None
    assert drawn["z"] == context_charts.pairs_heat(lift, lift, "").spec()["z"]
    rows = tables(at)[PAIRS]["rows"]
    assert [r["id"] for r in rows] == [f"{p['a']}.{p['b']}" for p in found["top_pairs"]]


def test_an_expert_that_a_run_did_not_look_at_can_be_added(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    analysis = backdrop.analyse(ids["dataset"], seed=12, name="One expert")
    backdrop.read_in_context(analysis, experts=[[1, 0]])
    at = open_page(backdrop.url, "/analysis", id=analysis, view="context", layer=3, expert=7)
    assert "This run did not look at this expert." in words(at)
    button(at, "with this expert").click().run()
    newest = backdrop.call("GET", f"/analyses/{analysis}/context")["items"][0]
    assert newest["params"]["experts"] == [[3, 7], [1, 0]]


def test_a_run_under_way_shows_what_it_has_and_a_failed_one_what_was_wrong(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    analysis = backdrop.analyse(ids["dataset"], seed=13, name="Under way")
    run = backdrop.read_in_context(analysis, windows=4)
    at = open_page(backdrop.url, "/analysis", id=analysis, view="context", layer=1, expert=1)
    assert TOKENS in tables(at)
    assert button(at, "Cancel")
    with backdrop.writing() as session:
        context = session.get_one(t.Context, run)
        context.status, context.error = "failed", "Batch 5: 2 of 9 counts <b>differ</b>"
    at = open_page(backdrop.url, "/analysis", id=analysis, view="context")
    assert "2 of 9 counts &lt;b&gt;differ&lt;/b&gt;" in words(at)
    assert button(at, "Resume")


def test_counts_that_differ_in_a_short_number_format_are_said(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    analysis = backdrop.analyse(ids["dataset"], seed=14, name="bfloat16")
    run = backdrop.read_in_context(analysis)
    with backdrop.writing() as session:
        context = session.get_one(t.Context, run)
        recounted = context.result["recounted"] | {"differing": 3, "differing_counts": 8, "counts": 16_000}
        context.result = context.result | {"recounted": recounted, "dtype": "bfloat16"}
    said = words(open_page(backdrop.url, "/analysis", id=analysis, view="context"))
    assert "bfloat16: 8 counts (0.050 %) in 3 batches differ" in said


def test_the_job_of_a_context_run_leads_to_what_it_found(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    run = backdrop.call("GET", f"/context/{ids['context']}")
    at = open_page(backdrop.url, "/jobs", id=run["job_id"])
    [link] = [e.proto for e in at.get("page_link") if "in context" in e.proto.label]
    assert link.query_string == f"id={ids['analysis']}&view=context&run={ids['context']}"


@pytest.mark.parametrize(
    "bad", [{"pairs": "x"}, {"pairs": 99}, {"label": "nobody"}, {"order": "-1"}, {"run": "cx_none"}]
)
def test_nonsense_in_the_address_of_the_room_is_ignored(
    backdrop: Backdrop, ids: Ids, open_page: Open, bad: dict[str, object]
) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="context", **bad)
    assert PAIRS in tables(at)


def test_a_ratio_of_nothing_is_the_end_of_the_scale_and_no_ratio_is_a_hole() -> None:
    ratio = np.array([[0, 1, 2, 1000, np.nan]], dtype=np.float32)
    assert context_charts.doublings(ratio)[0, :4].tolist() == [-3, 0, 1, 3]
    assert np.isnan(context_charts.doublings(ratio)[0, 4])
