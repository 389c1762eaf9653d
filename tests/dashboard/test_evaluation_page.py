"""Evaluations on screen: the list, the form, one set among its random ones, judged answers."""

import re

import pytest

from backend.store import tables as t
from dashboard import effect_chart, ui
from tests.dashboard.backdrop import MODEL, Backdrop
from tests.dashboard.conftest import Open
from tests.dashboard.reading import plots, tables, words

Ids = dict[str, str]


def test_the_list_says_whether_the_prompts_were_new(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    [row] = tables(open_page(backdrop.url, "/evaluation"))["Evaluations"]["rows"]
    assert row["cells"]["sample"]["t"] == "100, in-sample"
    assert row["cells"]["arms"]["t"] == "14 / 14"
    assert row["href"] == f"/evaluation?id={ids['evaluation']}"


def test_the_real_set_is_shown_among_its_random_ones(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/evaluation", id=ids["evaluation"])
    found = backdrop.call("GET", f"/evaluations/{ids['evaluation']}")
    said = words(at)
    assert "In-sample: 100 of 100 prompts" in said
    assert "Of 6 random sets of its size per layer, none moved it as far: p = 0.143, the smallest that 6 sets" in said
    assert "smallest p possible" in said
    assert "an answer that is not a refusal need not be harmful" in said.lower()
    assert "need not be where refusal is decided" in said
    drawn = plots(at)
    assert len(drawn) == len(found["measures"]) == 3
    unsafe = found["measures"][0]
    real = next(t for t in drawn[0]["traces"] if t["refs"] == [1])
    assert real["x"] == [pytest.approx(100 * unsafe["difference"]["value"])]
    others = [t for t in drawn[0]["traces"] if t["refs"] and t["refs"] != [1]]
    assert [t["refs"] for t in others] == [control["arms"] for control in unsafe["controls"]]
    assert [name for _, name in drawn[0]["y_ticks"]] == ["this set", "random sets", "same load"]


def test_texts_are_hidden_until_asked_for(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/evaluation", id=ids["evaluation"])
    [first] = backdrop.call("GET", f"/evaluations/{ids['evaluation']}/answers", params={"arm": 1, "limit": 1})["items"]
    assert first["prompt"] not in words(at)
    assert first["text"] not in [code.value for code in at.code]
    next(t for t in at.toggle if t.label == "Show prompt text").set_value(True).run()
    assert first["prompt"] in [text.value for text in at.text]
    assert first["text"] in [code.value for code in at.code]


def test_a_verdict_is_overruled_with_a_reason(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    dataset = empty.call("POST", "/datasets/demo")["id"]
    analysis = empty.analyse(dataset)
    chosen = empty.call("POST", f"/analyses/{analysis}/expert-sets", json={"method": "top_k", "k": 4})["id"]
    evaluation = empty.evaluate(dataset, chosen, n_random=2, max_prompts=12)
    at = open_page(empty.url, "/evaluation", id=evaluation)
    before = empty.call("GET", f"/evaluations/{evaluation}")["measures"][0]
    [one, *_] = empty.call("GET", f"/evaluations/{evaluation}/answers", params={"arm": 1, "limit": 1})["items"]
    because = next(t for t in at.text_input if t.label == "Because")
    who = next(t for t in at.text_input if t.label == "Who says so")
    because.set_value("It asks back.")
    who.set_value("R. Reader")
    next(b for b in at.button if b.label == "Overrule").click().run()
    [record] = empty.call("GET", f"/evaluations/{evaluation}/overrules")["items"]
    assert (record["n"], record["reason"], record["by"]) == (one["n"], "It asks back.", "R. Reader")
    assert "R. Reader: answer" in words(at)
    after = empty.call("GET", f"/evaluations/{evaluation}")["measures"]
    assert any(m["before_overruling"] for m in after)
    assert before["before_overruling"] is None


def test_the_form_says_what_it_would_do_and_starts_it(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    dataset = empty.call("POST", "/datasets/demo")["id"]
    analysis = empty.analyse(dataset)
    chosen = empty.call("POST", f"/analyses/{analysis}/expert-sets", json={"method": "top_k", "k": 4})["id"]
    at = open_page(empty.url, "/evaluation", set=chosen)
    asked = {"model": MODEL, "dataset_id": dataset, "expert_set_id": chosen}
    plan = empty.call("POST", "/evaluations", json=asked, params={"dry_run": True})
    assert f"{plan['n_arms']} arms × 100 prompts (50 safe, 50 unsafe). The smallest p that this can" in words(at)
    assert "In-sample" in words(at)
    next(t for t in at.toggle if t.label.startswith("Only prompts")).set_value(True).run()
    assert "None of the 520 prompts is new" in words(at)
    assert next(b for b in at.button if "Start the evaluation" in b.label).disabled
    next(t for t in at.toggle if t.label.startswith("Only prompts")).set_value(False).run()
    next(b for b in at.button if "Start the evaluation" in b.label).click().run()
    [made] = empty.call("GET", "/evaluations")["items"]
    assert (made["status"], made["expert_set_id"]) == ("queued", chosen)


def test_a_trained_model_is_asked_beside_trainings_of_random_experts(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    dataset = empty.call("POST", "/datasets/demo")["id"]
    analysis = empty.analyse(dataset)
    made = {}
    for name, experts, more in (
        ("real", [[1, 0], [2, 1]], {}),
        ("random 1", [[1, 3], [2, 4]], {}),
        ("random 2", [[1, 5], [2, 6]], {}),
        ("faster", [[1, 6], [2, 7]], {"learning_rate": 0.5}),
    ):
        rule = {"name": f"set of {name}", "method": "manual", "experts": experts}
        chosen = empty.call("POST", f"/analyses/{analysis}/expert-sets", json=rule)["id"]
        made[name] = empty.train(analysis, expert_set_id=chosen, name=name, **more)
    with empty.writing() as session:
        scanned = session.get_one(t.Model, MODEL)
        own = {c.key: getattr(scanned, c.key) for c in t.Model.__table__.columns}
        for id_ in made.values():
            session.add(t.Model(**own | {"id": f"training:{id_}"}))
    at = open_page(empty.url, "/evaluation", model=f"training:{made['real']}")
    assert f"real  (training:{made['real']})" in next(s for s in at.selectbox if s.label == "Model").options
    field = next(m for m in at.multiselect if m.label == "Trainings of random experts, for comparison")
    assert field.options == ["random 2  (set of random 2)", "random 1  (set of random 1)"]
    assert "Not offered: 1 other training" in words(at)
    assert "“faster”, for one: its learning_rate is 0.5, that of the evaluated training is 0.0001." in words(at)
    assert "stands beside its base model only" in words(at)
    field.set_value([made["random 1"], made["random 2"]]).run()
    assert "4 arms × 100 prompts" in words(at)
    assert "drawn at random is not checked" in words(at)
    next(b for b in at.button if "Start the evaluation" in b.label).click().run()
    [one] = empty.call("GET", "/evaluations")["items"]
    arms = empty.call("GET", f"/evaluations/{one['id']}/arms")["items"]
    assert [arm["model"] for arm in arms[2:]] == [f"training:{made[name]}" for name in ("random 1", "random 2")]


def test_an_expert_set_leads_to_its_check(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="sets")
    next(b for b in at.button if "Does it matter" in b.label).click().run()
    assert at.query_params["set"] == [ids["set"]] or at.query_params["set"] == ids["set"]


MEASURE = {
    "key": "refusal_unsafe",
    "scale": "rate",
    "difference": {"value": -0.5, "low": -0.6, "high": -0.3, "how": "newcombe"},
    "controls": [{"family": "random", "arms": [2, 3, 4], "differences": [0.0, 0.0, 0.1], "n": 3, "p": 0.25}],
}


def test_dots_that_would_hide_each_other_stand_beside_one_another() -> None:
    dots = effect_chart.strip(MEASURE, "Refused").traces[-1]
    assert dots.x == [0.0, 0.0, 10.0]
    assert len(set(dots.y)) == 3 or dots.y[0] != dots.y[1]
    assert all(y is not None and 1.5 < y < 2.5 for y in dots.y)


@pytest.mark.parametrize(("n", "k", "said"), [(20, 0, "none"), (20, 3, "3"), (20, 20, "every one")])
def test_the_place_among_random_sets_is_said_with_its_smallest_p(n: int, k: int, said: str) -> None:
    control = {"family": "random", "n": n, "n_as_extreme": k, "p": (k + 1) / (n + 1), "smallest_p": 1 / (n + 1)}
    text = effect_chart.verdict(MEASURE, control)
    assert f"{said} moved it as far" in text
    assert "0.048" in text


def test_a_single_random_set_is_not_spoken_of_in_the_plural() -> None:
    control = {"family": "random", "n": 1, "n_as_extreme": 0, "p": 0.5, "smallest_p": 0.5}
    assert effect_chart.verdict(MEASURE, control) == (
        "Of 1 random set of its size per layer, none moved it as far: p = 0.500, the smallest that 1 set can show."
    )


def test_what_a_page_writes_around_a_sample_is_styled_outside_of_the_list_of_samples() -> None:
    """The list's own rules hold inside its component alone; an evaluation's answers are written by the page."""
    assert {".rp-sample {", ".rp-sample b {", ".rp-sample small {"} <= set(re.findall(r"^\.[^{]+\{", ui.STYLE, re.M))


def test_changes_are_said_in_points_and_quotients() -> None:
    assert effect_chart.moved(MEASURE, -0.86) == "−86 points"
    assert effect_chart.span_of_change(MEASURE) == "−60 to −30"
    ratio = MEASURE | {"scale": "ratio"}
    assert effect_chart.moved(ratio, 1.0667) == "× 1.07"
    assert effect_chart.value(ratio, {"value": 1381.7}) == "1382"
    assert effect_chart.span(MEASURE, {"value": None, "how": "no prompt to judge"}) == "no prompt to judge"
