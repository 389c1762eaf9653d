"""One training run, from the store to the store: freeze the targets, train, record every step, register the model.

What the targets are stands in targets.py; what the training itself does in training.py, which knows nothing of tables.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from backend.domain.errors import Conflict, NotFound, ProvenanceBroken
from backend.domain.plan import BatchPlan, PlannedBatch
from backend.domain.turns import pairs_in
from backend.domain.vocabulary import Expert, Label
from backend.settings import Settings, get_settings
from backend.store import plans, writes
from backend.store import tables as t
from backend.store.checks import domain_row
from backend.store.engine import reading, shared_engine, writing
from worker import fence
from worker.adapters import ADAPTER_DIR, Adapter
from worker.checkpoints import tidy
from worker.durable import KEPT_CHECKPOINTS
from worker.examples import TrainBatch, TrainExample
from worker.launching import count_processes, launch, own_device
from worker.measuring import prompt_rows
from worker.micro_batches import give_memory_back
from worker.models import inspect_model
from worker.origin import origin_of
from worker.pausing import leave_if_asked
from worker.runs import TrainingResult, TrainingRun
from worker.scanning import choose_device, environment, model_row
from worker.store_sink import StoreSink
from worker.targets import analysed_samples, freeze_targets, frozen_examples
from worker.tracking import check_tools, tracking_of
from worker.training import train
from worker.turns import Routers

RUN_PARAMS = (
    "epochs",
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "lr_schedule",
    "warmup_steps",
    "seed",
    "shuffle_batches",
    "preserve_batches",
    "checkpoint_every",
)
_LAUNCH = ".launch"
"""Folder inside a run's folder where processes that train together leave their answers."""


def run_training(training_id: str, job_id: str) -> int:
    """Run a training to its end, from wherever an earlier process left it; return its number of steps."""
    settings = get_settings()
    engine = shared_engine(settings.tables_url)
    training, analysis, plan, model_path = _load(engine, training_id)
    check_tools(training.params.get("report_to", ()), settings)
    if not freeze_targets(engine, training, analysis, plan, model_path):
        return 0
    run = _run(engine, settings, training, analysis, plan, model_path)
    n = count_processes(training.params.get("n_processes"), choose_device(settings))
    tracking = tracking_of(engine, settings, training, run)
    with writing(engine) as session:
        where = environment(settings) | {"n_processes": n}
        progress = {"stage": "training", "done": _recorded_steps(session, training_id), "total": run.n_steps}
        writes.set_stage(session, t.Training, training_id, environment=where, **progress)
        if tracking is not None:
            tracking.say_where(session)
    sink = StoreSink(engine, training_id, job_id)
    if n == 1:
        result = train(run, sink, tracking)
    else:
        give_memory_back()  # of the model that wrote the targets
        sink.log(f"training in {n} processes; process 0 writes the records and the checkpoints")
        answer = launch("worker.rank", [*fence.own(), training_id, job_id], n, run.out_dir / _LAUNCH)
        result = TrainingResult.read(answer)
    if result.stopped:
        leave_if_asked()
    else:
        _keep(engine, settings, training, result)
        tidy(run.out_dir, run.keep_checkpoints)  # the model is there: what it could be made of again need not be
    return result.n_steps


def train_together(training_id: str, job_id: str) -> dict[str, Any]:
    """Be one of the processes that `run_training` started; return its TrainingResult as JSON."""
    settings = get_settings()
    engine = shared_engine(settings.tables_url)
    training, analysis, plan, model_path = _load(engine, training_id)
    run = _run(engine, settings, training, analysis, plan, model_path)
    tracking = tracking_of(engine, settings, training, run)
    return train(run, StoreSink(engine, training_id, job_id), tracking).write()


def _load(engine: Engine, training_id: str) -> tuple[t.Training, t.Analysis, BatchPlan, str]:
    with reading(engine) as session:
        training = session.get(t.Training, training_id)
        if training is None:
            raise NotFound("training", training_id)
        analysis = session.get_one(t.Analysis, training.analysis_id)
        model = session.get_one(t.Model, analysis.model_id)
        plan = plans.read(session, analysis.id)
    if model.weights_digest != analysis.model_digests["weights"]:
        raise Conflict(
            f"The weights of {analysis.model_id} are not the ones that were analysed. Restore them, or analyse again."
        )
    return training, analysis, plan, model.path


def _recorded_steps(session: Session, training_id: str) -> int:
    steps = select(func.max(t.TrainingStep.step)).where(t.TrainingStep.training_id == training_id)
    return session.scalar(steps) or 0


