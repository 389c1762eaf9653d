from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, event

from backend.domain.evaluation.refusal import PHRASE_JUDGE
from backend.domain.vocabulary import Site
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.backend import seeding
from tests.backend.api.calls import Api

SITES = tuple(Site(layer, f"model.layers.{layer}.mlp", 8, 2) for layer in (1, 3))


@pytest.fixture
def ready(api: Api, engine) -> SimpleNamespace:
    """A finished analysis with an expert set of four, and prompts that it never saw."""
    seeding.add_model(engine, sites=SITES)
    analysis = api.analysis(api.dataset(8, response="So")["id"], name="study")
    plan = seeding.measure(engine, analysis["id"])
    chosen = api.post(
        f"/analyses/{analysis['id']}/expert-sets", 201, json={"name": "four", "method": "manual", "experts": FOUR}
    )
    rows = [
        row | {"prompt": f"{row['prompt']} Really?", "group": f"new-{row['group']}"} for row in seeding.prompt_rows(12)
    ]
    rows = [row | ({"response": "Gladly."} if row["label"] == "safe" else {}) for row in rows]
    data = {"name": "new", "label_meaning": "harmless_harmful"}
    fresh = api.post("/datasets", 201, files={"file": ("new.jsonl", seeding.jsonl(rows))}, data=data)
    return SimpleNamespace(
        api=api,
        engine=engine,
        analysis=analysis["id"],
        plan=plan,
        set=chosen["id"],
        old=analysis["dataset_id"],
        new=fresh["id"],
    )


FOUR = [[1, 0], [1, 5], [3, 2], [3, 3]]


def submit(ready: SimpleNamespace, status: int = 202, **body: Any) -> Any:
    fields = {"model": "tiny", "dataset_id": ready.new, "expert_set_id": ready.set} | body
    return ready.api.post("/evaluations", status, json=fields)


def finished(ready: SimpleNamespace, **body: Any) -> Any:
    created = submit(ready, **body)
    seeding.evaluate(ready.engine, created["id"])
    return ready.api.get(f"/evaluations/{created['id']}")


def test_an_evaluation_waits_with_its_arms_drawn_and_every_default_filled_in(ready):
    created = submit(ready)
    assert (created["status"], created["n_arms"], created["n_finished"]) == ("queued", 42, 0)
    assert (created["n_safe"], created["n_unsafe"], created["n_texts"]) == (12, 12, 12)
    assert created["progress"]["total"] == 42 * 24
    assert created["params"]["max_new_tokens"] == 32
    assert (created["params"]["max_length"], created["params"]["dtype"]) == (512, "auto"), "as the analysis has it"
    job = ready.api.get(f"/jobs/{created['job_id']}")
    assert (job["kind"], job["status"], job["subject_name"]) == ("evaluation", "queued", created["name"])
    arms = ready.api.get(f"/evaluations/{created['id']}/arms")["items"]
    assert [arm["family"] for arm in arms] == ["baseline", "real"] + ["random"] * 20 + ["load_matched"] * 20
    assert (arms[0]["experts"], arms[1]["experts"]) == ([], FOUR)
    for family in ("random", "load_matched"):
        own = [arm["experts"] for arm in arms if arm["family"] == family]
        assert FOUR not in own
        assert len({str(experts) for experts in own}) == 20
        assert all([[layer for layer, _ in experts].count(layer) for layer in (1, 3)] == [2, 2] for experts in own)
    assert submit(ready)["id"] != created["id"]
    again = ready.api.get(f"/evaluations/{submit(ready)['id']}/arms")["items"]
    assert [arm["experts"] for arm in again] == [arm["experts"] for arm in arms], "the seed draws the same sets"


def test_prompts_that_nothing_has_used_are_no_overlap(ready):
    created = submit(ready)
    assert created["overlap"]["in_sample"] is False
    assert created["overlap"]["used_by"] == [{"kind": "analysis", "id": ready.analysis, "n_prompts": 0, "n_groups": 0}]
    assert not any("In-sample" in warning for warning in created["warnings"])


