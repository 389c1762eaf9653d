"""Rows of different lengths as one rectangle, and which rows go through the model together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.capture.tap import Segment

MAX_ROWS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Rectangle:
    """Padded rows. ids, mask, positions, segments: int64 [row, token] on the device."""

    ids: Tensor
    mask: Tensor
    positions: Tensor
    segments: Tensor


def pad_rows(
    rows: Sequence[NDArray[np.int32]],
    segments: Sequence[NDArray[np.int8]],
    pad: int,
    device: torch.device,
    *,
    left: bool = False,
) -> Rectangle:
    """Pad rows of token ids on one side. segments: int8 [token] of each row, what its tokens are."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    positions = np.zeros_like(ids)
    padded = np.full_like(ids, int(Segment.NOTHING))
    for i, (row, own) in enumerate(zip(rows, segments, strict=True)):
        start = width - len(row) if left else 0
        here = slice(start, start + len(row))
        ids[i, here], mask[i, here], positions[i, here], padded[i, here] = row, 1, np.arange(len(row)), own
    return Rectangle(*(torch.from_numpy(a).to(device) for a in (ids, mask, positions, padded)))


def segments_of(n: int, n_prompt: int, own: NDArray[np.bool_] | None = None) -> NDArray[np.int8]:
    """Return int8 [token], what the n tokens of a row are, of which the first n_prompt are its prompt.

    own: bool [prompt token], those that count in scope `prompt`; None: all do. The last prompt token is always LAST.
    """
    segments = np.full(n, int(Segment.RESPONSE), dtype=np.int8)
    segments[:n_prompt] = (
        int(Segment.PROMPT) if own is None else np.where(own, int(Segment.PROMPT), int(Segment.TEMPLATE))
    )
    segments[n_prompt - 1] = int(Segment.LAST)
    return segments


def group_by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield groups of positions, longest rows first, so that rows x longest stays within the budget of tokens.

    A row longer than the budget goes alone. Equal lengths keep their order: the groups depend on the lengths only.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    group: list[int] = []
    for i in order:
        if group and ((len(group) + 1) * lengths[group[0]] > budget or len(group) >= MAX_ROWS):
            yield group
            group = []
        group.append(i)
    if group:
        yield group
