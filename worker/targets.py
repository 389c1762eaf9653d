"""The targets of a training: what each sample's answer shall be, made once, frozen batch by batch, never made again.

Their digest is stored with the training and checked when it is resumed. Not covered: what is learned from them
(tuning.py).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from backend.domain.errors import InvalidInput, ProvenanceBroken
from backend.domain.plan import BatchPlan, PlannedBatch
from backend.domain.vocabulary import Label
from backend.settings import get_settings
from backend.store import tables as t
from backend.store import writes
from backend.store.checks_training import frozen_digest
from backend.store.engine import reading, writing
from worker.capture.generation import generate_answers
from worker.measuring import check_model, prompt_rows, still_wanted
from worker.models import LoadedModel, load_model
from worker.prompts import answer_is_cut, decode_answer, encode_answer
from worker.scanning import choose_device


def freeze_targets(
    engine: Engine, training: t.Training, analysis: t.Analysis, plan: BatchPlan, model_path: str
) -> bool:
    """Store the answer of every sample that has none yet; then freeze, or check, the digest over all of them.

    False if the training is not wanted any more.
    """
    missing = [b for b in plan.batches if b.batch_idx not in _frozen_batches(engine, training.id)]
    if missing:
        settings = get_settings()
        loaded = load_model(
            model_path, dtype=analysis.params["dtype"], device=choose_device(settings), allow_hub=settings.allow_hub
        )
        check_model(analysis, loaded)
        for number, batch in enumerate(missing):
            if not still_wanted(engine, t.Training, training.id):
                return False
            rows = _targets(engine, training, analysis, batch, loaded)
            with writing(engine) as session:
                writes.record_examples(session, training.id, rows)
                writes.set_stage(
                    session, t.Training, training.id, stage="writing targets", done=number + 1, total=len(missing)
                )
    digest = frozen_digest(frozen_examples(engine, training.id))
    if training.target_digest not in (None, digest):
        raise ProvenanceBroken("The stored targets are not the ones this training froze: their digest differs.")
    with writing(engine) as session:
        session.get_one(t.Training, training.id).target_digest = digest
    return True


def _frozen_batches(engine: Engine, training_id: str) -> set[int]:
    with reading(engine) as session:
        return set(
            session.scalars(
                select(t.TrainingExample.batch_idx).where(t.TrainingExample.training_id == training_id).distinct()
            )
        )


def frozen_examples(engine: Engine, training_id: str) -> list[t.TrainingExample]:
    """Return the frozen targets of a training, in the order of batches and samples."""
    with reading(engine) as session:
        return list(
            session.scalars(
                select(t.TrainingExample)
                .where(t.TrainingExample.training_id == training_id)
                .order_by(t.TrainingExample.batch_idx, t.TrainingExample.in_batch_idx)
            )
        )


def analysed_samples(engine: Engine, analysis_id: str, batch_idx: int) -> list[t.BatchSample]:
    """Return the samples of an analysis batch as they were measured, in order."""
    with reading(engine) as session:
        return list(
            session.scalars(
                select(t.BatchSample)
                .where(t.BatchSample.analysis_id == analysis_id, t.BatchSample.batch_idx == batch_idx)
                .order_by(t.BatchSample.in_batch_idx)
            )
        )


def target_kind(label: Label, wanted: str, response: str | None) -> str:
    """Return given, model or refusal: what `default` means for a sample is the row's answer, else by its label."""
    if wanted != "default":
        return wanted
    if response:
        return "given"
    return "model" if label is Label.SAFE else "refusal"


def _targets(
    engine: Engine, training: t.Training, analysis: t.Analysis, batch: PlannedBatch, loaded: LoadedModel
) -> list[dict[str, Any]]:
    params: Mapping[str, Any] = training.params
    rows = prompt_rows(engine, analysis.dataset_id, [s.row_idx for s in batch.samples])
    samples = analysed_samples(engine, analysis.id, batch.batch_idx)
    kinds = [target_kind(Label(s.label), params["targets"][s.label], rows[s.row_idx].response) for s in samples]
    own = [s for s, kind in zip(samples, kinds, strict=True) if kind == "model"]
    limit = params["max_answer_length"]
    generated = dict(
        zip(
            [s.in_batch_idx for s in own],
            generate_answers(loaded, [s.token_ids.astype(np.int32) for s in own], limit) if own else [],
            strict=True,
        )
    )
    return [
        _target(sample, kind, rows[sample.row_idx].response, generated.get(sample.in_batch_idx), params, loaded)
        for sample, kind in zip(samples, kinds, strict=True)
    ]


def _target(
    sample: t.BatchSample,
    kind: str,
    response: str | None,
    generated: NDArray[np.int32] | None,
    params: Mapping[str, Any],
    loaded: LoadedModel,
) -> dict[str, Any]:
    limit = params["max_answer_length"]
    if kind == "model":
        assert generated is not None
        ids = generated
        answer, cut = decode_answer(loaded.tokenizer, ids), bool(ids[-1] != loaded.tokenizer.eos_token_id)
    else:
        given = response if kind == "given" else params["refusal_text"]
        if not given:
            raise InvalidInput(
                f"Sample {sample.in_batch_idx} of batch {sample.batch_idx} has no response, but the {sample.label} "
                "targets are `given`. Choose `model` or `refusal`, or import the prompts with their responses."
            )
        answer, cut = given, answer_is_cut(loaded.tokenizer, given, limit)
        ids = encode_answer(loaded.tokenizer, given, limit)
    return {
        "batch_idx": sample.batch_idx,
        "in_batch_idx": sample.in_batch_idx,
        "row_id": sample.row_id,
        "label": sample.label,
        "target": kind,
        "prompt_digest": sample.prompt_digest,
        "answer": answer,
        "answer_ids": ids,
        "cut": cut,
    }
