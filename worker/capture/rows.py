"""What every engine does around its forward pass: samples to rows of token ids before it, rows to batches after it.

Not covered: running the model (transformers.py, vllm.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.errors import InvalidInput
from backend.domain.measured import MeasuredBatch, MeasuredSample, ScopeRouting
from backend.domain.prompts import Message
from backend.domain.provenance import prompt_digest
from backend.domain.vocabulary import LABELS, Scope, Site
from worker.capture.padding import segments_of
from worker.capture.protocol import BatchKey, RoutingUnreadable, SampleInput, TokenRouting, Words
from worker.capture.tap import N_COUNTED, Segment
from worker.prompts import EncodedPrompt, encode_prompt

SEGMENT_OF = {Scope.PROMPT: Segment.PROMPT, Scope.LAST: Segment.LAST, Scope.RESPONSE: Segment.RESPONSE}
"""Where a scope's tokens stand; scope `prompt` has the last prompt token too, where that is one of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One sample as it goes through the model: prompt ids and, where responses count, all answer ids but the last.

    The last one is never fed: a model that generates it stops there, so it has no routing in any engine.
    """

    prompt: EncodedPrompt
    ids: NDArray[np.int32]

    @property
    def segments(self) -> NDArray[np.int8]:
        """Return what each token is: int8 [token]."""
        return segments_of(len(self.ids), len(self.prompt.ids), self.prompt.own)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each counted segment: int64 [segment]."""
        return np.bincount(self.segments, minlength=N_COUNTED)[:N_COUNTED].astype(np.int64)

    @property
    def last_is_own(self) -> bool:
        """Return whether the last prompt token counts in scope `prompt`."""
        return self.prompt.own is None or bool(self.prompt.own[-1])

    def in_scope(self, scope: Scope) -> NDArray[np.bool_]:
        """Return which tokens a scope counts: bool [token]."""
        counted: NDArray[np.bool_] = self.segments == SEGMENT_OF[scope]
        if scope is Scope.PROMPT:
            counted[len(self.prompt.ids) - 1] = self.last_is_own
        return counted


@dataclass(frozen=True, slots=True, eq=False)
class Routed:
    """A window's routing. tokens: [row, segment]; counts, weights: [row, segment, site, expert]; finite: [row].

    Segments are the counted ones alone.
    """

    tokens: NDArray[np.int64]
    counts: NDArray[np.int32]
    weights: NDArray[np.float32] | None
    finite: NDArray[np.bool_]


def encode_known(words: Words, vocabulary: int, messages: Sequence[Message], **settings: Any) -> EncodedPrompt:
    """Return a prompt as it is fed. Raises InvalidInput where the model, which knows `vocabulary` tokens, cannot.

    settings: those of `encode_prompt`.
    """
    prompt = encode_prompt(words.tokenizer, messages, **settings)
    if prompt.ids.max() >= vocabulary:
        raise InvalidInput(
            f"The tokenizer makes the token {prompt.ids.max()}, but the model knows {vocabulary} tokens only: "
            "they do not belong together."
        )
    return prompt


def row_of(prompt: EncodedPrompt, sample: SampleInput, scopes: Sequence[Scope]) -> Row:
    """Return a sample's row: its answer is part of it only where responses are counted."""
    if Scope.RESPONSE not in scopes or sample.answer_ids is None:
        return Row(prompt, prompt.ids)
    return Row(prompt, np.concatenate([prompt.ids, sample.answer_ids[:-1].astype(np.int32)]))


def token_routing(place: int, row: Row, chosen: Sequence[NDArray[np.integer]], scopes: Sequence[Scope]) -> TokenRouting:
    """Return what an observer sees of a row. chosen: per site, [token, k]."""
    return TokenRouting(place, row.ids, {scope: row.in_scope(scope) for scope in scopes}, chosen)


def check_sums(routed: Routed, sites: Sequence[Site]) -> None:
    """Raises RoutingUnreadable unless every site received top_k indices per token."""
    top_k = np.array([site.top_k for site in sites])
    wrong = routed.counts.sum(axis=-1, dtype=np.int64) != routed.tokens[..., None] * top_k
    if wrong.any():
        row, _, site = np.argwhere(wrong)[0]
        raise RoutingUnreadable(
            f"Sample {row} of the window: the experts at {sites[site].site} did not receive "
            f"{top_k[site]} indices per token. The router sends tokens to experts the model does not hold."
        )


def as_batches(
    window: Sequence[BatchKey],
    inputs: Sequence[Sequence[SampleInput]],
    rows: Sequence[Row],
    routed: Routed,
    words: Words,
    scopes: Sequence[Scope],
) -> list[MeasuredBatch]:
    """Put the rows of a window, in their order, back into its batches."""
    measured, start = [], 0
    for key, batch in zip(window, inputs, strict=True):
        here = slice(start, start + len(batch))
        part = _part(routed, here)
        labels = np.array([LABELS.index(sample.label) for sample in batch])
        samples = tuple(
            _sample(s, row, words, finite=bool(ok)) for s, row, ok in zip(batch, rows[here], part.finite, strict=True)
        )
        last_is_own = np.array([row.last_is_own for row in rows[here]])
        routing = {scope: _scope_routing(part, scope, last_is_own, labels) for scope in scopes}
        measured.append(MeasuredBatch(key.batch_idx, key.batch_id, samples, routing))
        start += len(batch)
    return measured


def _sample(sample: SampleInput, row: Row, words: Words, *, finite: bool) -> MeasuredSample:
    ids = row.prompt.ids
    return MeasuredSample(
        in_batch_idx=sample.in_batch_idx,
        row_idx=sample.row_idx,
        row_id=sample.row_id,
        label=sample.label,
        prompt_digest=prompt_digest(words.tokenizer_digest, words.template_digest, ids),
        token_ids=ids,
        tokens=len(ids),
        truncated=row.prompt.truncated,
        non_finite=not finite,
        own=row.prompt.own,
    )


def _part(routed: Routed, here: slice) -> Routed:
    weights = routed.weights[here] if routed.weights is not None else None
    return Routed(routed.tokens[here], routed.counts[here], weights, routed.finite[here])


def _scope_routing(
    routed: Routed, scope: Scope, last_is_own: NDArray[np.bool_], labels: NDArray[np.int64]
) -> ScopeRouting:
    """Add up what belongs to a scope; weights are summed over the samples of each label, in the batch's order."""

    def of_scope(values: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
        """[sample, segment, ...] -> [sample, ...]"""
        total = values[:, SEGMENT_OF[scope]].astype(dtype)
        if scope is Scope.PROMPT and last_is_own.all():
            total += values[:, Segment.LAST]
        elif scope is Scope.PROMPT:
            total[last_is_own] += values[last_is_own, Segment.LAST]
        return total

    weights = None
    if routed.weights is not None:
        per_sample = of_scope(routed.weights, np.float64)  # [sample, site, expert]
        by_label = [per_sample[labels == i].sum(axis=0) for i in range(len(LABELS))]
        weights = np.stack(by_label).astype(np.float32)
    return ScopeRouting(of_scope(routed.tokens, np.int64), of_scope(routed.counts, np.int32), weights)
