"""Answers to the samples of an analysis: given by their rows, or generated greedily; made once, stored by batch."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, select

from backend.domain.plan import PlannedBatch
from backend.domain.prompts import Message
from backend.store import tables as t
from backend.store import writes
from backend.store.engine import insist, reading
from worker.capture.protocol import CaptureEngine, Words
from worker.prompts import decode_answer, encode_answer, encode_prompt

Place = tuple[int, int]
"""(batch_idx, in_batch_idx)"""


def answers_for(
    engine: Engine,
    analysis: t.Analysis,
    window: Sequence[PlannedBatch],
    rows: Mapping[int, t.PromptRow],
    capture: CaptureEngine,
) -> dict[Place, NDArray[Any]]:
    """Return the token ids of each sample's answer, with the end-of-text token. Samples without an answer are absent.

    With `max_new_tokens` every answer is the model's own; without it, the answer that its row gives.
    """
    params = analysis.params
    kind = "model" if params["max_new_tokens"] else "given"
    found: dict[Place, NDArray[Any]] = {}
    for batch in window:
        stored = _stored(engine, analysis.id, batch.batch_idx, kind)
        if not stored:
            if kind == "model":
                new = _generate(batch, rows, capture, params)
            else:
                new = _given(batch, rows, capture.words, params["max_length"])
            insist(engine, partial(writes.record_answers, analysis_id=analysis.id, rows=new))
            stored = _stored(engine, analysis.id, batch.batch_idx, kind)
        found |= stored
    return found


def _stored(engine: Engine, analysis_id: str, batch_idx: int, kind: str) -> dict[Place, NDArray[Any]]:
    here = (t.Answer.analysis_id == analysis_id, t.Answer.batch_idx == batch_idx, t.Answer.kind == kind)
    rows = insist(engine, lambda session: list(session.scalars(select(t.Answer).where(*here))), reading)
    return {(row.batch_idx, row.in_batch_idx): row.token_ids for row in rows}


def _row(
    batch: PlannedBatch, in_batch_idx: int, kind: str, text: str, ids: Sequence[int] | NDArray[Any]
) -> dict[str, Any]:
    return {
        "batch_idx": batch.batch_idx,
        "in_batch_idx": in_batch_idx,
        "kind": kind,
        "text": text,
        "token_ids": np.asarray(ids, dtype=np.int32),
    }


def _given(batch: PlannedBatch, rows: Mapping[int, t.PromptRow], words: Words, max_length: int) -> list[dict[str, Any]]:
    return [
        _row(batch, s.in_batch_idx, "given", text, encode_answer(words.tokenizer, text, max_length))
        for s in batch.samples
        if (text := rows[s.row_idx].response)
    ]


def _generate(
    batch: PlannedBatch, rows: Mapping[int, t.PromptRow], capture: CaptureEngine, params: Mapping[str, Any]
) -> list[dict[str, Any]]:
    tokenizer = capture.words.tokenizer
    prompts = [
        encode_prompt(
            tokenizer,
            messages_of(rows[s.row_idx]),
            system_prompt=params["system_prompt"],
            max_length=params["max_length"],
        ).ids
        for s in batch.samples
    ]
    answers = capture.answers(prompts, params["max_new_tokens"])
    return [
        _row(batch, s.in_batch_idx, "model", decode_answer(tokenizer, ids), ids)
        for s, ids in zip(batch.samples, answers, strict=True)
    ]


def messages_of(row: t.PromptRow) -> tuple[Message, ...]:
    """Return the messages of a stored prompt row."""
    return tuple(Message(role=m["role"], content=m["content"]) for m in row.messages)
