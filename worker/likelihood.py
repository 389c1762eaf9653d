"""How likely a model finds given answers: for perplexity and multiple choice. Not covered: what the answers mean."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from worker.capture.padding import group_by_length, pad_rows, segments_of
from worker.models import LoadedModel
from worker.prompts import pad_id

Ids = NDArray[np.int32]
_TOKENS = {"cpu": 2048}
"""Most tokens of a forward pass; elsewhere 4096: every one of them has a row of the whole vocabulary."""


@torch.no_grad()
def negative_log_likelihoods(
    loaded: LoadedModel, prompts: Sequence[Ids], answers: Sequence[Ids]
) -> NDArray[np.float64]:
    """Return −log p(answer | prompt) of each pair, in nats: float64 [pair]. An empty answer has 0.

    The groups of the forward pass depend on the lengths only, so that a repeated call gives the same bits.
    """
    found = np.zeros(len(prompts), dtype=np.float64)
    rows = [np.concatenate([prompt, answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    loaded.model.train(False)
    for group in group_by_length([len(row) for row in rows], _TOKENS.get(loaded.device.type, 4096)):
        own = [rows[i] for i in group]
        segments = [segments_of(len(rows[i]), len(prompts[i])) for i in group]
        rectangle = pad_rows(own, segments, pad_id(loaded.tokenizer), loaded.device)
        logits = loaded.model(input_ids=rectangle.ids, attention_mask=rectangle.mask, use_cache=False).logits
        for place, i in enumerate(group):
            found[i] = _one(logits[place], rectangle.ids[place], len(prompts[i]), len(rows[i]))
    return found


def _one(logits: torch.Tensor, ids: torch.Tensor, start: int, stop: int) -> float:
    """Row t − 1 predicts token t. logits: [token, word]."""
    log_p = torch.log_softmax(logits[start - 1 : stop - 1].float(), dim=-1)
    return -float(log_p.gather(1, ids[start:stop, None]).double().sum())