def test_the_prompts_that_chose_the_experts_make_it_in_sample_and_holdout_refuses_them(ready):
    created = submit(ready, dataset_id=ready.old)
    assert created["overlap"]["in_sample"] is True
    assert created["overlap"]["n_seen_prompts"] == 16
    assert created["warnings"][0].startswith("In-sample: 16 of 16 prompts")
    refused = submit(ready, 422, dataset_id=ready.old, holdout=True)
    assert refused["errors"][0]["loc"] == ["body", "holdout"]
    assert "None of the 16 prompts is new" in refused["detail"]


def test_a_prompt_or_a_group_that_was_seen_is_left_out_by_holdout(ready):
    rows = [
        {"prompt": "How do I bake number 0?", "label": "safe"},  # the same messages, without its group
        {"prompt": "Never seen", "label": "safe", "group": "pair-3"},  # another prompt of a group that was seen
        {"prompt": "Never seen either", "label": "safe", "group": "other"},
        {"prompt": "Nor this", "label": "unsafe"},
    ]
    data = {"name": "mixed", "label_meaning": "harmless_harmful"}
    mixed = ready.api.post("/datasets", 201, files={"file": ("m.jsonl", seeding.jsonl(rows))}, data=data)["id"]
    found = submit(ready, dataset_id=mixed)["overlap"]
    assert (found["n_seen_prompts"], found["n_seen_groups"], found["n_seen"]) == (1, 1, 2)
    held_out = submit(ready, dataset_id=mixed, holdout=True)
    assert held_out["overlap"]["in_sample"] is False
    assert (held_out["n_safe"], held_out["n_unsafe"]) == (1, 1)


