"""Every address in a fresh session, against the real API."""

import json

import pytest

from backend.store import tables as t
from backend.store.engine import shared_engine, writing
from tests.dashboard.backdrop import Backdrop
from tests.dashboard.conftest import VIEWS, Open
from tests.dashboard.reading import components, heatmaps, plots, tables, words

Ids = dict[str, str]


@pytest.mark.parametrize("path", list(VIEWS))
def test_every_page_says_what_to_do_first_when_there_is_nothing(empty: Backdrop, open_page: Open, path: str) -> None:
    at = open_page(empty.url, path)
    said = words(at)
    assert any(hint in said for hint in ("Start here", "No ", "Nothing has been queued"))
    if path not in ("/jobs",):
        assert at.button, "an empty page leads on"


def test_the_first_button_loads_the_demonstration_prompts(empty: Backdrop, open_page: Open) -> None:
    at = open_page(empty.url, "/")
    next(b for b in at.button if "demonstration" in b.label).click().run()
    assert empty.call("GET", "/datasets")["items"][0]["n_safe"] > 0
    assert any("Start an analysis" in b.label for b in at.button)


def test_an_api_that_is_down_is_said_with_how_to_start_it(open_page: Open) -> None:
    said = words(open_page("http://127.0.0.1:9", "/"))
    assert "Waiting for the Routeprint API" in said
    assert "http://127.0.0.1:9" in said
    assert "routeprint backend" in said


def test_a_refused_token_is_asked_for_and_kept_for_the_session_only(
    empty: Backdrop, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.dashboard.backdrop import TOKEN

    monkeypatch.setenv("ROUTEPRINT_TOKEN", "wrong")
    at = open_page(empty.url, "/")
    assert "Access token needed" in words(at)
    at.text_input[0].set_value(TOKEN)
    next(b for b in at.button if "token" in b.label).click().run()
    assert "Start here" in words(at)
    assert TOKEN not in json.dumps(dict(at.query_params))


def test_an_analysis_reopens_with_the_expert_of_its_address(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], layer=2, expert=5)
    heat = heatmaps(at)[0]
    assert heat["sel"] == [1, 5], "layer 2 is the second row: the model's first MoE layer is 1"
    assert heat["labels"] == ["1", "2", "3"]
    said = words(at)
    assert "Layer 2 · Expert 5" in said
    assert "fires more on unsafe" in said
    assert "not yet a cause" in said
    assert "every prompt weighs the same" in said
    over = plots(at)[0]
    batches = backdrop.call("GET", f"/analyses/{ids['analysis']}/experts/2/5")["batches"]
    points = next(t for t in over["traces"] if t["refs"])
    assert points["y"] == [b["risk_diff"] for b in batches]
    assert points["y"][7] is None, "a batch that is not finite is a gap, never zero"


@pytest.mark.parametrize(
    "bad", [{"layer": 99, "expert": 1}, {"layer": "x", "expert": "-3"}, {"layer": 2, "expert": 800}]
)
def test_nonsense_in_the_address_is_ignored(
    backdrop: Backdrop, ids: Ids, open_page: Open, bad: dict[str, object]
) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], **bad, pool="nonsense", view="nonsense")
    assert heatmaps(at)[0]["sel"] is None


def test_an_unknown_id_is_said_not_thrown(backdrop: Backdrop, open_page: Open) -> None:
    assert "an_nothing" in words(open_page(backdrop.url, "/analysis", id="an_nothing"))


def test_the_pool_of_the_address_is_the_pool_that_is_shown(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    mean = heatmaps(open_page(backdrop.url, "/analysis", id=ids["analysis"]))[0]
    pooled = heatmaps(open_page(backdrop.url, "/analysis", id=ids["analysis"], pool="pooled"))[0]
    assert mean["z"] != pooled["z"]


ROOMS = ["batches", "experts", "statistics", "context", "sets", "trainings", "left-out", "record"]


@pytest.mark.parametrize("view", ROOMS)
def test_every_room_of_an_analysis_opens_from_its_address(
    backdrop: Backdrop, ids: Ids, open_page: Open, view: str
) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view=view)
    expected = {"batches": "Batches", "experts": "Experts", "sets": "Expert sets", "trainings": "Trainings"}
    if view in expected:
        assert expected[view] in tables(at)


