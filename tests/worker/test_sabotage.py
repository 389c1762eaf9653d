"""Four ways to sabotage a training, through the real trainer and store: each is named at the first step it touches.

A data set changed after the analysis (a row's text, a token, a label), a sampler that swaps two samples, a collator
that drops one, a changed tokenizer. Each time: the words, the step, no later step, the weights of the step before it,
and the record says it.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import update

from backend.domain.errors import Conflict, ProvenanceBroken
from backend.domain.step_order import batch_order
from backend.settings import get_settings
from backend.store import jobs, plans, writes
from backend.store import tables as t
from backend.store.engine import reading, writing
from backend.store.verify import verify_training
from tests.worker.study import Study
from tests.worker.test_crashes import read_records
from tests.worker.tiny import save_tiny
from tests.worker.tiny_runs import ListSink, dropping, swapping, tiny_run, weights
from worker import training as training_module
from worker.launching import ProcessesFailed, launch
from worker.models import load_model
from worker.training import build_trainer, train
from worker.tuning import run_training

BATCH = 2  # the batch that is tampered with
TOUCHED = batch_order(range(4), 0, 0, True).index(BATCH) + 1  # the first step of `tiny_run` that trains it


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("olmoe"), "olmoe")


@pytest.fixture(scope="module")
def before(olmoe, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights after the step before the one that is touched, in a run that nobody disturbs."""
    assert TOUCHED > 1
    out = tmp_path_factory.mktemp("before")
    train(tiny_run(olmoe, out), ListSink(stop_after=TOUCHED - 1))
    return weights(out / f"checkpoint-{TOUCHED - 1}")


def sabotaged(olmoe: Path, out: Path, way: str) -> tuple[Any, ListSink]:
    """Return a trainer with one part of the data path exchanged for a faulty one, and where it reports to."""
    run, sink = tiny_run(olmoe, out), ListSink()
    if way == "token":
        run = with_sample(run, 1, prompt_ids=run.batches[BATCH].examples[1].prompt_ids + 1)
    if way == "row":
        example = run.batches[BATCH].examples[1]
        run = with_sample(run, 1, row_id="f" * 64, planned=(example.row_id, example.label))
    trainer = build_trainer(run, load_model(olmoe), sink, facts={"run": run.digest})
    if way == "drop":
        trainer.data_collator = dropping(trainer.data_collator, BATCH)
    if way == "swap":
        swapping(trainer, BATCH)
    return trainer, sink


def with_sample(run: Any, place: int, **changes: Any) -> Any:
    examples = list(run.batches[BATCH].examples)
    examples[place] = dataclasses.replace(examples[place], **changes)
    batches = list(run.batches)
    batches[BATCH] = dataclasses.replace(batches[BATCH], examples=tuple(examples))
    return dataclasses.replace(run, batches=tuple(batches))


SAID = {
    "token": r"sample 1 \(row [0-9a-f]{12}\) has the prompt digest",
    "row": r"sample 1 \(row [0-9a-f]{12}\) was changed after the analysis: its row is ffffffffffff now",
    "swap": r"sample 0 \(row [0-9a-f]{12}\) is not in its place: sample 1 stands at place 0",
    "drop": r"4 samples were planned, 3 arrived; sample 3 \(row [0-9a-f]{12}\) is missing",
}


@pytest.mark.parametrize("way", SAID)
def test_the_step_is_named_nothing_after_it_runs_and_its_weights_are_those_before(olmoe, before, tmp_path, way):
    trainer, sink = sabotaged(olmoe, tmp_path, way)
    said = rf"^Step {TOUCHED} was to train batch {BATCH} .*{SAID[way]}.*stopped before this step was applied\.$"
    with pytest.raises(ProvenanceBroken, match=said):
        trainer.train()
    assert [record.step for record in sink.records] == list(range(1, TOUCHED))
    assert all(record.verified for record in sink.records)
    assert trainer.state.global_step == TOUCHED - 1
    after = trainer.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.slow
def test_with_two_processes_both_stop_and_the_one_at_fault_is_named(olmoe, before, tmp_path):
    runs = {
        "swap": {"model": str(olmoe), "swap": [1, BATCH], "checkpoint_every": 1},
        "drop": {"model": str(olmoe), "drop": [0, BATCH], "checkpoint_every": 1},
        "forged": {"model": str(olmoe), "forged": [1], "checkpoint_every": 1},
    }
    found = launch("tests.worker.rank_process", [str(tmp_path), json.dumps(runs)], 2, tmp_path / "launch")
    for name, said in (
        ("swap", "process 1 of 2 was given samples 3, 1, not 1, 3"),
        ("drop", "process 0 of 2 was given samples 0, not 0, 2"),
    ):
        assert found[name]["broken"].startswith(f"Step {TOUCHED} was to train batch {BATCH} ("), found
        assert said in found[name]["broken"]
        assert [record.step for record in read_records(tmp_path / f"{name}.jsonl")] == list(range(1, TOUCHED))
        last = weights(tmp_path / name / f"checkpoint-{TOUCHED - 1}")
        assert not (tmp_path / name / f"checkpoint-{TOUCHED}").exists()
        assert all(torch.allclose(tensor, last[key], atol=1e-5) for key, tensor in before.items())
    assert "in process 1 of 2, has the prompt digest" in found["forged"]["broken"]


