import csv
import io
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from backend.store import risks, writes
from backend.store import tables as t
from backend.store.engine import reading, writing
from tests.backend import seeding
from tests.backend.api.calls import Api

N = 24


def learn(engine, training_id: str, plan, epochs: int, *, upto: int | None = None) -> None:
    """Record the steps of a run that learns, with a loss of its own for every sample."""
    rng = np.random.default_rng(0)
    hard = [float(rng.lognormal(0, 0.4)) for _ in plan.batches]
    visits = [(epoch, place) for epoch in range(epochs) for place in rng.permutation(len(hard)).tolist()]
    with writing(engine) as session:
        for step, (epoch, place) in enumerate(visits[:upto], 1):
            base = hard[place] * (0.4 + np.exp(-step / len(hard)))
            writes.record_step(session, training_id, step_row(plan.batches[place], step, epoch, base))


def step_row(batch, step: int, epoch: int, loss: float) -> dict:
    samples = [
        {
            "batch_idx": batch.batch_idx,
            "in_batch_idx": s.in_batch_idx,
            "row_id": s.row_id,
            "label": str(s.label),
            "prompt_digest": "d" * 64,
            "loss": loss * (1 + 0.1 * s.in_batch_idx),
        }
        for s in batch.samples
    ]
    return {
        "step": step,
        "epoch": epoch,
        "batch_idx": batch.batch_idx,
        "batch_id": batch.batch_id,
        "verified": True,
        "loss": loss,
        "loss_safe": 0.5 * loss,
        "loss_unsafe": 1.5 * loss,
        "grad_norm": 0.1,
        "learning_rate": 1e-4,
        "n_answer_tokens": 8 * len(samples),
        "seconds": 0.2,
        "samples": samples,
    }


@pytest.fixture
def study(api: Api, engine) -> SimpleNamespace:
    """A finished analysis of 24 batches with an expert set."""
    seeding.add_model(engine)
    analysis = api.analysis(api.dataset(2 * N)["id"])
    plan = seeding.measure(engine, analysis["id"])
    chosen = api.post(f"/analyses/{analysis['id']}/expert-sets", 201, json={"method": "top_k", "k": 2})
    return SimpleNamespace(api=api, engine=engine, analysis=analysis["id"], plan=plan, experts=chosen["id"])


def trained(study: SimpleNamespace, epochs: int = 3, *, upto: int | None = None, **body) -> str:
    asked = {"analysis_id": study.analysis, "expert_set_id": study.experts, "epochs": epochs} | body
    made = study.api.post("/trainings", 202, json=asked)
    learn(study.engine, made["id"], study.plan, epochs, upto=upto)
    return f"/trainings/{made['id']}"


def test_the_fall_of_a_batch_is_its_first_loss_less_its_last(study):
    path = trained(study)
    steps = study.api.get(f"{path}/steps")["items"]
    for row in study.api.get(f"{path}/batches")["items"]:
        own = [step for step in steps if step["batch_idx"] == row["batch_idx"]]
        assert row["losses"] == [step["loss"] for step in own]
        assert (row["step_first"], row["step_last"], row["n_visits"]) == (own[0]["step"], own[-1]["step"], 3)
        assert row["fall"] == pytest.approx(own[0]["loss"] - own[-1]["loss"])
        assert row["fall_per_epoch"] == pytest.approx(row["fall"] / 2)
        assert row["relative_fall"] == pytest.approx(row["fall"] / own[0]["loss"])
        assert (row["verified"], row["batch_id"]) == (True, own[0]["batch_id"])


