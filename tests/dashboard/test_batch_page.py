"""The batch view: its maps and their scale, its samples with losses, hidden texts and search, one sample's routing."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.parts import prompt_text
from tests.dashboard.backdrop import Backdrop
from tests.dashboard.conftest import Open
from tests.dashboard.reading import components, heatmaps, tables, words

Ids = dict[str, str]


def _matrix(heat: dict[str, Any], name: str = "z") -> np.ndarray:
    values = np.frombuffer(base64.b64decode(heat[name]), dtype="<f4")
    return values.reshape(heat["rows"], heat["cols"])


def _samples(at: AppTest) -> list[dict[str, Any]]:
    return list(components(at, "routeprint_samples")[0]["rows"])


def test_the_third_map_is_the_first_less_the_second(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    own, whole, difference = heatmaps(open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=3))
    assert np.allclose(_matrix(difference), _matrix(own) - _matrix(whole), atol=1e-6)
    assert own["floor"], "the noise floor of every cell is under the pointer"
    assert own["low"], "and so is the interval over all batches"
    assert own["interval"].startswith("all batches, 95 %")


@pytest.mark.parametrize(("beside", "n"), [("aggregate", 2), ("difference", 2)])
def test_one_map_beside_the_batch_can_be_chosen(
    backdrop: Backdrop, ids: Ids, open_page: Open, beside: str, n: int
) -> None:
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=3, beside=beside)
    assert len(heatmaps(at)) == n


def test_every_batch_has_the_same_scale_and_a_shorter_one_says_what_it_cuts(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    ends = {heatmaps(open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=b))[0]["vmax"] for b in (1, 4)}
    assert len(ends) == 1
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=1, range="quarter")
    own, whole, _ = heatmaps(at)
    assert own["vmax"] == ends.pop() / 4
    n = sum(int((np.abs(_matrix(one)) > own["vmax"]).sum()) for one in (own, whole))
    assert f"{n} cells lie beyond" in words(at)


def test_the_analysis_and_its_batches_can_be_shown_on_one_scale(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    alone = heatmaps(open_page(backdrop.url, "/analysis", id=ids["analysis"]))[0]["vmax"]
    with_batches = heatmaps(open_page(backdrop.url, "/analysis", id=ids["analysis"], range="batches"))[0]["vmax"]
    batch = heatmaps(open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=2))[0]["vmax"]
    assert with_batches == batch != alone


def test_a_difference_on_a_scale_of_its_own_says_so(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=3, own_scale="yes", range="quarter")
    own, _, difference = heatmaps(at)
    assert difference["vmax"] != own["vmax"]
    assert difference["vmax"] >= np.abs(_matrix(difference)).max()
    assert "on a scale of its own: ±" in words(at)


def test_every_sample_has_its_loss_in_the_step_that_is_chosen(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    used = backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/3/trainings")["items"]
    chosen = used[1]
    at = open_page(
        backdrop.url, "/batch", analysis=ids["analysis"], batch=3, losses=f"{chosen['training_id']}.{chosen['step']}"
    )
    step = backdrop.call("GET", f"/trainings/{chosen['training_id']}/steps/{chosen['step']}")
    said = [dict(row["figures"])["loss"] for row in _samples(at)]
    assert said == [f"{s['loss']:.3f}" for s in step["samples"]]
    assert f"before step {chosen['step']} of" in words(at)


def test_a_search_finds_hidden_texts_without_showing_them(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    texts = [s["text"] for s in backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/5")["samples"]]
    word = max(texts[9].split(), key=len).strip("?.,").upper()
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=5)
    next(field for field in at.text_input if field.label == "Search in these samples").set_value(word).run()
    found = [row["i"] for row in _samples(at)]
    assert found == [i for i, text in enumerate(texts) if word.casefold() in text.casefold()]
    assert 9 in found
    assert all(row["text"] is None for row in _samples(at))
    assert word not in json.dumps(at.query_params.to_dict() if hasattr(at.query_params, "to_dict") else {})
    assert f"{len(found)} of 16 hold what is looked for" in words(at)


def test_one_text_is_shown_when_it_is_asked_for_and_no_other(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    batch = backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/5")
    sample = batch["samples"][9]
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=5, sample=9)
    assert "Messages and answers are hidden" in words(at)
    next(b for b in at.button if b.label == "Show messages and answers").click().run()
    assert [row["i"] for row in _samples(at) if row["text"] is not None] == [9]
    assert _samples(at)[9]["text"] == sample["text"]
    assert sample["messages"][0]["content"] in [c.value for c in at.code]
    assert sample["row_id"] not in json.dumps(dict(at.query_params)), "no link can show a text"
    next(t for t in at.toggle if t.label == "Show prompt text").set_value(True).run()
    next(t for t in at.toggle if t.label == "Show prompt text").set_value(False).run()
    assert all(row["text"] is None for row in _samples(at)), "switching off hides everything again"


def test_a_samples_own_map_and_experts_are_its_stored_counts(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    path = f"/analyses/{ids['analysis']}/batches/5/samples/9/routing"
    found, whole = backdrop.call("GET", path), backdrop.call("GET", f"/analyses/{ids['analysis']}/risk-diff")
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=5, sample=9)
    share = heatmaps(at)[-1]
    assert np.allclose(_matrix(share), found["rates"])
    assert (share["vmin"], share["palette"], share["row"]) == (0.0, "amount", "Layer")
    assert np.array_equal(_matrix(share, "more"), found["counts"])
    rows = tables(at)["Experts that its tokens reached most beyond other unsafe prompts"]["rows"]
    beyond = np.array(found["rates"]) - np.array(whole["rate_unsafe"])
    first = divmod(int(np.argmax(beyond)), beyond.shape[1])
    assert rows[0]["id"] == f"{found['layers'][first[0]]}.{first[1]}"
    assert rows[0]["cells"]["count"]["v"] == found["counts"][first[0]][first[1]]
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=5, sample=9, routing="beyond")
    assert np.allclose(_matrix(heatmaps(at)[-1]), beyond, atol=1e-6)
    assert "One prompt: a description of it, no evidence" in words(at)


def test_a_sample_that_is_not_finite_says_so_instead_of_a_map(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=7, sample=3)
    assert not heatmaps(at)
    assert "not finite for this sample" in words(at)
    assert _samples(at)[3]["flags"] == [["non_finite", "not finite"]]


def test_a_samples_losses_lead_to_their_steps(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=3, sample=2)
    used = backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/3/trainings")["items"]
    rows = tables(at)["Losses of this sample"]["rows"]
    assert [row["cells"]["loss"]["v"] for row in rows] == [step["losses"][2] for step in used]
    assert rows[0]["href"] == f"/training?id={used[0]['training_id']}&step={used[0]['step']}"


def test_the_walk_knows_where_it_is_and_where_it_ends(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=3)
    n = backdrop.call("GET", f"/analyses/{ids['analysis']}")["plan"]["n_batches"]
    [walk] = components(at, "routeprint_player")
    assert walk == {"at": 3, "first": 0, "last": n - 1, "of": ids["analysis"], "noun": "batch"}
    training = backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/3/trainings")["items"][0]["training_id"]
    at = open_page(backdrop.url, "/training", id=training, step=2)
    [walk] = components(at, "routeprint_player")
    n = backdrop.call("GET", f"/trainings/{training}")["n_recorded"]
    assert walk == {"at": 2, "first": 1, "last": n, "of": training, "noun": "step"}


def test_a_search_needs_every_word_in_any_case() -> None:
    assert prompt_text.found("How do I bake Bread?", ["BREAD", "bake"])
    assert not prompt_text.found("How do I bake Bread?", ["bread", "cake"])
    assert prompt_text.found("anything", [])
