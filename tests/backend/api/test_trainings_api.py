from dataclasses import replace
from types import SimpleNamespace

import pytest

from backend.domain.step_order import batch_order
from backend.domain.turns import pairs_in
from backend.domain.vocabulary import Site
from backend.store import plans
from backend.store import tables as t
from backend.store.engine import writing
from backend.store.fleet import heartbeat
from tests.backend import seeding
from tests.backend.api.calls import Api


@pytest.fixture
def ready(api: Api, engine) -> SimpleNamespace:
    """A finished analysis of 3 batches with an expert set."""
    seeding.add_model(engine)
    analysis = api.analysis(api.dataset(6)["id"], name="study")
    plan = seeding.measure(engine, analysis["id"])
    body = {"name": "top", "method": "top_k", "k": 2}
    chosen = api.post(f"/analyses/{analysis['id']}/expert-sets", 201, json=body)
    return SimpleNamespace(
        api=api, engine=engine, analysis=analysis["id"], plan=plan, experts=chosen["id"], dataset=analysis["dataset_id"]
    )


def submit(ready: SimpleNamespace, status: int = 202, **body: object) -> dict:
    fields = {"analysis_id": ready.analysis, "expert_set_id": ready.experts} | body
    return ready.api.post("/trainings", status, json=fields)


def test_a_training_waits_in_the_queue_with_every_default_filled_in(ready):
    created = submit(ready, epochs=2)
    assert created["status"] == "queued"
    assert (created["n_steps"], created["n_recorded"], created["n_verified"], created["final_loss"]) == (6, 0, 0, None)
    assert (created["analysis_name"], created["expert_set_name"], created["model"]) == ("study", "top", "tiny")
    assert created["name"] == "top on study"
    assert created["params"]["preserve_batches"] is True
    assert (created["params"]["n_processes"], created["params"]["micro_batch_size"]) == (None, None)  # the worker's
    assert created["params"]["targets"] == {"safe": "default", "unsafe": "default"}
    job = ready.api.get(f"/jobs/{created['job_id']}")
    assert (job["kind"], job["subject_id"], job["status"]) == ("training", created["id"], "queued")