def test_what_the_set_did_in_a_batch_follows_from_its_counts(study):
    rows = study.api.get(f"{trained(study)}/batches")["items"]
    experts = study.api.get(f"/expert-sets/{study.experts}")["experts"]
    with reading(study.engine) as session:
        analysis = session.get_one(t.Analysis, study.analysis)
        layers = [site["layer"] for site in analysis.sites]
        for row in rows:
            counts = risks.batch_counts(session, study.analysis, "prompt", row["batch_idx"])
            found = study.api.get(f"/analyses/{study.analysis}/risk-diff", params={"batch_idx": row["batch_idx"]})
            diffs = [found["risk_diff"][layers.index(layer)][expert] for layer, expert in experts]
            assert row["set_abs_risk_diff"] == pytest.approx(np.abs(diffs).mean())
            took = sum(int(counts.counts[:, layers.index(layer), expert].sum()) for layer, expert in experts)
            places = 2 * int(counts.tokens.sum()) * len({layer for layer, _ in experts})
            assert row["set_load"] == pytest.approx(took / places)
            assert row["max_abs_risk_diff"] == pytest.approx(found["max_abs"])
            assert row["prompt_tokens"] == pytest.approx(counts.tokens.mean())
            groups = {
                s["group"] for s in study.api.get(f"/analyses/{study.analysis}/batches/{row['batch_idx']}")["samples"]
            }
            assert (row["n_groups"], row["n_sources"], row["answer_tokens"]) == (len(groups), None, 8.0)


def test_rows_come_sorted_and_page_by_page(study):
    path = f"{trained(study)}/batches"
    falls = [row["fall"] for row in study.api.get(path, params={"sort": "-fall"})["items"]]
    assert falls == sorted(falls, reverse=True)
    first = study.api.get(path, params={"sort": "-fall", "limit": 5})
    rest = study.api.get(path, params={"sort": "-fall", "cursor": first["next_cursor"]})
    assert [row["fall"] for row in first["items"] + rest["items"]] == falls
    assert rest["next_cursor"] is None
    study.api.get(path, 422, params={"sort": "name"})


def test_a_file_holds_every_batch(study):
    path = f"{trained(study)}/batches"
    rows = study.api.get(path)["items"]
    text = study.api.get(path, params={"format": "csv", "limit": 1}).text
    table = list(csv.DictReader(io.StringIO(text)))
    assert [float(line["fall"]) for line in table] == pytest.approx([row["fall"] for row in rows])
    assert {line["n_sources"] for line in table} == {""}
    content = study.api.get(path, params={"format": "parquet"}).content
    assert pq.read_table(io.BytesIO(content)).column("loss_first").to_pylist() == [row["loss_first"] for row in rows]


def test_a_sample_has_its_loss_at_every_visit(study):
    path = trained(study)
    batch = study.api.get(f"{path}/batches/3")
    assert [visit["epoch"] for visit in batch["visits"]] == [0, 1, 2]
    for place, visit in enumerate(batch["visits"]):
        step = study.api.get(f"{path}/steps/{visit['step']}")
        assert [s["losses"][place] for s in batch["samples"]] == [s["loss"] for s in step["samples"]]
    one = batch["samples"][1]
    assert one["fall"] == pytest.approx(one["losses"][0] - one["losses"][-1])
    lines = list(csv.DictReader(io.StringIO(study.api.get(f"{path}/batches/3", params={"format": "csv"}).text)))
    assert len(lines) == 3 * len(batch["samples"])
    study.api.get(f"{path}/batches/{N}", 404)


def test_the_explanation_says_what_was_taken_out_and_what_was_looked_at(study):
    path = trained(study)
    found = study.api.get(f"{path}/explanation")
    assert (found["outcome"], found["n_complete"], found["n_used"], found["reason"]) == ("fall", 3, N, None)
    assert found["controls"] == ["loss_first", "step_first", "step_last"]
    assert {figure["key"]: figure["verdict"] for figure in found["figures"]}["n_samples"] == "constant"
    assert all(figure["name"] and figure["what"] and figure["verdict_words"] for figure in found["figures"])
    assert any("regression to the mean" in sentence for sentence in found["method"])
    assert found["findings"]
    assert found == study.api.get(f"{path}/explanation", params={"seed": 0})
    of_unsafe = study.api.get(f"{path}/explanation", params={"loss": "unsafe", "seed": 1})
    assert (of_unsafe["loss"], of_unsafe["seed"]) == ("unsafe", 1)
    lines = list(csv.DictReader(io.StringIO(study.api.get(f"{path}/explanation", params={"format": "csv"}).text)))
    assert [line["key"] for line in lines] == [figure["key"] for figure in found["figures"]]