# --- through the worker's stage, with stored rows


def prepared(study: Study, **params: Any) -> tuple[str, int]:
    """Return a training whose targets are frozen, and the first step that touches batch 1."""
    analysis = study.analyse()
    id_ = study.submit_training(analysis, study.choose(analysis), checkpoint_every=1, **params)
    return id_, batch_order(range(3), 3, 0, True).index(1) + 1


def failed(study: Study, id_: str) -> str:
    """Run a training that must fail, end its job as the worker does, and return what its record says."""
    with writing(study.engine) as session:
        job = jobs.add(session, "training", id_).id
        writes.start_job(session, job, "w0")
    with pytest.raises((ProvenanceBroken, ProcessesFailed, Conflict)) as caught:
        run_training(id_, job)
    with writing(study.engine) as session:
        writes.finish_all(session, job, "training", id_, "failed", str(caught.value))
    assert study.get(t.Job, job).error == study.get(t.Training, id_).error == str(caught.value)
    return str(caught.value)


TAMPERED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "text": (
        t.PromptRow,
        {"messages": [{"role": "user", "content": "something else"}]},
        "was changed after the analysis: its row is",
    ),
    "response": (t.PromptRow, {"response": "something else"}, "was changed after the analysis: its row is"),
    "token": (t.BatchSample, {"token_ids": np.array([1, 2, 3])}, "has the prompt digest"),
    "label": (t.BatchSample, {"label": "unsafe"}, "is safe in the analysis and unsafe here"),
    "row": (t.BatchSample, {"row_id": "f" * 64}, "was changed after the analysis: its row is ffffffffffff now"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_stored_data_set_that_was_changed_stops_the_run_at_the_step_it_touches(study, what):
    id_, touched = prepared(study)
    table, change, said = TAMPERED[what]
    tamper(study, id_, table, change)
    error = failed(study, id_)
    assert error.startswith(f"Step {touched} was to train batch 1 ("), error
    assert f"sample 2 (row {planned_row(study, id_)[:12]}) {said}" in error
    stopped_before(study, id_, touched)


def tamper(study: Study, id_: str, table: Any, change: dict[str, Any]) -> None:
    """Change the third sample of batch 1, as somebody with access to the database would."""
    analysis = study.get(t.Training, id_).analysis_id
    with writing(study.engine) as session:
        if table is t.PromptRow:
            session.execute(update(table).where(table.row_id == planned_row(study, id_)).values(**change))
        else:
            here = (table.analysis_id == analysis, table.batch_idx == 1, table.in_batch_idx == 2)
            session.execute(update(table).where(*here).values(**change))


def planned_row(study: Study, id_: str) -> str:
    with reading(study.engine) as session:
        plan = plans.load(session, study.get(t.Training, id_).analysis_id)
    return plan.batches[1].samples[2].row_id


def stopped_before(study: Study, id_: str, touched: int) -> None:
    """Check that exactly the steps before it are stored, and that the last checkpoint is of the step before it."""
    assert touched > 1
    steps = study.rows(t.TrainingStep, training_id=id_)
    assert [step.step for step in steps] == list(range(1, touched))
    assert all(step.verified for step in steps)
    folder = get_settings().artifacts_path / "trainings" / id_
    assert max(int(p.name.removeprefix("checkpoint-")) for p in folder.glob("checkpoint-*")) == touched - 1
    assert not (folder / training_module.MODEL).exists()


@pytest.mark.slow
def test_a_changed_data_set_stops_two_processes_too(study):
    id_, touched = prepared(study, n_processes=2)
    table, change, said = TAMPERED["text"]
    tamper(study, id_, table, change)
    error = failed(study, id_)
    assert f"Step {touched} was to train batch 1 (" in error
    assert said in error
    stopped_before(study, id_, touched)


def test_another_tokenizer_is_refused_before_the_first_step_or_stopped_at_the_next_one(study, monkeypatch):
    id_, _ = prepared(study)
    late, _ = prepared(study)
    with monkeypatch.context() as patch:  # stopped after one step, with its targets frozen
        patch.setattr("worker.store_sink.StoreSink.should_stop", lambda _: True)
        run_training(late, "job")
    assert len(study.rows(t.TrainingStep, training_id=late)) == 1
    file = get_settings().models_path / "tiny" / "olmoe" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    a, b = list(vocabulary)[-2:]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    file.write_text(json.dumps(content))
    assert "The tokenizer of tiny/olmoe is not the one this analysis was submitted with" in failed(study, id_)
    assert study.rows(t.TrainingStep, training_id=id_) == []
    error = failed(study, late)
    assert error.startswith("Step 2 was to train batch ")
    assert "has the prompt digest" in error
    assert "and 3 more" in error  # of the batch's eight samples: every one
    stopped_before(study, late, 2)


def test_verify_says_so_as_well(study):
    id_, _ = prepared(study)
    tamper(study, id_, t.PromptRow, TAMPERED["text"][1])
    failed(study, id_)
    with reading(study.engine) as session:
        first = next(link for link in verify_training(session, id_) if not link.ok)
    assert first.name.startswith("prompt set: every row")