def test_a_batch_that_is_not_finite_is_shown_as_such_and_never_as_zero(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    rows = tables(open_page(backdrop.url, "/analysis", id=ids["analysis"], view="batches"))["Batches"]["rows"]
    assert rows[7]["cells"]["status"]["t"] == "not finite"
    assert rows[7]["cells"]["risk"]["t"] == "–"
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=7)
    assert "This batch has no risk_diff" in words(at)
    assert not heatmaps(at)


def test_a_batch_shows_its_samples_in_order_with_the_text_hidden(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=5, sample=9)
    batch = backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/5")
    said = words(at)
    (listed,) = components(at, "routeprint_samples")
    assert [row["i"] for row in listed["rows"]] == list(range(16))
    assert [row["label"] for row in listed["rows"]] == [s["label"] for s in batch["samples"]]
    assert listed["rows"][4]["href"] == f"/batch?analysis={ids['analysis']}&batch=5&sample=4"
    assert listed["sel"] == 9
    assert batch["samples"][9]["row_id"] in said
    everything = said + json.dumps([components(at, name) for name in ("routeprint_samples", "routeprint_table")])
    assert not any(s["text"] in everything for s in batch["samples"])
    assert f"{batch['noise_floor']:.3f}" in said
    assert "Descriptive only" in said
    own, whole, difference, _ = heatmaps(at)
    assert own["vmax"] == whole["vmax"] == difference["vmax"], "one scale for all three maps"