def test_a_dry_run_says_what_would_be_asked_and_stores_nothing(ready):
    body = {"model": "tiny", "dataset_id": ready.new, "expert_set_id": ready.set, "max_prompts": 10}
    plan = ready.api.post("/evaluations", 200, json=body, params={"dry_run": True})
    assert (plan["n_arms"], plan["n_safe"], plan["n_unsafe"]) == (42, 5, 5)
    assert plan["smallest_p"] == {"random": 1 / 21, "load_matched": 1 / 21}
    assert ready.api.get("/evaluations")["items"] == []


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        ({"expert_set_id": None}, "expert_set_id", "needs an expert set"),
        ({"intervention": "none"}, "expert_set_id", "steers nothing"),
        ({"intervention": "trained", "expert_set_id": None}, "model", "training:<id>"),
        ({"intervention": "none", "expert_set_id": None, "n_random": 3}, "n_random", "no random sets"),
        ({"judge": {"kind": "endpoint"}}, "judge", "ROUTEPRINT_JUDGE_URL"),
        ({"judge": {"kind": "classifier"}}, "judge", "label"),
        ({"judge": {"kind": "classifier", "model": "not/there", "label": "x"}}, "judge", "not/there"),
        ({"judge": {"kind": "phrases", "label": "x"}}, "judge", "mean nothing"),
        ({"choices": [{"prompt": "?", "choices": ["a", "b"], "answer": 2}]}, "choices", "only 2 choices"),
        ({"max_new_tokens": 0}, "max_new_tokens", "greater"),
        ({"n_random": 1001}, "n_random", "less"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_its_place(ready, body: dict, place: str, words: str):
    refused = submit(ready, 422, **body)
    assert any(place in error["loc"] for error in refused["errors"])
    assert words in refused["detail"] + "".join(error["msg"] for error in refused["errors"])


def test_deactivating_so_many_that_top_k_is_not_left_is_refused_with_the_layer(ready):
    experts = [[3, e] for e in range(7)]
    body = {"method": "manual", "experts": experts}
    chosen = ready.api.post(f"/analyses/{ready.analysis}/expert-sets", 201, json=body)
    refused = submit(ready, 422, expert_set_id=chosen["id"])
    assert "Layer 3" in refused["detail"]
    used = submit(ready, expert_set_id=chosen["id"], intervention="activate")
    arms = ready.api.get(f"/evaluations/{used['id']}/arms")["items"]
    assert len(arms[1]["experts"]) == 2, "at most top-k of a layer"
    strongest = sorted(
        (
            e
            for e in ready.api.get(f"/analyses/{ready.analysis}/experts", params={"limit": 100})["items"]
            if e["layer"] == 3 and e["expert"] < 7
        ),
        key=lambda e: -abs(e["risk_diff"]),
    )[:2]
    assert sorted(e["expert"] for e in strongest) == [e for _, e in arms[1]["experts"]]
    assert any("left out" in warning for warning in used["warnings"])


def test_a_set_of_another_model_is_refused(ready):
    seeding.add_model(ready.engine, "other", (Site(0, "a", 4, 2),))
    assert "made on tiny" in submit(ready, 422, model="other")["detail"]


def test_a_baseline_alone_has_one_arm(ready):
    created = finished(ready, expert_set_id=None, intervention="none")
    assert (created["n_arms"], created["analysis_id"], created["overlap"]["in_sample"]) == (1, None, False)
    measure = created["measures"][0]
    assert (measure["key"], measure["real"], measure["controls"]) == ("refusal_unsafe", None, [])
    assert measure["baseline"]["value"] == 1


def test_the_real_set_stands_among_the_random_ones(ready):
    done = finished(ready, n_random=4)
    assert done["status"] == "succeeded"
    unsafe, safe, perplexity = done["measures"]
    assert [one["key"] for one in done["measures"]] == ["refusal_unsafe", "refusal_safe", "perplexity"]
    assert unsafe["baseline"]["value"] == 1
    assert unsafe["baseline"]["how"] == "wilson"
    assert unsafe["real"]["value"] == pytest.approx(unsafe["difference"]["value"] + 1)
    assert unsafe["difference"]["value"] < 0
    random, matched = unsafe["controls"]
    assert (random["family"], matched["family"]) == ("random", "load_matched")
    assert random["differences"] == [0, 0, 0, 0]
    assert (random["n_as_extreme"], random["p"], random["smallest_p"]) == (0, 0.2, 0.2)
    assert safe["difference"]["value"] == 0
    assert safe["controls"][0]["p"] == 1
    assert perplexity["scale"] == "ratio"
    assert perplexity["baseline"]["value"] == pytest.approx(2.718281828**2.05, rel=0.03)
    assert done["judges"] == [PHRASE_JUDGE]


def test_what_is_done_is_shown_while_the_rest_still_runs(ready):
    created = submit(ready, n_random=4)
    assert ready.api.get(f"/evaluations/{created['id']}")["measures"] == []
    seeding.evaluate(ready.engine, created["id"], arms=3)
    running = ready.api.get(f"/evaluations/{created['id']}")
    assert (running["status"], running["n_finished"]) == ("running", 3)
    assert running["progress"]["done"] == 3 * 24
    assert [one["n"] for one in running["measures"][0]["controls"]] == [1]


def test_arms_come_as_a_table(ready):
    done = finished(ready, n_random=3)
    answer = ready.api.get(f"/evaluations/{done['id']}/arms", params={"format": "csv"})
    head, *rows = answer.text.splitlines()
    assert head.startswith("arm,family,model,n_experts,experts,load_share,refusal_unsafe,refusal_unsafe_low")
    assert len(rows) == done["n_arms"] == 8
    assert rows[1].startswith("1,real,tiny,4,1.0 1.5 3.2 3.3,")
    ready.api.get(f"/evaluations/{done['id']}/arms", params={"format": "parquet"})
    arm = ready.api.get(f"/evaluations/{done['id']}/arms")["items"][1]
    assert arm["measures"]["refusal_unsafe"]["change"]["value"] == done["measures"][0]["difference"]["value"]
    assert 0 < arm["load_share"] < 1


def test_answers_are_read_by_arm_verdict_label_and_word(ready):
    done = finished(ready, n_random=2)
    path = f"/evaluations/{done['id']}/answers"
    everything = ready.api.get(path, params={"limit": 500})["items"]
    assert [one["n"] for one in everything] == list(range(done["n_arms"] * 24))
    own = ready.api.get(path, params={"arm": 1, "label": "unsafe", "verdict": "answered"})["items"]
    assert own
    assert {(one["arm"], one["label"], one["counts"], one["family"]) for one in own} == {
        (1, "unsafe", "answered", "real")
    }
    assert {one["text"] for one in ready.api.get(path, params={"q": "flour", "limit": 500})["items"]} == {seeding.HELP}
    assert all(one["prompt"].endswith("Really?") for one in everything)
    assert "apology" in next(one["why"] for one in everything if one["counts"] == "refused")


def test_an_overruled_verdict_changes_the_rates_and_both_figures_stay(ready):
    done = finished(ready, n_random=2)
    before = done["measures"][0]
    assert before["before_overruling"] is None
    path = f"/evaluations/{done['id']}/answers"
    one = ready.api.get(path, params={"arm": 1, "label": "unsafe", "verdict": "answered"})["items"][0]
    body = {"verdict": "refused", "reason": "It declines later on.", "by": "R. Reader"}
    changed = ready.api.post(f"{path}/{one['n']}/overrule", json=body)
    assert (changed["verdict"], changed["overruled"], changed["counts"]) == ("answered", "refused", "refused")
    now = ready.api.get(f"/evaluations/{done['id']}")
    measure = now["measures"][0]
    assert measure["real"]["value"] == pytest.approx(before["real"]["value"] + 1 / 12)
    assert measure["before_overruling"] == {"baseline": before["baseline"]["value"], "real": before["real"]["value"]}
    assert now["n_overruled"] == 1
    ready.api.post(f"{path}/{one['n']}/overrule", json=body | {"verdict": "unclear", "by": "S. Reader"})
    record = ready.api.get(f"/evaluations/{done['id']}/overrules")["items"]
    assert [(x["n"], x["before"], x["verdict"], x["by"]) for x in record] == [
        (one["n"], "answered", "refused", "R. Reader"),
        (one["n"], "refused", "unclear", "S. Reader"),
    ]
    measure = ready.api.get(f"/evaluations/{done['id']}")["measures"][0]
    assert (measure["real"]["n"], measure["n_left_out"]) == (11, {"baseline": 0, "real": 1})
    ready.api.post(f"{path}/99999/overrule", 404, json=body)


def test_a_list_of_evaluations_reads_no_answer(ready):
    done = finished(ready, n_random=2)
    body = {"verdict": "refused", "reason": "so", "by": "me"}
    for verdict in ("answered", "refused"):
        ready.api.post(f"/evaluations/{done['id']}/answers/0/overrule", json=body | {"verdict": verdict})
    said: list[str] = []

    def hear(_c: Any, _k: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    event.listen(Engine, "before_cursor_execute", hear)
    try:
        (listed,) = ready.api.get("/evaluations")["items"]
    finally:
        event.remove(Engine, "before_cursor_execute", hear)
    assert listed["n_overruled"] == 1
    assert any("evaluation_arms" in statement for statement in said)
    assert not any("evaluation_answers" in statement for statement in said), "there may be a million"


def test_verdicts_are_overruled_once_the_work_is_done(ready):
    created = submit(ready, n_random=2)
    seeding.evaluate(ready.engine, created["id"], arms=1)
    body = {"verdict": "refused", "reason": "so", "by": "me"}
    ready.api.post(f"/evaluations/{created['id']}/answers/0/overrule", 409, json=body)


def test_a_trained_model_stands_beside_its_base_and_overlaps_with_its_training(ready):
    training = ready.api.post("/trainings", 202, json={"analysis_id": ready.analysis, "expert_set_id": ready.set})
    seeding.train(ready.engine, training["id"], ready.plan)
    seeding.add_model(ready.engine, f"training:{training['id']}", SITES)
    body = {"model": f"training:{training['id']}", "expert_set_id": None, "intervention": "trained"}
    created = submit(ready, dataset_id=ready.old, **body)
    arms = ready.api.get(f"/evaluations/{created['id']}/arms")["items"]
    assert [(arm["family"], arm["model"]) for arm in arms] == [("baseline", "tiny"), ("real", body["model"])]
    assert created["overlap"]["in_sample"] is True
    assert created["overlap"]["used_by"][0]["kind"] == "training"
    assert submit(ready, **body)["overlap"]["in_sample"] is False


def trained(ready, experts: list[list[int]], **changes: object) -> str:
    """Return a finished training of these experts."""
    return trained_by(ready, {"name": str(experts), "method": "manual", "experts": experts}, **changes)


def trained_by(ready, body: dict[str, Any], **changes: object) -> str:
    """Return a finished training of the experts that a rule chooses."""
    chosen = ready.api.client.post(f"/api/v1/analyses/{ready.analysis}/expert-sets", json=body).json()  # new, or there
    asked = {"analysis_id": ready.analysis, "expert_set_id": chosen["id"]} | changes
    training = ready.api.post("/trainings", 202, json=asked)
    seeding.train(ready.engine, training["id"], ready.plan)
    seeding.add_model(ready.engine, f"training:{training['id']}", SITES)
    return str(training["id"])


def test_trainings_of_random_sets_stand_beside_a_trained_model_if_they_are_comparable(ready):
    real, first, second = (trained(ready, pairs) for pairs in ([[1, 0], [3, 1]], [[1, 2], [3, 3]], [[1, 3], [3, 2]]))
    body = {"model": f"training:{real}", "expert_set_id": None, "intervention": "trained"}
    alone = submit(ready, **body)
    assert any("name those trainings as `controls`" in warning for warning in alone["warnings"])
    beside = submit(ready, controls=[first, second], **body)
    arms = ready.api.get(f"/evaluations/{beside['id']}/arms")["items"]
    assert [(arm["family"], arm["model"]) for arm in arms] == [
        ("baseline", "tiny"),
        ("real", f"training:{real}"),
        ("random", f"training:{first}"),
        ("random", f"training:{second}"),
    ]
    assert [arm["experts"] for arm in arms[2:]] == [[[1, 2], [3, 3]], [[1, 3], [3, 2]]]
    assert any("drawn at random is not checked" in warning for warning in beside["warnings"])
    links = ready.api.post(f"/evaluations/{beside['id']}/verify")["links"]
    assert links
    assert all(link["ok"] and not link["name"].startswith("arms") for link in links), "its arms are models"
    wider, faster = trained(ready, [[1, 1], [1, 2]]), trained(ready, [[1, 1], [3, 0]], learning_rate=0.5)
    low_rank = trained(ready, [[1, 1], [3, 0]], adapter={"rank": 4})
    for controls, words in (
        ([first, first], "each control once"),
        ([real], "not the evaluated training itself"),
        ([first, wider], "another number of experts in some layer"),
        ([faster], "its learning_rate is 0.5, that of the evaluated training is 0.0001"),
        ([low_rank], "that of the evaluated training is not given"),
        ([trained(ready, [[3, 1], [1, 0]])], "trained, too"),
    ):
        refused = submit(ready, 422, controls=controls, **body)
        assert refused["errors"][0]["loc"][:2] == ["body", "controls"]
        assert words in refused["errors"][0]["msg"]
    offered = {one["id"]: one for one in ready.api.get(f"/trainings/{real}/controls")["items"]}
    assert real not in offered
    assert {id_ for id_, one in offered.items() if one["why_not"] is None} == {first, second}
    assert offered[first]["n_experts"] == 2
    assert offered[faster]["why_not"] == "its learning_rate is 0.5, that of the evaluated training is 0.0001"
    for id_, one in offered.items():  # what the list says is what the evaluation does
        submit(ready, 202 if one["why_not"] is None else 422, controls=[id_], **body)
    page = ready.api.get(f"/trainings/{real}/controls", params={"limit": 2})
    rest = ready.api.get(f"/trainings/{real}/controls", params={"cursor": page["next_cursor"]})
    assert [one["id"] for one in page["items"] + rest["items"]] == list(offered)
    submit(ready, 404, controls=["tr_nowhere"], **body)
    refused = submit(ready, 422, controls=[first])
    assert "use intervention 'trained'" in refused["errors"][0]["msg"]


def test_the_same_experts_by_another_rule_or_batch_by_batch_are_no_control(ready):
    top = {"method": "top_k", "k": 2}
    real = trained_by(ready, top)
    of_real = ready.api.get(f"/trainings/{real}")["expert_set_id"]
    experts = ready.api.get(f"/expert-sets/{of_real}")["experts"]
    body = {"model": f"training:{real}", "expert_set_id": None, "intervention": "trained"}
    for control, words in (
        (trained(ready, experts), "it trained the experts that the evaluated training"),
        (trained_by(ready, top | {"kind": "per_batch"}), "its expert set is per_batch, not global"),
    ):
        assert words in submit(ready, 422, controls=[control], **body)["errors"][0]["msg"]


def test_the_prompts_that_chose_what_a_training_trained_are_in_sample_wherever_it_trained(ready):
    """A global set may be trained on another analysis' batches: what chose it was seen by the model all the same."""
    trained_on = ready.api.analysis(ready.new)
    plan = seeding.measure(ready.engine, trained_on["id"])
    training = ready.api.post("/trainings", 202, json={"analysis_id": trained_on["id"], "expert_set_id": ready.set})
    seeding.train(ready.engine, training["id"], plan)
    seeding.add_model(ready.engine, f"training:{training['id']}", SITES)
    for intervention in ("trained", "none"):
        body = {"model": f"training:{training['id']}", "expert_set_id": None, "intervention": intervention}
        found = submit(ready, dataset_id=ready.old, **body)["overlap"]
        assert (found["in_sample"], found["n_seen_prompts"]) == (True, 16)
        assert [(one["kind"], one["id"]) for one in found["used_by"]] == [
            ("analysis", ready.analysis),
            ("training", training["id"]),
        ]


def test_other_meanings_of_the_labels_are_said_and_have_no_perplexity_of_their_own(ready):
    other = ready.api.dataset(6, "other", response="No.", label_meaning="refused_complied")["id"]
    created = submit(ready, dataset_id=other)
    assert created["n_texts"] == 0
    assert any("refused" in warning for warning in created["warnings"])
    assert submit(ready, dataset_id=other, capability_dataset_id=ready.new)["n_texts"] == 12
    bare = ready.api.dataset(4, "bare")["id"]
    assert "response" in submit(ready, 422, capability_dataset_id=bare)["detail"]


def test_a_prompt_set_that_an_evaluation_uses_is_not_deleted(ready):
    submit(ready)
    assert "evaluation" in ready.api.call("DELETE", f"/datasets/{ready.new}", 409)["detail"]


def test_an_evaluation_is_renamed_cancelled_resumed_deleted_and_brought_back(ready):
    created = submit(ready, n_random=2)
    seeding.evaluate(ready.engine, created["id"], arms=2)
    path = f"/evaluations/{created['id']}"
    assert ready.api.call("PATCH", path, json={"name": "does it matter"})["name"] == "does it matter"
    assert ready.api.post(f"{path}/cancel")["status"] == "cancelled"
    resumed = ready.api.post(f"{path}/resume", 202)
    assert (resumed["status"], resumed["n_finished"]) == ("queued", 2)
    ready.api.call("DELETE", path, 409)
    ready.api.post(f"{path}/cancel")
    ready.api.call("DELETE", path, 204)
    assert ready.api.get("/evaluations")["items"] == []
    assert ready.api.post(f"{path}/undelete")["deleted_at"] is None
    assert len(ready.api.get("/evaluations", params={"expert_set_id": ready.set})["items"]) == 1


def test_answers_stored_twice_count_once(ready):
    created = submit(ready, n_random=2)
    for _ in range(2):
        seeding.evaluate(ready.engine, created["id"], arms=2)
    with reading(ready.engine) as session:
        assert session.get_one(t.Evaluation, created["id"]).done == 48
    with writing(ready.engine) as session:
        session.query(t.EvaluationAnswer).filter_by(arm_idx=0).delete()
