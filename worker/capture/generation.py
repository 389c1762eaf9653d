"""Greedy answers of a model to its prompts, grouped by length. Not covered: sampling (nothing here is random)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, PreTrainedModel

from worker.capture.padding import group_by_length, pad_rows, segments_of
from worker.models import LoadedModel
from worker.prompts import pad_id

Ids = NDArray[np.int32]


def generate_answers(
    loaded: LoadedModel, prompts: Sequence[Ids], max_new_tokens: int, *, micro_batch_tokens: int | None = None
) -> list[Ids]:
    """Return the greedy answer to each prompt: int32 [token], its end token included when the model produced one.

    prompts: int32 [token], unpadded. Always the most likely next token, whatever the model's own generation settings
    say; an answer ends after an end token or `max_new_tokens`.
    """
    if max_new_tokens < 1:
        return [np.zeros(0, dtype=np.int32) for _ in prompts]
    budget = micro_batch_tokens or (4096 if loaded.device.type == "cpu" else 65_536)
    answers: dict[int, Ids] = {}
    loaded.model.train(False)
    for group in group_by_length([len(p) + max_new_tokens for p in prompts], budget):
        answers |= zip(group, _generate(loaded, [prompts[i] for i in group], max_new_tokens), strict=True)
    return [answers[i] for i in range(len(prompts))]


def end_ids(loaded: LoadedModel) -> tuple[int, ...]:
    """Return the ids that end an answer: those of the model's generation settings and the tokenizer's own."""
    config = loaded.model.generation_config
    stated = config.eos_token_id if config is not None else None
    found = stated if isinstance(stated, list) else [stated]
    return tuple(sorted({int(i) for i in [*found, loaded.tokenizer.eos_token_id] if i is not None}))


@torch.no_grad()
def _generate(loaded: LoadedModel, prompts: Sequence[Ids], max_new_tokens: int) -> list[Ids]:
    pad, ends = pad_id(loaded.tokenizer), end_ids(loaded)
    # Padding stands on the left, so that every prompt ends where its answer begins.
    segments = [segments_of(len(p), len(p)) for p in prompts]
    rectangle = pad_rows(prompts, segments, pad, loaded.device, left=True)
    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=list(ends) or None, pad_token_id=pad
    )
    generate: Any = loaded.model.generate
    with _own_settings_away(loaded.model):
        out = generate(input_ids=rectangle.ids, attention_mask=rectangle.mask, generation_config=greedy)
    new = out[:, rectangle.ids.shape[1] :].cpu().numpy().astype(np.int32)
    return [_up_to_end(row, ends) for row in new]


@contextmanager
def _own_settings_away(model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's generation settings: transformers fills them in wherever a request leaves one open, and a
    repetition penalty, say, would bend a greedy answer.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = own


def _up_to_end(row: Ids, ends: Sequence[int]) -> Ids:
    found = np.flatnonzero(np.isin(row, ends))
    return row[: found[0] + 1] if len(found) else row
