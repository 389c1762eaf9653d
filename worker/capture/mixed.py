"""`process_mixed_batches`, as users of the original scripts know it: two lists of prompts in, measured batches out.

Not covered: storing anything. The services measure through worker/measuring.py; this is for notebooks and scripts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.domain.batches import plan_batches, plan_rows
from backend.domain.measured import MeasuredBatch
from backend.domain.plan import PlannedBatch, PlanSettings, Strategy
from backend.domain.prompts import LabelMeaning, Message, PromptRow, PromptSet, RowOrigin, build_prompt_set
from backend.domain.vocabulary import Label, Scope
from worker.capture.generation import generate_answers
from worker.capture.protocol import SampleInput
from worker.capture.transformers import TransformersEngine
from worker.models import LoadedModel, as_loaded
from worker.prompts import decode_answer
from worker.windows import WINDOW

Prompt = str | Sequence[dict[str, str]]


def process_mixed_batches(
    llm: LoadedModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    safe_prompts: Sequence[Prompt],
    unsafe_prompts: Sequence[Prompt],
    batch_size: int = 16,
    safe_ratio: float = 0.5,
    *,
    scope: Scope | str = Scope.PROMPT,
    max_length: int = 512,
    max_new_tokens: int = 0,
    system_prompt: str | None = None,
    exclude_template_tokens: bool = False,
) -> list[dict[str, Any]]:
    """Measure prompts in mixed batches, safe samples first, in the order they are listed.

    Prompts are texts or chats (`[{"role", "content"}]`); a prompt given twice counts once. Each batch is a dict:
    `batch_idx`, `batch_outputs` (prompt, label, batch_idx, in_batch_idx, generated_text or None), `safe_indices` and
    `unsafe_indices` (positions in `batch_outputs`), `safe_routings` and `unsafe_routings` (per sample int32 counts
    [site, expert]), `layers` (the layer number of each site), `non_finite` (positions whose routing means nothing).
    With `max_new_tokens` the model answers greedily, and `scope="response"` counts the answer's tokens, as the
    original scripts did; with `exclude_template_tokens`, scope `prompt` leaves out what the chat template adds.
    `calculate_risk_diff_per_batch` takes what comes back. Raises PlanImpossible, ImportRefused,
    NotSupported.
    """
    loaded = llm if isinstance(llm, LoadedModel) else as_loaded(llm, tokenizer)
    prompts = _prompt_set(safe_prompts, unsafe_prompts)
    settings = PlanSettings(batch_size=batch_size, safe_ratio=safe_ratio, strategy=Strategy.AS_LISTED)
    plan = plan_batches(plan_rows(prompts), prompts.sha256, settings)
    engine = TransformersEngine(
        loaded,
        max_length=max_length,
        system_prompt=system_prompt,
        exclude_template_tokens=exclude_template_tokens,
        scopes=[Scope(scope)],
    )
    result = []
    for start in range(0, len(plan.batches), WINDOW):
        window = plan.batches[start : start + WINDOW]
        inputs = [_inputs(engine, prompts, batch, max_new_tokens) for batch in window]
        for batch, given, measured in zip(window, inputs, engine.measure(window, inputs), strict=True):
            result.append(_as_dict(loaded, prompts, batch, given, measured, Scope(scope)))
    return result


def _prompt_set(safe: Sequence[Prompt], unsafe: Sequence[Prompt]) -> PromptSet:
    both = ((Label.SAFE, safe), (Label.UNSAFE, unsafe))
    rows = [
        (RowOrigin(f"{label}_prompts", i), PromptRow(_messages(prompt), label))
        for label, prompts in both
        for i, prompt in enumerate(prompts, start=1)
    ]
    return build_prompt_set(rows, LabelMeaning("other", "listed as safe", "listed as unsafe"))


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    return tuple(Message(role=m["role"], content=m["content"]) for m in prompt)


def _inputs(
    engine: TransformersEngine, prompts: PromptSet, batch: PlannedBatch, max_new_tokens: int
) -> list[SampleInput]:
    chats = [prompts.rows[s.row_idx].messages for s in batch.samples]
    answers: Sequence[NDArray[np.int32] | None] = [None] * len(chats)
    if max_new_tokens:
        answers = generate_answers(engine.loaded, [engine.encode(chat).ids for chat in chats], max_new_tokens)
    return [
        SampleInput(s.in_batch_idx, s.row_idx, s.row_id, s.label, chat, answer)
        for s, chat, answer in zip(batch.samples, chats, answers, strict=True)
    ]


def _as_dict(
    loaded: LoadedModel,
    prompts: PromptSet,
    batch: PlannedBatch,
    given: Sequence[SampleInput],
    measured: MeasuredBatch,
    scope: Scope,
) -> dict[str, Any]:
    counts = measured.routing[scope].counts
    outputs = [
        {
            "prompt": prompts.rows[s.row_idx].text,
            "label": str(s.label),
            "batch_idx": batch.batch_idx,
            "in_batch_idx": s.in_batch_idx,
            "generated_text": decode_answer(loaded.tokenizer, s.answer_ids) if s.answer_ids is not None else None,
        }
        for s in given
    ]
    at = {label: [i for i, s in enumerate(given) if s.label is label] for label in Label}
    return {
        "batch_idx": batch.batch_idx,
        "batch_outputs": outputs,
        "safe_indices": at[Label.SAFE],
        "unsafe_indices": at[Label.UNSAFE],
        "safe_routings": [counts[i] for i in at[Label.SAFE]],
        "unsafe_routings": [counts[i] for i in at[Label.UNSAFE]],
        "layers": [site.spec.layer for site in loaded.sites],
        "non_finite": [i for i, s in enumerate(measured.samples) if s.non_finite],
    }
