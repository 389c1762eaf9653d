"""One training sample, one training batch, and how a batch of samples becomes tensors.

A row, whatever holds it, has: `input_ids` (prompt + answer, unpadded), `prompt_length`, `batch_idx`, `batch_id`,
`in_batch_idx`, `label` (0 safe, 1 unsafe), `label_str`, `row_id`. Not covered: where rows come from (dataset.py),
order and ranks (sampling.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backend.domain.turns import Pair
from backend.domain.vocabulary import LABELS, Label

IGNORED = -100
"""Label of a token that stands outside the loss."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainExample:
    """One sample with its target. prompt_ids, answer_ids: int32 [token], unpadded; the answer has at least one token.

    prompt_digest: what the analysis stored for this sample; training must feed a prompt with this digest.
    row_id, label: of what is stored now. planned: (row id, label) of the frozen plan; None: the same.
    own: bool [prompt token], those that the analysis counted in scope `prompt`; None: all of them.
    """

    prompt_ids: NDArray[np.int32]
    answer_ids: NDArray[np.int32]
    batch_idx: int
    batch_id: str
    in_batch_idx: int
    label: Label
    row_id: str
    prompt_digest: str
    planned: tuple[str, Label] | None = None
    own: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TrainBatch:
    """One analysis batch as training uses it, samples in the planned order. pairs: which of them are counterparts."""

    batch_idx: int
    batch_id: str
    examples: tuple[TrainExample, ...]
    pairs: tuple[Pair, ...] = ()


class ExampleRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Train batches as a map-style data set of rows, in order."""

    def __init__(self, batches: Sequence[TrainBatch]) -> None:
        self.examples = tuple(example for batch in batches for example in batch.examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        e = self.examples[index]
        return {
            "input_ids": np.concatenate([e.prompt_ids, e.answer_ids]).astype(np.int64),
            "prompt_length": len(e.prompt_ids),
            "batch_idx": e.batch_idx,
            "batch_id": e.batch_id,
            "in_batch_idx": e.in_batch_idx,
            "label": LABELS.index(e.label),
            "label_str": str(e.label),
            "row_id": e.row_id,
        }


@dataclass(frozen=True, slots=True)
class SampleKey:
    """Which sample a row of a batch says it is."""

    batch_idx: int
    batch_id: str
    in_batch_idx: int
    label: Label
    row_id: str


@dataclass(frozen=True, slots=True)
class Collated:
    """What stands beside the tensors of a batch: its samples in order, the length of each one's answer in tokens."""

    samples: tuple[SampleKey, ...]
    answer_tokens: tuple[int, ...]


class BatchCollator:
    """Pads rows on the right into `input_ids`, `attention_mask`, `labels` [sample, token], and `batch` (Collated).

    `labels` holds the answer's ids and IGNORED for the prompt and the padding: nothing else enters the loss. An empty
    list of rows (a rank without a share) becomes one masked padding row and no samples.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the tensors of a batch of rows, in the order they come."""
        ids = [torch.as_tensor(row["input_ids"], dtype=torch.long) for row in rows]
        ids = ids or [torch.zeros(2, dtype=torch.long)]
        shape = (len(ids), max(len(row) for row in ids))
        input_ids, mask = torch.full(shape, self.pad_token_id), torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED)
        for i, tokens in enumerate(ids):
            input_ids[i, : len(tokens)], mask[i, : len(tokens)] = tokens, 1
        for i, row in enumerate(rows):
            start = int(row["prompt_length"])
            labels[i, start : len(ids[i])] = ids[i][start:]
        lengths = tuple(len(tokens) - int(row["prompt_length"]) for tokens, row in zip(ids, rows, strict=False))
        batch = Collated(tuple(map(sample_key, rows)), lengths)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels, "batch": batch}


def sample_key(row: Mapping[str, Any]) -> SampleKey:
    """Read which sample a row is."""
    return SampleKey(
        batch_idx=int(row["batch_idx"]),
        batch_id=str(row["batch_id"]),
        in_batch_idx=int(row["in_batch_idx"]),
        label=LABELS[int(row["label"])],
        row_id=str(row["row_id"]),
    )