def test_a_batch_that_did_not_learn_is_named_in_both_answers(study):
    path = trained(study)
    last = max(s["step"] for s in study.api.get(f"{path}/steps")["items"] if s["batch_idx"] == 3)
    with writing(study.engine) as session:
        session.get_one(t.TrainingStep, (path.rpartition("/")[2], last)).loss = 50.0
    named = study.api.get(f"{path}/explanation")["unusual"]
    assert [(one["batch_idx"], one["side"]) for one in named] == [(3, "worse")]
    assert [row["batch_idx"] for row in study.api.get(f"{path}/batches")["items"] if row["unusual"]] == [3]


def test_one_epoch_has_no_fall_and_says_what_is_shown_instead(study):
    path = trained(study, 1)
    rows = study.api.get(f"{path}/batches")["items"]
    assert {row["fall"] for row in rows} == {None}
    assert all(row["loss_first"] and row["expected"] for row in rows)
    found = study.api.get(f"{path}/explanation")
    assert (found["outcome"], found["controls"]) == ("loss", ["step_first"])
    assert "no fall" in found["method"][0]


@pytest.mark.parametrize("upto", [0, 5, N + 3])
def test_a_run_in_progress_shows_what_there_is(study, upto: int):
    path = trained(study, upto=upto)
    rows = study.api.get(f"{path}/batches")["items"]
    assert sum(row["n_visits"] for row in rows) == upto
    assert sum(row["loss_first"] is not None for row in rows) == min(upto, N)
    found = study.api.get(f"{path}/explanation")
    if upto < N:
        assert found["reason"] == f"The first epoch is not complete: {upto} of {N} batches were visited."
        assert (found["figures"], found["findings"]) == ([], [found["reason"]])
        assert "Once every batch was visited" in found["method"][0]
    else:
        assert (found["outcome"], found["n_complete"]) == ("loss", 1)


def test_a_run_without_batches_says_so_by_name(study):
    path = trained(study, preserve_batches=False, expert_set_id=None, mode="full", upto=0)
    for tail in ("/batches", "/batches/0", "/explanation", "/batches?format=csv", "/batches/0?format=csv"):
        assert "preserve_batches" in study.api.get(path + tail, 409)["detail"]


def test_a_whole_model_has_no_figures_of_a_set(study):
    path = trained(study, expert_set_id=None, mode="full")
    verdicts = {figure["key"]: figure["verdict"] for figure in study.api.get(f"{path}/explanation")["figures"]}
    assert (verdicts["set_load"], verdicts["set_abs_risk_diff"]) == ("absent", "absent")


def test_a_set_of_each_batch_is_read_in_its_own_batch(study):
    body = {"method": "top_k", "k": 1, "kind": "per_batch"}
    chosen = study.api.post(f"/analyses/{study.analysis}/expert-sets", 201, json=body)
    rows = study.api.get(f"{trained(study, expert_set_id=chosen['id'])}/batches")["items"]
    for row in rows:  # the one expert of a batch is the one that fires most on unsafe there
        assert 0 < row["set_abs_risk_diff"] <= row["max_abs_risk_diff"] + 1e-9


def test_a_batch_whose_router_was_not_finite_is_left_out_by_name(api: Api, engine):
    seeding.add_model(engine)
    analysis = api.analysis(api.dataset(2 * N)["id"])
    plan = seeding.measure(engine, analysis["id"], non_finite=(4,))
    made = api.post("/trainings", 202, json={"analysis_id": analysis["id"], "mode": "full", "epochs": 2})
    learn(engine, made["id"], plan, 2)
    found = api.get(f"/trainings/{made['id']}/explanation")
    assert [one["batch_idx"] for one in found["left_out"]] == [4]
    assert found["n_used"] == N - 1
