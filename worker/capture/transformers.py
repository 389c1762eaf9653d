"""The transformers engine: a window of batches in, per-sample expert counts out.

For the forward pass, samples of a window are grouped by length: the batch is bookkeeping there, and sacred everywhere
else. No language-model head is run and nothing after the last router. After: Routing, domain.md, Data 3.
Not covered: shared experts (always on), expert-parallel ranks, generating answers (generation.py).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from backend.domain.measured import MeasuredBatch
from backend.domain.prompts import Message
from backend.domain.vocabulary import Scope
from worker.capture.generation import generate_answers
from worker.capture.padding import group_by_length, pad_rows
from worker.capture.protocol import BatchKey, EngineRequest, Observer, SampleInput, Words
from worker.capture.rows import Routed, Row, as_batches, check_sums, encode_known, row_of, token_routing
from worker.capture.tap import N_COUNTED, RoutingTap, Tapped
from worker.models import LoadedModel, load_model
from worker.prompts import EncodedPrompt, pad_id

__all__ = ["SampleInput", "TransformersEngine"]

DEFAULT_TOKENS = {"cpu": 768}
"""Most tokens of a forward pass: on two cores, 768 took 0.37 of a plain padded pass, 256 took 0.44, 1024 0.39."""


class TransformersEngine:
    """Counts what the experts of a loaded model receive.

    max_length: prompts are cut there, in tokens; exclude_template_tokens: scope `prompt` is what the messages say, and
    not what the chat template adds; micro_batch_tokens: most tokens, padding included, of one forward pass (None: a
    size that suits the device). Results do not depend on it in float32.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        max_length: int = 512,
        system_prompt: str | None = None,
        exclude_template_tokens: bool = False,
        scopes: Sequence[Scope] = (Scope.PROMPT,),
        micro_batch_tokens: int | None = None,
    ) -> None:
        self.loaded = loaded
        self._encoding: dict[str, Any] = {
            "max_length": max_length,
            "system_prompt": system_prompt,
            "exclude_template_tokens": exclude_template_tokens,
        }
        self.scopes = tuple(Scope(scope) for scope in scopes)
        self.micro_batch_tokens = micro_batch_tokens or DEFAULT_TOKENS.get(loaded.device.type, 16_384)
        self._checked = False

    @property
    def words(self) -> Words:
        """Return the tokenizer that prompts are encoded with."""
        return self.loaded

    @property
    def place(self) -> str:
        """Return the device the model runs on, in words."""
        return str(self.loaded.device)

    @property
    def dtype(self) -> str:
        """Return the number format that the model computes in."""
        return str(self.loaded.model.dtype).removeprefix("torch.")

    def measure(
        self,
        window: Sequence[BatchKey],
        inputs: Sequence[Sequence[SampleInput]],
        observe: Observer | None = None,
    ) -> list[MeasuredBatch]:
        """Return one MeasuredBatch per batch of the window, samples in the order they were given.

        Raises InvalidInput for a prompt the template refuses, RoutingUnreadable where a count would not be exact.
        """
        samples = [sample for batch in inputs for sample in batch]
        rows = [row_of(s.fed or self.encode(s.messages), s, self.scopes) for s in samples]
        routed = self._route(rows, observe)
        check_sums(routed, [site.spec for site in self.loaded.sites])
        return as_batches(window, inputs, rows, routed, self.loaded, self.scopes)

    def answers(self, prompts: Sequence[NDArray[np.int32]], max_new_tokens: int) -> list[NDArray[np.int32]]:
        """Return the model's greedy answer to each prompt: int32 [token], its end token included where it came."""
        return generate_answers(self.loaded, prompts, max_new_tokens)

    def close(self) -> None:
        """Nothing to end: the model's memory goes with the process."""

    def encode(self, messages: Sequence[Message]) -> EncodedPrompt:
        """Return a prompt as this engine feeds it. Raises InvalidInput where the model has no such token."""
        vocabulary = next(self.loaded.model.get_input_embeddings().parameters()).shape[0]
        return encode_known(self.loaded, vocabulary, messages, **self._encoding)

    @torch.no_grad()
    def _route(self, rows: Sequence[Row], observe: Observer | None = None) -> Routed:
        """Run all rows, grouped by length, and put what each received back in its place."""
        sites = self.loaded.sites
        shape = (len(rows), N_COUNTED, len(sites), max(site.spec.n_experts for site in sites))
        counts, finite = np.zeros(shape, dtype=np.int32), np.ones(len(rows), dtype=np.bool_)
        weights: NDArray[np.float32] | None = np.zeros(shape, dtype=np.float32)
        self.loaded.model.train(False)
        with RoutingTap(sites) as tap:
            self._check_sites(tap, rows)
            for group in group_by_length([len(row.ids) for row in rows], self.micro_batch_tokens):
                tapped = self._forward(tap, [rows[i] for i in group], keep_chosen=observe is not None)
                if observe is not None:
                    self._show(observe, group, rows, tapped)
                counts[group], finite[group] = tapped.counts.cpu().numpy(), tapped.finite.cpu().numpy()
                if tapped.weights is None:
                    weights = None
                elif weights is not None:
                    weights[group] = tapped.weights.cpu().numpy()
        return Routed(np.stack([row.lengths for row in rows]), counts, weights, finite)

    def _show(self, observe: Observer, group: Sequence[int], rows: Sequence[Row], tapped: Tapped) -> None:
        """Padding stands on the right, so a row's tokens are the first ones."""
        chosen = [site.cpu().numpy() for site in tapped.chosen]
        for k, i in enumerate(group):
            own = [site[k, : len(rows[i].ids)] for site in chosen]
            observe(token_routing(i, rows[i], own, self.scopes))

    def _forward(
        self, tap: RoutingTap, rows: Sequence[Row], *, stop_early: bool = True, keep_chosen: bool = False
    ) -> Tapped:
        """Padding stands on the right: a causal model cannot see it from any token that counts."""
        pad = pad_id(self.loaded.tokenizer)
        rectangle = pad_rows([r.ids for r in rows], [r.segments for r in rows], pad, self.loaded.device)
        return tap.run(
            lambda: self.loaded.model(input_ids=rectangle.ids, attention_mask=rectangle.mask, use_cache=False),
            rectangle.segments,
            stop_early=stop_early,
            keep_chosen=keep_chosen,
        )

    def _check_sites(self, tap: RoutingTap, rows: Sequence[Row]) -> None:
        """Once, run one short row to the end of the model: a site that is run twice only shows there."""
        if not self._checked and rows:
            shortest = min(rows, key=lambda row: len(row.ids))
            self._forward(tap, [shortest], stop_early=False)
            self._checked = True


def open_transformers(request: EngineRequest) -> TransformersEngine:
    """Load a model into transformers. Raises NotFound, NotSupported, InvalidInput."""
    loaded = load_model(request.model, dtype=request.dtype, device=request.device, allow_hub=request.allow_hub)
    return TransformersEngine(
        loaded,
        max_length=request.max_length,
        system_prompt=request.system_prompt,
        exclude_template_tokens=request.exclude_template_tokens,
        scopes=request.scopes,
    )
