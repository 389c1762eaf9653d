from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import update

from backend.domain.errors import Conflict, ProvenanceBroken
from backend.domain.provenance import Link
from backend.settings import get_settings
from backend.store import tables as t
from backend.store.engine import reading, writing
from backend.store.verify import verify_analysis, verify_training
from tests.worker.study import Study
from tests.worker.tiny import save_tiny
from worker.scanning import scan
from worker.store_sink import StoreSink
from worker.tuning import run_training


def broken(links: list[Link]) -> list[str]:
    return [f"{link.name}: {link.where}: {link.expected} != {link.found}" for link in links if not link.ok]


def analysis_links(study: Study, id_: str) -> list[Link]:
    with reading(study.engine) as session:
        return verify_analysis(session, id_)


def training_links(study: Study, id_: str) -> list[Link]:
    with reading(study.engine) as session:
        return verify_training(session, id_)


def finish_training(study: Study, id_: str) -> None:
    run_training(id_, "job")
    with writing(study.engine) as session:
        session.get_one(t.Training, id_).status = "succeeded"


def test_an_analysis_stores_every_planned_batch_and_its_chain_holds(study: Study) -> None:
    id_ = study.analyse()
    assert study.get(t.Analysis, id_).done == 3
    assert [b.batch_idx for b in study.rows(t.AnalysisBatch, analysis_id=id_)] == [0, 1, 2]
    links = analysis_links(study, id_)
    assert broken(links) == []
    assert all(link.checked for link in links)


def test_measuring_again_changes_nothing(study: Study) -> None:
    id_ = study.analyse()
    before = [(r.batch_idx, r.counts.tolist()) for r in study.rows(t.BatchRouting, analysis_id=id_)]
    with writing(study.engine) as session:
        session.get_one(t.Analysis, id_).status = "running"
    assert study.measure(id_) == 0
    assert [(r.batch_idx, r.counts.tolist()) for r in study.rows(t.BatchRouting, analysis_id=id_)] == before
    assert study.get(t.AnalysisAggregate, (id_, "prompt")).n_batches == 3


def test_a_cancelled_analysis_measures_nothing_more(study: Study) -> None:
    id_ = study.submit_analysis()
    with writing(study.engine) as session:
        session.get_one(t.Analysis, id_).status = "cancelled"
    assert study.measure(id_) == 0
    assert study.rows(t.AnalysisBatch, analysis_id=id_) == []


def test_generated_answers_are_stored_once_and_counted_in_their_own_scope(study: Study) -> None:
    id_ = study.analyse(scopes=["prompt", "response"], max_new_tokens=6)
    answers = study.rows(t.Answer, analysis_id=id_)
    assert len(answers) == 24
    assert {a.kind for a in answers} == {"model"}
    length = {(a.batch_idx, a.in_batch_idx): len(a.token_ids) for a in answers}
    for row in study.rows(t.BatchRouting, analysis_id=id_, scope="response"):
        assert row.tokens.tolist() == [length[row.batch_idx, i] - 1 for i in range(len(row.tokens))]
    assert broken(analysis_links(study, id_)) == []


def test_given_responses_count_where_a_row_has_one(study: Study) -> None:
    id_ = study.analyse(scopes=["response"])
    kinds = {a.kind for a in study.rows(t.Answer, analysis_id=id_)}
    tokens = np.concatenate([r.tokens for r in study.rows(t.BatchRouting, analysis_id=id_, scope="response")])
    assert kinds == {"given"}
    assert (tokens > 0).sum() == 6


def test_a_training_sees_its_analysis_batches_and_its_chain_holds(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis))
    finish_training(study, training)
    steps = study.rows(t.TrainingStep, training_id=training)
    assert [s.step for s in steps] == list(range(1, 7))
    assert all(s.verified for s in steps)
    assert study.get(t.Training, training).result["model_id"] == f"training:{training}"
    assert study.get(t.Model, f"training:{training}").supported
    links = training_links(study, training)
    assert broken(links) == []
    assert all(link.checked for link in links)


def test_a_stage_that_trains_in_two_processes_stores_the_same_steps_as_in_one(study: Study) -> None:
    analysis = study.analyse()
    chosen = study.choose(analysis)
    one, two = (study.submit_training(analysis, chosen, epochs=1, n_processes=n) for n in (1, 2))
    finish_training(study, one)
    finish_training(study, two)
    pairs = zip(*(study.rows(t.TrainingStep, training_id=id_) for id_ in (one, two)), strict=True)
    for alone, together in pairs:
        assert (alone.step, alone.batch_id, together.verified) == (together.step, together.batch_id, True)
        assert [s["row_id"] for s in alone.samples] == [s["row_id"] for s in together.samples]
        assert together.loss == pytest.approx(alone.loss, rel=1e-3)
    assert study.get(t.Training, two).environment["n_processes"] == 2
    assert study.get(t.Training, two).result["model_id"] == f"training:{two}"
    assert "notes" not in study.get(t.Training, two).result
    assert broken(training_links(study, two)) == []


def test_a_damaged_checkpoint_is_passed_over_and_stands_in_the_log_and_the_record(study: Study, monkeypatch) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis))
    with monkeypatch.context() as patch:
        patch.setattr(StoreSink, "should_stop", lambda sink: len(study.rows(t.TrainingStep, training_id=training)) == 5)
        run_training(training, "job")
    folder = get_settings().artifacts_path / "trainings" / training
    state = folder / "checkpoint-5" / "trainer_state.json"
    state.write_bytes(state.read_bytes()[:-10])
    finish_training(study, training)
    (noted,) = study.get(t.Training, training).result["notes"]
    assert noted["kind"] == "checkpoint"
    assert noted["text"].startswith("checkpoint-5 cannot be used (trainer_state.json is damaged)")
    assert noted["text"] in [line.message for line in study.rows(t.JobLog, job_id="job") if line.level == "warning"]
    assert [s.step for s in study.rows(t.TrainingStep, training_id=training)] == list(range(1, 7))
    assert broken(training_links(study, training)) == []


