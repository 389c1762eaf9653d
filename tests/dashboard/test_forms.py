"""Forms that are filled in from an earlier run, and what they say before anything starts."""

from tests.dashboard.backdrop import Backdrop
from tests.dashboard.conftest import Open
from tests.dashboard.reading import words

Ids = dict[str, str]


def _press(at, label: str):
    return next(b for b in at.button if b.label == label).click().run()


def test_an_analysis_is_started_again_with_changed_settings(backdrop: Backdrop, ids: Ids, open_page: Open):
    origin = backdrop.analyse(ids["dataset"], batches=0, seed=41, batch_size=8, max_length=256, name="To repeat")
    at = open_page(backdrop.url, "/analysis", again=origin)
    values = {field.label: field.value for field in at.number_input}
    assert (values["Seed"], values["Batch size"], values["Longest prompt, tokens"]) == (41, 8, 256)
    assert "To repeat" in words(at)
    next(f for f in at.number_input if f.label == "Seed").set_value(42).run()
    _press(at, "Start the analysis")
    newest = backdrop.call("GET", "/analyses", params={"limit": 1})["items"][0]
    assert (newest["params"]["seed"], newest["params"]["batch_size"], newest["params"]["max_length"]) == (42, 8, 256)


def test_a_training_is_started_again_with_changed_settings(backdrop: Backdrop, ids: Ids, open_page: Open):
    body = {"analysis_id": ids["analysis"], "expert_set_id": ids["set"], "epochs": 2, "learning_rate": 0.000123}
    origin = backdrop.call("POST", "/trainings", json=body | {"lr_schedule": "linear", "weight_decay": 0.1})
    at = open_page(backdrop.url, "/training", again=origin["id"])
    next(f for f in at.number_input if f.label == "Epochs").set_value(4).run()
    _press(at, "Start the training")
    newest = backdrop.call("GET", "/trainings", params={"limit": 1})["items"][0]
    assert newest["id"] != origin["id"]
    assert newest["params"] == origin["params"] | {"epochs": 4}


def test_a_failed_run_offers_both_ways_on(backdrop: Backdrop, ids: Ids, open_page: Open):
    at = open_page(backdrop.url, "/training", id=ids["broken"])
    assert any(b.label == "Resume" for b in at.button)
    links = [link.proto for link in at.get("page_link") if "Start again" in link.proto.label]
    assert any(f"again={ids['broken']}" in link.query_string for link in links)


def test_the_forms_say_what_a_run_takes_before_it_starts(backdrop: Backdrop, ids: Ids, open_page: Open):
    said = words(open_page(backdrop.url, "/analysis"))
    assert "time, estimated" in said
    assert "memory, estimated" in said
    assert "of this model" in said
    said = words(open_page(backdrop.url, "/training", analysis=ids["analysis"]))
    assert "time, estimated" in said
    assert "of this model" in said


def test_a_run_that_cannot_be_found_leaves_the_form_at_its_defaults(backdrop: Backdrop, ids: Ids, open_page: Open):
    at = open_page(backdrop.url, "/analysis", again="an_nothing")
    assert "an_nothing" in words(at)
    assert {f.label: f.value for f in at.number_input}["Batch size"] == 16