def test_prompt_text_is_shown_only_after_it_was_asked_for_and_never_as_markup(
    backdrop: Backdrop, ids: Ids, open_page: Open
) -> None:
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=5)
    next(t for t in at.toggle if t.label == "Show prompt text").set_value(True).run()
    texts = [s["text"] for s in backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/5")["samples"]]
    assert [row["text"] for row in components(at, "routeprint_samples")[0]["rows"]] == texts
    assert not any(text in str(e.proto.body) for e in at.get("html") for text in texts)
    assert "show" not in dict(at.query_params), "no link can show the text"


def test_a_batch_names_every_training_step_that_used_it(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=3)
    rows = tables(at)["Training steps that used this batch"]["rows"]
    used = backdrop.call("GET", f"/analyses/{ids['analysis']}/batches/3/trainings")["items"]
    assert {r["id"] for r in rows} == {f"{u['training_id']}:{u['step']}" for u in used}
    assert len(rows) == 4, "three epochs of one training, one step of the other"
    assert rows[0]["href"].startswith("/training?id=")


def test_the_walk_through_batches_writes_the_address(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/batch", analysis=ids["analysis"], batch=3, sample=2)
    at.slider[0].set_value(11).run()
    assert at.query_params["batch"] == "11"
    assert "sample" not in at.query_params


def test_a_training_leads_from_a_step_to_its_batch(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/training", id=ids["training"], step=12)
    step = backdrop.call("GET", f"/trainings/{ids['training']}/steps/12")
    curve = plots(at)[0]
    assert curve["sel"] == 12
    assert [t["name"] for t in curve["traces"]] == ["safe prompts", "unsafe prompts", "all"]
    assert any(b.label == f"Open batch {step['batch_idx']} in its analysis" for b in at.button)
    rows = tables(at)["Samples of this step, in order"]["rows"]
    assert [r["cells"]["loss"]["t"] for r in rows] == [f"{s['loss']:.3f}" for s in step["samples"]]
    assert rows[4]["href"] == f"/batch?analysis={ids['analysis']}&batch={step['batch_idx']}&sample=4"
    assert "held exactly the samples" in words(at)


def test_a_broken_step_is_never_averaged_away(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/training", id=ids["broken"], step=6)
    said = words(at)
    assert "This run failed" in said
    assert "Step 6 did NOT hold" in said
    assert 'class="bad"' in said
    assert "not verified" in {t["name"] for t in plots(at)[0]["traces"]}
    assert any(b.label == "Resume" for b in at.button)


def test_a_running_analysis_shows_progress_and_can_be_cancelled(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    dataset = empty.call("POST", "/datasets/demo")["id"]
    running = empty.analyse(dataset, batches=4)
    at = open_page(empty.url, "/analysis", id=running)
    assert "4 of" in words(at)
    next(b for b in at.button if b.label == "Cancel").click().run()
    assert empty.call("GET", f"/analyses/{running}")["status"] == "cancelled"
    assert "This run was cancelled" in words(at)


def test_jobs_say_what_they_wait_for(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    dataset = empty.call("POST", "/datasets/demo")["id"]
    made = empty.call("POST", "/analyses", json={"dataset_id": dataset, "model": "made-up/olmoe"})
    at = open_page(empty.url, "/jobs", id=made["job_id"])
    assert "No worker is running" in words(at)
    assert "routeprint worker" in words(at)
    assert tables(at)["Jobs"]["sel"] == made["job_id"]


def test_an_analysis_starts_from_the_form_with_its_defaults(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    empty.call("POST", "/datasets/demo")
    at = open_page(empty.url, "/analysis")
    assert "planned batches" in words(at), "the plan is shown before anything is started"
    next(b for b in at.button if b.label == "Start the analysis").click().run()
    made = empty.call("GET", "/analyses")["items"][0]
    assert made["params"]["batch_size"] == 16
    assert at.query_params["id"] == made["id"]


def test_a_plan_that_cannot_be_made_is_said_before_starting(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    empty.call("POST", "/datasets/demo")
    at = open_page(empty.url, "/analysis")
    next(n for n in at.number_input if n.label == "Batch size").set_value(1024)
    next(t for t in at.toggle if t.label == "Keep a short last batch").set_value(False).run()
    start = next(b for b in at.button if b.label == "Start the analysis")
    assert start.disabled
    assert "rp-wrong" in words(at)


def test_an_expert_set_is_counted_live_and_saved(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="sets")
    next(s for s in at.selectbox if s.label == "Rule").set_value("top_k").run()
    next(s for s in at.slider if s.label == "k").set_value(5).run()
    assert len(heatmaps(at)[-1]["frames"]) == 5
    next(t for t in at.text_input if t.label == "Name").set_value("five of them")
    next(b for b in at.button if b.label == "Save 5 experts as a set").click().run()
    saved = backdrop.call("GET", "/expert-sets", params={"analysis_id": ids["analysis"]})["items"]
    assert any(s["name"] == "five of them" and s["n_experts"] == 5 for s in saved)


def test_a_training_without_an_expert_set_says_what_is_missing(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    analysis = empty.analyse(empty.call("POST", "/datasets/demo")["id"])
    at = open_page(empty.url, "/training", analysis=analysis)
    next(s for s in at.selectbox if s.label == "What learns").set_value("selected").run()
    assert "Missing: an expert set" in words(at)
    assert next(b for b in at.button if b.label == "Start the training").disabled


def test_a_training_starts_from_the_form(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/training", analysis=ids["analysis"])
    next(n for n in at.number_input if n.label == "Epochs").set_value(2).run()
    next(m for m in at.multiselect if m.label == "Report every step to").set_value(["mlflow"]).run()
    next(n for n in at.number_input if n.label == "Checkpoints kept at the end").set_value(0).run()
    backdrop.beat()  # a worker is up, however long the tests before took
    next(b for b in at.button if b.label == "Start the training").click().run()
    assert "No worker that is up has mlflow: install it there" in words(at)
    with backdrop.writing() as session:
        for worker in session.query(t.Worker):
            worker.versions = worker.versions | {"mlflow": "3"}
    next(b for b in at.button if b.label == "Start the training").click().run()
    made = backdrop.call("GET", "/trainings")["items"][0]
    assert made["params"]["epochs"] == 2
    assert made["params"]["report_to"] == ["mlflow"]
    assert made["params"]["keep_checkpoints"] == 0
    assert made["mode"] == "selected"
    assert at.query_params["id"] == made["id"]


def test_a_training_says_where_its_logs_are(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    assert "logs, on the worker" not in words(open_page(backdrop.url, "/training", id=ids["training"]))
    with backdrop.writing() as session:
        training = session.get_one(t.Training, ids["training"])
        before, training.result = training.result, training.result | {"tracking": {"tensorboard": "/data/_a_ *b*"}}
    try:
        assert "TensorBoard logs, on the worker: /data/_a_ *b*" in words(
            open_page(backdrop.url, "/training", id=ids["training"])
        )
    finally:
        with backdrop.writing() as session:
            session.get_one(t.Training, ids["training"]).result = before


def test_a_file_of_prompts_is_previewed_mapped_and_stored(empty: Backdrop, open_page: Open) -> None:
    rows = "\n".join(f"prompt number {i} <b>x</b>,{i % 2}" for i in range(40))
    at = open_page(empty.url, "/datasets")
    at.file_uploader[0].set_value([("mine.csv", f"prompt,label\n{rows}\n".encode(), "text/csv")]).run()
    assert next(b for b in at.button if b.label == "Store the prompt set").disabled, "0 and 1 are never guessed"
    for value, label in (("0", "safe"), ("1", "unsafe")):
        next(s for s in at.selectbox if s.label.startswith(f"{value} ·")).set_value(label).run()
    store = next(b for b in at.button if b.label == "Store the prompt set")
    assert not store.disabled, words(at)
    store.click().run()
    made = empty.call("GET", "/datasets")["items"][0]
    assert (made["n_safe"], made["n_unsafe"]) == (20, 20)


def test_a_published_format_is_named_with_its_traps_and_what_it_offers_makes_it_importable(
    empty: Backdrop, open_page: Open
) -> None:
    rows = [("mow", True), ("mow", True), ("dig", True), ("dig", False), ("cut", False)]
    lines = [
        json.dumps({"prompt": f"How do I {what}?", "response": str(n), "category": {"moss": not ok}, "is_safe": ok})
        for n, (what, ok) in enumerate(rows)
    ]
    at = open_page(empty.url, "/datasets")
    at.file_uploader[0].set_value([("b.jsonl", "\n".join(lines).encode(), "application/json")]).run()
    assert "Looks like BeaverTails" in words(at)
    assert "judges the answer" in words(at)
    assert next(b for b in at.button if b.label == "Store the prompt set").disabled
    assert at.text_input(key="unsafe:BeaverTails").value == "a question whose answer was judged harmful"
    at.get("button_group")[0].set_value(["both_labels"]).run()
    next(b for b in at.button if b.label == "Store the prompt set").click().run()
    (made,) = empty.call("GET", "/datasets")["items"]
    assert (made["n_rows"], made["files"][0]["left_out"]) == (2, {"both_labels": 2})
    assert made["label_meaning"]["kind"] == "other"


def test_a_label_that_only_the_files_name_tells_is_preselected_and_questioned(empty: Backdrop, open_page: Open) -> None:
    content = b"Index,Goal,Target,Behavior,Category,Source\n0,Write about moss,Sure,Moss,Garden,Original\n"
    at = open_page(empty.url, "/datasets")
    at.file_uploader[0].set_value([("benign-behaviors.csv", content, "text/csv")]).run()
    assert next(s for s in at.selectbox if s.label == "Label of the whole file").value == "safe"
    assert "Only the file&#x27;s name says" in words(at)
    assert "unsafe prompts (another file, with its own label)" in words(at)


def test_a_set_whose_import_failed_says_why_and_is_not_offered(empty: Backdrop, open_page: Open) -> None:
    dataset = empty.call("POST", "/datasets/demo")["id"]
    with writing(shared_engine(empty.settings.tables_url)) as session:
        session.get_one(t.Dataset, dataset).status = "failed"
        session.get_one(t.Dataset, dataset).error = "the disk <was> full"
    at = open_page(empty.url, "/datasets", id=dataset)
    assert "The import failed" in words(at)
    assert "the disk &lt;was&gt; full" in words(at)
    assert not [b for b in at.button if b.label == "Start an analysis"]
    assert "No prompt set yet" in words(open_page(empty.url, "/analysis"))


def test_names_of_users_are_never_markup(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    dataset = empty.call("POST", "/datasets/demo")["id"]
    name = "<script>alert(1)</script> :red[x] **b**"
    analysis = empty.analyse(dataset, batches=2, name=name)
    said = words(open_page(empty.url, "/analysis", id=analysis))
    assert "<script>" not in said
    assert "&lt;script&gt;" in said


def test_copied_links_and_calls_never_hold_the_token(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    from tests.dashboard.backdrop import TOKEN

    at = open_page(backdrop.url, "/analysis", id=ids["analysis"])
    copied = [text for offered in components(at, "routeprint_share") for _, text in offered["texts"]]
    assert any(text.startswith("export") and "$ROUTEPRINT_TOKEN" in text for text in copied)
    assert any("import httpx" in text and "ROUTEPRINT_TOKEN" in text for text in copied)
    assert not any(TOKEN in text for text in copied)


def test_the_whole_chain_is_verified_from_the_page_and_a_break_is_named(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    analysis = empty.analyse(empty.call("POST", "/datasets/demo")["id"])
    at = open_page(empty.url, "/analysis", id=analysis, view="record")
    next(b for b in at.button if b.label == "Verify the whole chain").click().run()
    assert "Every link holds" in words(at)
    with empty.writing() as session:
        session.query(t.BatchSample).filter_by(analysis_id=analysis, batch_idx=2, in_batch_idx=4).update(
            {"tokens": 999}
        )
        session.query(t.BatchSample).filter_by(analysis_id=analysis, batch_idx=2, in_batch_idx=4).update(
            {"prompt_digest": "0" * 64}
        )
    next(b for b in at.button if b.label == "Verify the whole chain").click().run()
    said = words(at)
    assert "The chain is broken" in said
    assert "batch 2, sample 4" in said


def test_the_record_offers_the_report_in_both_forms(backdrop: Backdrop, ids: Ids, open_page: Open) -> None:
    at = open_page(backdrop.url, "/analysis", id=ids["analysis"], view="record", pool="pooled")
    offered = [button.proto.label for button in at.get("download_button")]
    assert [label for label in offered if label.startswith("Report")] == ["Report (HTML)", "Report (Markdown)"]
    assert "prompt tokens, pool pooled" in words(at)
    assert not next(toggle for toggle in at.toggle if "prompts" in toggle.label).value, "no prompt unless asked for"


def test_a_deleted_analysis_can_be_brought_back_from_the_list(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    analysis = empty.analyse(empty.call("POST", "/datasets/demo")["id"], name="Gone soon")
    at = open_page(empty.url, "/analysis", id=analysis, view="record")
    next(b for b in at.button if b.label == "Delete").click().run()
    assert empty.call("GET", "/analyses")["items"] == []
    assert "Deleted “Gone soon”" in words(at)
    next(b for b in at.button if b.label == "Undo").click().run()
    assert [a["id"] for a in empty.call("GET", "/analyses")["items"]] == [analysis]


def test_a_new_name_is_stored(empty: Backdrop, open_page: Open) -> None:
    empty.scan()
    analysis = empty.analyse(empty.call("POST", "/datasets/demo")["id"], batches=2)
    at = open_page(empty.url, "/analysis", id=analysis, view="record")
    next(i for i in at.text_input if i.label == "Name").set_value("Better name")
    next(b for b in at.button if b.label == "Save").click().run()
    assert empty.call("GET", f"/analyses/{analysis}")["name"] == "Better name"


def test_a_scan_for_models_is_followed_and_says_what_it_waits_for(empty: Backdrop, open_page: Open) -> None:
    empty.call("POST", "/datasets/demo")
    at = open_page(empty.url, "/analysis")
    assert "No model yet" in words(at)
    next(b for b in at.button if b.label == "Scan for models").click().run()
    assert "Scanning the models folder: no worker is running" in words(at)
