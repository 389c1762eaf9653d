"""What an engine measured: per batch its samples as they were fed, and per token scope what the experts received.

Not covered: rates and differences (risk.py), how the numbers came about (worker/capture).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.vocabulary import Label, Scope


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredSample:
    """One sample as it was given to the model.

    token_ids: int32 [token] the prompt as fed, unpadded, after the cut: what `prompt_digest` is made of and what
    training puts in front of the answer; tokens: its length; truncated: the prompt was longer than `max_length`;
    non_finite: the router gave a NaN or an infinity on one of its tokens, so its counts mean nothing; own: bool
    [token], which tokens count in scope `prompt` where the chat template's are left out; None: all of them.
    """

    in_batch_idx: int
    row_idx: int
    row_id: str
    label: Label
    prompt_digest: str
    token_ids: NDArray[np.int32]
    tokens: int
    truncated: bool
    non_finite: bool
    own: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ScopeRouting:
    """What the experts received from the tokens of one scope; samples in the batch's own order.

    tokens: int64 [sample] counted tokens. counts: int32 [sample, site, expert], so that the sum over experts is
    top_k * tokens; sites with fewer experts are zero beyond their own. weights: float32 [label, site, expert], sums
    of routing weights, each token's own in units of 1/4096; None where the engine gives none.
    """

    tokens: NDArray[np.int64]
    counts: NDArray[np.int32]
    weights: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredBatch:
    """One planned batch, measured. `samples` keeps the planned order."""

    batch_idx: int
    batch_id: str
    samples: tuple[MeasuredSample, ...]
    routing: Mapping[Scope, ScopeRouting]