def test_a_training_needs_a_finished_analysis(ready):
    waiting = ready.api.analysis(ready.dataset)
    refused = submit(ready, 409, analysis_id=waiting["id"], expert_set_id=None, mode="full")
    assert "queued" in refused["detail"]
    ready.api.call("DELETE", f"/analyses/{ready.analysis}", 204)
    assert "undelete" in submit(ready, 409)["detail"]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"expert_set_id": None}, "expert_set_id"),
        ({"expert_set_id": None, "mode": "all_but_selected"}, "expert_set_id"),
        ({"expert_set_id": None, "mode": "full", "routing": "masked"}, "expert_set_id"),
        ({"targets": {"safe": "given"}}, "safe"),
        ({"targets": {"safe": "nothing"}}, "safe"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"epochs": 0}, "epochs"),
        ({"n_processes": 0}, "n_processes"),
        ({"n_processes": 65}, "n_processes"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
        ({"shard_weights": True, "n_processes": 1}, "n_processes"),
        ({"max_grad_norm": 0}, "max_grad_norm"),
        ({"adapter": {"rank": 0}}, "rank"),
        ({"adapter": {"alpha": 0}}, "alpha"),
        ({"adapter": {"targets": "all"}}, "targets"),
        ({"adapter": {}, "mode": "all_but_selected"}, "adapter"),
        ({"adapter": {}, "expert_set_id": None, "mode": "full"}, "adapter"),
        ({"adapter": {}, "shard_weights": True}, "shard_weights"),
        ({"routers": {"term": "balance"}}, "term"),
        ({"routers": {"learning_rate": 0}}, "learning_rate"),
        ({"routers": {}, "adapter": {}}, "adapter"),
        ({"routers": {}, "shard_weights": True}, "shard_weights"),
        ({"routers": {}, "preserve_batches": False}, "preserve_batches"),
        ({"routers": {}, "expert_set_id": None, "mode": "full"}, "mode"),
        ({"preserve_batches": "yes"}, "preserve_batches"),
        ({"batch_size": 8}, "batch_size"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_place(ready, body: dict, place: str):
    refused = submit(ready, 422, **body)
    assert any(place in error["loc"] for error in refused["errors"])
    assert ready.api.get("/trainings")["items"] == []


def test_an_adapter_is_kept_with_the_parameters_unless_the_scan_said_that_the_model_takes_none(ready):
    assert submit(ready)["params"]["adapter"] is None
    assert submit(ready, adapter={})["params"]["adapter"] == {"rank": 8, "alpha": 16.0}
    seeding.add_model(ready.engine, architecture="Odd", refuses={"adapter": "its experts share a matrix."})
    assert ready.api.get("/models")["items"][0]["refuses"] == {"adapter": "its experts share a matrix."}
    refused = submit(ready, 422, adapter={"rank": 4})
    assert refused["detail"] == "Odd cannot be trained with an adapter: its experts share a matrix. Leave adapter null."
    submit(ready)


def test_routers_learn_in_turn_where_every_batch_holds_a_pair_and_the_model_shows_its_scores(ready):
    paired = ready.api.analysis(ready.dataset, strategy="paired")
    seeding.measure(ready.engine, paired["id"])
    assert submit(ready, analysis_id=paired["id"])["params"]["routers"] is None
    found = submit(ready, analysis_id=paired["id"], routers={})["params"]["routers"]
    assert found == {"term": "consistency", "learning_rate": None}
    alone = ready.api.analysis(ready.dataset, seed=5)
    plan = seeding.measure(ready.engine, alone["id"])
    places = [[(s.in_batch_idx, s.label, str(s.row_idx // 2)) for s in b.samples] for b in plan.batches]
    without = [n for n, samples in enumerate(places) if not pairs_in(samples)]  # rows of a pair are neighbours
    assert without
    said = submit(ready, 422, analysis_id=alone["id"], routers={})["detail"]
    assert f"{len(without)} of 3 batches" in said
    assert "strategy 'paired'" in said
    seeding.add_model(ready.engine, architecture="Odd", refuses={"routers": "they hide."})
    assert "Odd" in submit(ready, 422, analysis_id=paired["id"], routers={})["detail"]


def test_a_full_training_goes_without_an_expert_set(ready):
    created = submit(ready, expert_set_id=None, mode="full")
    assert created["expert_set_name"] is None
    assert created["name"] == "full on study"


def test_an_expert_set_of_another_model_is_refused(ready):
    seeding.add_model(ready.engine, "other", (Site(0, "a", 4, 2),))
    other = ready.api.analysis(ready.dataset, model="other")
    seeding.measure(ready.engine, other["id"])
    assert "made on tiny" in submit(ready, 422, analysis_id=other["id"])["detail"]


def test_a_global_set_may_come_from_another_analysis_of_the_same_experts(ready):
    other = ready.api.analysis(ready.dataset, seed=1)
    seeding.measure(ready.engine, other["id"])
    submit(ready, analysis_id=other["id"])
    body = {"method": "top_k", "k": 1, "kind": "per_batch"}
    chosen = ready.api.post(f"/analyses/{ready.analysis}/expert-sets", 201, json=body)
    assert "per_batch" in submit(ready, 422, analysis_id=other["id"], expert_set_id=chosen["id"])["detail"]


def test_a_per_batch_set_needs_its_batches(ready):
    body = {"method": "top_k", "k": 1, "kind": "per_batch"}
    chosen = ready.api.post(f"/analyses/{ready.analysis}/expert-sets", 201, json=body)
    refused = submit(ready, 422, expert_set_id=chosen["id"], preserve_batches=False)
    assert refused["errors"][0]["loc"] == ["body", "preserve_batches"]
    submit(ready, expert_set_id=chosen["id"])


def test_experts_without_weights_cannot_be_selected_for_training(api: Api, engine):
    seeding.add_model(engine, sites=(Site(0, "a", 4, 2), Site(1, "b", 4, 2, trainable=False)))
    analysis = api.analysis(api.dataset(4)["id"])
    seeding.measure(engine, analysis["id"])
    path = f"/analyses/{analysis['id']}/expert-sets"
    chosen = api.post(path, 201, json={"method": "manual", "experts": [[0, 0], [1, 0]]})
    refused = api.post("/trainings", 422, json={"analysis_id": analysis["id"], "expert_set_id": chosen["id"]})
    assert "layer 1" in refused["detail"]


def test_other_meanings_of_the_labels_have_no_default_target(api: Api, engine):
    seeding.add_model(engine)
    dataset = api.dataset(4, response="Hm", label_meaning="refused_complied")
    analysis = api.analysis(dataset["id"])
    seeding.measure(engine, analysis["id"])
    body = {"analysis_id": analysis["id"], "mode": "full"}
    refused = api.post("/trainings", 422, json=body | {"targets": {"safe": "given"}})
    assert refused["errors"][0]["loc"] == ["body", "targets", "unsafe"]
    assert "complied" in refused["detail"]
    api.post("/trainings", 202, json=body | {"targets": {"safe": "given", "unsafe": "refusal"}})


def test_every_step_leads_to_its_analysis_batch(ready):
    created = submit(ready)
    seeding.train(ready.engine, created["id"], ready.plan)
    path = f"/trainings/{created['id']}"
    done = ready.api.get(path)
    assert (done["status"], done["n_recorded"], done["n_verified"]) == ("succeeded", 3, 3)
    assert done["final_loss"] == pytest.approx(1 / 3)
    steps = ready.api.get(f"{path}/steps")["items"]
    order = batch_order(range(3), created["params"]["seed"], 0, True)
    assert [step["batch_id"] for step in steps] == [ready.plan.batches[idx].batch_id for idx in order]
    middle = ready.api.get(f"{path}/steps/2")
    assert (middle["previous_step"], middle["next_step"], middle["analysis_id"]) == (1, 3, ready.analysis)
    batch = ready.api.get(f"/analyses/{ready.analysis}/batches/{middle['batch_idx']}")
    assert middle["batch"]["max_abs_risk_diff"] == batch["max_abs_risk_diff"]
    same = ("in_batch_idx", "row_id", "label", "text", "prompt_digest")
    assert [[s[name] for name in same] for s in middle["samples"]] == [
        [s[name] for name in same] for s in batch["samples"]
    ]
    assert {(s["answer"], s["target"]) for s in middle["samples"]} == {("No.", "refusal")}
    assert ready.api.get(f"{path}/steps/1")["previous_step"] is None
    assert ready.api.get(f"{path}/steps/3")["next_step"] is None
    ready.api.get(f"{path}/steps/4", 404)


def test_a_batch_leads_to_every_step_that_used_it(ready):
    trained = [submit(ready, name=name) for name in ("one", "two")]
    for training in trained:
        seeding.train(ready.engine, training["id"], ready.plan)
    found = ready.api.get(f"/analyses/{ready.analysis}/batches/1/trainings")["items"]
    step = 1 + batch_order(range(3), 0, 0, True).index(1)
    assert sorted((one["training_name"], one["step"], one["verified"]) for one in found) == [
        ("one", step, True),
        ("two", step, True),
    ]
    for one in found:
        detail = ready.api.get(f"/trainings/{one['training_id']}/steps/{step}")
        assert one["losses"] == [sample["loss"] for sample in detail["samples"]]
    ready.api.call("DELETE", f"/trainings/{trained[0]['id']}", 204)
    assert len(ready.api.get(f"/analyses/{ready.analysis}/batches/1/trainings")["items"]) == 1


def test_a_cancelled_training_is_resumed_under_a_new_job(ready):
    created = submit(ready)
    seeding.train(ready.engine, created["id"], ready.plan, steps=1)
    path = f"/trainings/{created['id']}"
    assert ready.api.post(f"{path}/cancel")["status"] == "cancelled"
    ready.api.post(f"{path}/cancel", 409)
    resumed = ready.api.post(f"{path}/resume", 202)
    assert (resumed["status"], resumed["n_recorded"], resumed["progress"]["done"]) == ("queued", 1, 1)
    assert resumed["job_id"] != created["job_id"]


def test_trainings_are_found_by_analysis_and_status(ready):
    created = submit(ready)
    assert [one["id"] for one in ready.api.get("/trainings", params={"analysis_id": ready.analysis})["items"]] == [
        created["id"]
    ]
    assert ready.api.get("/trainings", params={"analysis_id": "an_0"})["items"] == []
    assert ready.api.get("/trainings", params={"status": "failed"})["items"] == []
    changed = ready.api.call("PATCH", f"/trainings/{created['id']}", json={"notes": "look again"})
    assert changed["notes"] == "look again"
    assert len(ready.api.get("/trainings", params={"q": "look"})["items"]) == 1


def test_a_training_verifies_from_its_rows_to_its_steps_and_a_forged_step_breaks_it(ready):
    created = submit(ready)
    seeding.train(ready.engine, created["id"], ready.plan, steps=len(ready.plan.batches))
    path = f"/trainings/{created['id']}/verify"
    verified = ready.api.post(path)
    assert verified["ok"], verified["first_break"]
    of_analysis = ready.api.post(f"/analyses/{ready.analysis}/verify")["links"]
    assert verified["links"][: len(of_analysis)] == of_analysis
    with writing(ready.engine) as session:
        step = session.get_one(t.TrainingStep, (created["id"], 2))
        first, second, *rest = step.samples
        step.samples = [second, first, *rest]
    broken = ready.api.post(path)["first_break"]
    assert broken["name"].startswith("steps")
    assert "step 2" in broken["where"]


def test_two_whole_steps_exchanged_after_the_training_are_not_the_order_of_its_seed(ready):
    created = submit(ready)
    seeding.train(ready.engine, created["id"], ready.plan)
    told = ("batch_idx", "batch_id", "samples", "loss", "loss_safe", "loss_unsafe", "n_answer_tokens")
    with writing(ready.engine) as session:
        first, second = (session.get_one(t.TrainingStep, (created["id"], number)) for number in (1, 2))
        for name in told:
            here, there = getattr(first, name), getattr(second, name)
            setattr(first, name, there)
            setattr(second, name, here)
    broken = ready.api.post(f"/trainings/{created['id']}/verify")["first_break"]
    assert broken["where"] == "step 1, epoch and batch by the seed"


def test_a_plan_that_lost_its_batches_breaks_the_steps_and_ends(ready):
    created = submit(ready)
    seeding.train(ready.engine, created["id"], ready.plan)
    assert ready.api.get(f"/analyses/{ready.analysis}/batches")["items"], "shown, so it is kept decoded"
    emptied = plans.Frozen.of(replace(ready.plan, batches=()))
    with writing(ready.engine) as session:
        session.get_one(t.AnalysisPlan, ready.analysis).plan = emptied.blob
    links = ready.api.post(f"/trainings/{created['id']}/verify")["links"]
    assert ("the plan", "none") in [(one["where"], one["found"]) for one in links if one["name"].startswith("steps")]


def test_a_tracker_that_no_running_worker_has_is_refused_by_name(ready):
    assert submit(ready, report_to=["tensorboard", "wandb"])["params"]["report_to"] == ["tensorboard", "wandb"]
    row = {"executor_id": "w", "host": "h", "pid": 1, "device": "cpu", "memory_bytes": None, "engines": []}
    with writing(ready.engine) as session:  # until now none was up that could have been asked
        heartbeat(session, row | {"model_loaded": None, "versions": {"torch": "2", "tensorboard": "2"}})
    refused = submit(ready, 422, report_to=["tensorboard", "wandb"])
    assert refused["errors"][0]["loc"] == ["body", "report_to"]
    assert "No worker that is up has wandb: install it there" in refused["errors"][0]["msg"]
    submit(ready, report_to=["tensorboard"])
    submit(ready, 422, report_to=["comet"])
