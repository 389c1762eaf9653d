"""Adapters and router steps through the store: what is left is a model like any other, and its chain holds."""

from pathlib import Path

from backend.store import tables as t
from backend.store.engine import writing
from tests.worker.study import Study
from tests.worker.test_study import analysis_links, broken, finish_training, training_links


def test_a_model_trained_with_an_adapter_is_measured_again_and_both_folders_are_verified(study: Study) -> None:
    analysis = study.analyse()
    training = study.submit_training(
        analysis, study.choose(analysis), epochs=1, adapter={"rank": 2, "alpha": 4.0}, learning_rate=0.1
    )
    finish_training(study, training)
    result = study.get(t.Training, training).result
    assert broken(training_links(study, training)) == []
    again = Study(study.engine, study.dataset_id, result["model_id"])
    measured = again.analyse()
    assert study.get(t.Analysis, measured).plan_digest == study.get(t.Analysis, analysis).plan_digest
    assert broken(analysis_links(study, measured)) == []
    counts = [[r.counts.tolist() for r in study.rows(t.BatchRouting, analysis_id=id_)] for id_ in (analysis, measured)]
    assert counts[0] != counts[1]
    adapter = Path(result["adapter_path"]) / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"x")
    assert [line.split(": ")[2] for line in broken(training_links(study, training))] == [f"adapter/{adapter.name}"]


def test_router_steps_are_stored_with_their_loss_and_verify_knows_whose_turn_it_was(study: Study) -> None:
    analysis = study.analyse(strategy="paired", exclude_template_tokens=True)
    training = study.submit_training(analysis, study.choose(analysis), routers={"learning_rate": None})
    finish_training(study, training)
    steps = study.rows(t.TrainingStep, training_id=training)
    assert [s.kind for s in steps] == ["experts", "routers", "experts", "routers", "experts", "routers"]
    assert all(s.verified and s.consistency_loss > 0 for s in steps)
    assert broken(training_links(study, training)) == []
    with writing(study.engine) as session:  # two batches mixed, and no word of a batch: still every sample once
        first, second = (session.get_one(t.TrainingStep, (training, n)) for n in (1, 2))
        kept = [(step, step.samples, step.batch_idx, step.batch_id) for step in (first, second)]
        first.samples, second.samples = [second.samples[0], *first.samples[1:]], [first.samples[0], *second.samples[1:]]
        for step in (first, second):
            step.batch_idx = step.batch_id = step.verified = None
    (line,) = broken(training_links(study, training))
    assert line == "steps: each saw exactly its analysis batch: step 1, whether it is a batch: True != False"
    with writing(study.engine) as session:
        for step, samples, batch_idx, batch_id in kept:
            own = session.get_one(t.TrainingStep, (training, step.step))
            own.samples, own.batch_idx, own.batch_id, own.verified = samples, batch_idx, batch_id, True
    with writing(study.engine) as session:
        session.get_one(t.TrainingStep, (training, 2)).kind = "experts"
    assert broken(training_links(study, training)) == [
        "steps: each saw exactly its analysis batch: step 2, what it taught: routers != experts"
    ]