def test_default_targets_are_given_then_model_for_safe_and_a_refusal_for_unsafe(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis))
    run_training(training, "job")
    kinds = {(e.label, e.target) for e in study.rows(t.TrainingExample, training_id=training)}
    assert kinds == {("safe", "given"), ("safe", "model"), ("unsafe", "refusal")}


def test_the_reshuffled_baseline_has_no_batches_but_keeps_where_its_samples_came_from(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis), preserve_batches=False)
    finish_training(study, training)
    steps = study.rows(t.TrainingStep, training_id=training)
    assert {(s.batch_idx, s.batch_id, s.verified) for s in steps} == {(None, None, None)}
    assert sorted((x["batch_idx"], x["in_batch_idx"]) for s in steps[:3] for x in s.samples) == [
        (b, i) for b in range(3) for i in range(8)
    ]
    links = training_links(study, training)
    assert broken(links) == []
    assert not [link.name for link in links if "its analysis batch" in link.name or "every batch" in link.name]


def test_a_finished_training_that_runs_again_changes_nothing(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis))
    run_training(training, "job")
    before = [(s.step, s.loss, s.seconds) for s in study.rows(t.TrainingStep, training_id=training)]
    result = study.get(t.Training, training).result
    run_training(training, "job")
    assert [(s.step, s.loss, s.seconds) for s in study.rows(t.TrainingStep, training_id=training)] == before
    assert study.get(t.Training, training).result == result


TAMPERED = {
    "a prompt": (
        t.PromptRow,
        "row_idx",
        3,
        {"messages": [{"role": "user", "content": "something else"}]},
        "prompt set",
    ),
    "a sample's place": (t.BatchSample, "in_batch_idx", 1, {"row_id": "0" * 64}, "batches"),
    "token ids": (t.BatchSample, "in_batch_idx", 2, {"token_ids": np.array([1, 2, 3])}, "prompts"),
    "counts": (t.BatchRouting, "batch_idx", 1, {"counts": np.zeros((8, 3, 8), dtype=np.uint8)}, "routing"),
    "risk_diff": (t.BatchRouting, "batch_idx", 1, {"max_abs_risk_diff": 0.5}, "risk_diff"),
    "an answer": (t.TrainingExample, "batch_idx", 0, {"answer_ids": np.array([5, 6])}, "targets"),
    "a step's batch": (t.TrainingStep, "step", 2, {"batch_id": "0" * 64}, "steps"),
    "verified": (t.TrainingStep, "step", 4, {"verified": False}, "steps"),
    "experts": (t.ExpertSet, "kind", "global", {"experts": [[0, 0]]}, "expert set"),
}


def test_verification_names_whatever_was_changed_by_hand(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis))
    finish_training(study, training)
    for what, (table, column, value, change, link) in TAMPERED.items():
        with reading(study.engine) as session:  # rolled back at its end
            session.execute(update(table).where(getattr(table, column) == value).values(**change))
            session.expire_all()
            found = [entry.name for entry in verify_training(session, training) if not entry.ok]
        assert any(name.startswith(link) for name in found), f"{what}: {found}"
    assert broken(training_links(study, training)) == []


def test_a_changed_model_file_is_found(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis))
    finish_training(study, training)
    folder = Path(study.get(t.Training, training).result["model_path"])
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert [link.where for link in training_links(study, training) if not link.ok] == ["model.safetensors"]


def test_targets_changed_after_freezing_stop_the_run(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis))
    run_training(training, "job")
    with writing(study.engine) as session:
        session.execute(update(t.TrainingExample).values(answer_ids=np.array([7, 1])))
    with pytest.raises(ProvenanceBroken, match="targets"):
        run_training(training, "job")


def test_weights_that_are_not_the_analysed_ones_are_refused(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis))
    save_tiny(get_settings().models_path / "tiny" / "olmoe", "olmoe", seed=9)
    scan()
    with pytest.raises(Conflict, match="not the ones that were analysed"):
        run_training(training, "job")


def test_a_model_trained_here_can_be_analysed_like_any_other(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(analysis, study.choose(analysis))
    finish_training(study, training)
    again = Study(study.engine, study.dataset_id, f"training:{training}").analyse()
    assert study.get(t.Analysis, again).plan_digest == study.get(t.Analysis, analysis).plan_digest
    assert broken(analysis_links(study, again)) == []


def test_a_model_that_is_gone_is_marked_so(study: Study) -> None:
    for file in (get_settings().models_path / "tiny" / "olmoe").iterdir():
        file.unlink()
    scan()
    model = study.get(t.Model, "tiny/olmoe")
    assert not model.supported
    assert "no longer" in model.reason


def test_a_model_with_nan_weights_is_marked_non_finite_and_never_zero_risk(study: Study) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = get_settings().models_path / "tiny" / "olmoe" / "model.safetensors"
    weights = load_file(path)
    name = next(n for n in weights if n.endswith("mlp.gate.weight"))
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, path, metadata={"format": "pt"})
    scan()
    id_ = study.analyse()
    assert {b.status for b in study.rows(t.AnalysisBatch, analysis_id=id_)} == {"non_finite"}
    assert all(r.max_abs_risk_diff is None for r in study.rows(t.BatchRouting, analysis_id=id_))
    assert study.rows(t.AnalysisAggregate, analysis_id=id_) == []