def _run(
    engine: Engine,
    settings: Settings,
    training: t.Training,
    analysis: t.Analysis,
    plan: BatchPlan,
    model_path: str,
) -> TrainingRun:
    answers = {(e.batch_idx, e.in_batch_idx): e for e in frozen_examples(engine, training.id)}
    in_turn = bool(training.params.get("routers"))
    with reading(engine) as session:
        origin = origin_of(session, training.id)
    return TrainingRun(
        model_path=model_path,
        batches=tuple(_batch(engine, analysis, batch, answers, with_pairs=in_turn) for batch in plan.batches),
        out_dir=settings.artifacts_path / "trainings" / training.id,
        experts=_experts(engine, training),
        mode=training.mode,
        routing=training.routing,
        dtype=analysis.params["dtype"],
        device=own_device(choose_device(settings)),
        allow_hub=settings.allow_hub,
        origin=origin,
        keep_checkpoints=training.params.get("keep_checkpoints", KEPT_CHECKPOINTS),  # of runs before it could be said
        micro_batch_size=training.params.get("micro_batch_size"),
        shard_weights=training.params.get("shard_weights", False),
        adapter=Adapter.of(training.params.get("adapter")),
        routers=Routers.of(training.params.get("routers")),
        **{name: training.params[name] for name in RUN_PARAMS},
    )


def _batch(
    engine: Engine,
    analysis: t.Analysis,
    batch: PlannedBatch,
    answers: Mapping[tuple[int, int], t.TrainingExample],
    *,
    with_pairs: bool,
) -> TrainBatch:
    """Return a batch as its rows are stored now, beside what the plan says of them: a step that differs is stopped."""
    samples = analysed_samples(engine, analysis.id, batch.batch_idx)
    rows = prompt_rows(engine, analysis.dataset_id, [planned.row_idx for planned in batch.samples])
    if len(samples) != len(batch.samples):
        raise ProvenanceBroken(
            f"Batch {batch.batch_idx} was planned with {len(batch.samples)} samples; {len(samples)} were analysed."
        )
    examples = tuple(
        TrainExample(
            prompt_ids=sample.token_ids.astype(np.int32),
            answer_ids=answers[batch.batch_idx, sample.in_batch_idx].answer_ids.astype(np.int32),
            batch_idx=batch.batch_idx,
            batch_id=batch.batch_id,
            in_batch_idx=sample.in_batch_idx,
            label=Label(sample.label),
            row_id=domain_row(rows[planned.row_idx]).digest if sample.row_id == planned.row_id else sample.row_id,
            prompt_digest=sample.prompt_digest,
            planned=(planned.row_id, planned.label),
            own=sample.own.astype(bool) if with_pairs and sample.own is not None else None,
        )
        for planned, sample in zip(batch.samples, samples, strict=True)
    )
    pairs = pairs_in((s.in_batch_idx, s.label, rows[s.row_idx].group) for s in batch.samples) if with_pairs else ()
    return TrainBatch(batch.batch_idx, batch.batch_id, examples, pairs)


def _experts(engine: Engine, training: t.Training) -> list[Expert] | dict[str, list[Expert]] | None:
    if training.expert_set_id is None:
        return None
    with reading(engine) as session:
        chosen = session.get_one(t.ExpertSet, training.expert_set_id)
    if chosen.per_batch is None:
        return [(layer, expert) for layer, expert in chosen.experts]
    return {key: [(layer, expert) for layer, expert in pairs] for key, pairs in chosen.per_batch.items()}


def _keep(engine: Engine, settings: Settings, training: t.Training, result: TrainingResult) -> None:
    """Register the trained model as `training:<id>` and store where it lies and what its manifest says."""
    assert result.model_dir is not None
    model = inspect_model(result.model_dir, model_id=f"training:{training.id}")
    with writing(engine) as session:
        kept = session.get_one(t.Training, training.id).result  # what the run noted
        untrained = session.get_one(t.Model, session.get_one(t.Analysis, training.analysis_id).model_id)
        writes.record_model(session, model_row(model, environment(settings)["host"], untrained.engines))
        writes.set_stage(
            session,
            t.Training,
            training.id,
            result=kept
            | {
                "model_id": model.id,
                "model_path": str(result.model_dir),
                "manifest_sha256": result.manifest_sha256,
                "weights_digest": model.weights_digest,
                "masked_layers": list(result.masked_layers),
                "free_layers": list(result.free_layers),
            }
            | _adapter(result),
        )


def _adapter(result: TrainingResult) -> dict[str, Any]:
    """Return where the adapter lies, if one was trained: beside the model that it was merged into."""
    if result.adapter_sha256 is None or result.model_dir is None:
        return {}
    where = str(result.model_dir.parent / ADAPTER_DIR)
    return {"adapter_path": where, "adapter_manifest_sha256": result.adapter_sha256}
