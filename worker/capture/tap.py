"""Hooks that count, on the device, which experts each token reached. The counts of a forward pass are made inside it.

What is counted is the index that arrives at the experts module. Where a family's experts get no index, the router's
output is read, and only if that output proves which experts were chosen. Not covered: grouping and mapping back to
batches (transformers.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from worker.capture.protocol import RoutingUnreadable
from worker.sites import MoeSite, Reading


class Segment(IntEnum):
    """What a token is. Every scope is a sum of segments; NOTHING (padding) and TEMPLATE are never counted."""

    PROMPT = 0  # all prompt tokens but the last
    LAST = 1  # the last prompt token
    RESPONSE = 2  # answer tokens that have a routing row: all but the last
    NOTHING = 3
    TEMPLATE = 4  # what the chat template added, where that is left out, but for the last prompt token


N_COUNTED = 3
WEIGHT_SCALE = 2**12
"""One as a fixed-point routing weight. Weights are added up as integers: on a GPU float sums differ from run to run."""


@dataclass(frozen=True, slots=True, eq=False)
class Tapped:
    """One forward pass. counts: int32 [row, segment, site, expert]; weights: float32 likewise, or None where a site
    gives none; finite: bool [row], False where a routing weight of one of its tokens was NaN or infinite. chosen: per
    site, int32 [row, token, k], the indices themselves; empty unless they were to be kept.
    """

    counts: Tensor
    weights: Tensor | None
    finite: Tensor
    chosen: tuple[Tensor, ...] = ()


class RoutingTap:
    """`with RoutingTap(sites) as tap: tapped = tap.run(forward, segments)`. Raises RoutingUnreadable."""

    def __init__(self, sites: Sequence[MoeSite]) -> None:
        self.sites = tuple(sites)
        self.n_experts = max(site.spec.n_experts for site in self.sites)
        self._handles: list[Any] = []
        self._pass: _Pass | None = None

    def __enter__(self) -> "RoutingTap":
        for i, site in enumerate(self.sites):
            if site.reading is Reading.EXPERTS_INPUT:
                handle = site.experts.register_forward_pre_hook(self._on_experts(i), with_kwargs=True)
            else:
                assert site.router is not None
                handle = site.router.register_forward_hook(self._on_router(i))
            self._handles.append(handle)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def run(
        self, forward: Callable[[], object], segments: Tensor, *, stop_early: bool = True, keep_chosen: bool = False
    ) -> Tapped:
        """Run a forward pass and return what its tokens reached. segments: [row, token], Segment values.

        stop_early: end the pass where the last site was read; nothing after it changes a count. Otherwise the pass
        runs to its end, which also shows a site that is run twice. keep_chosen: return each token's experts, too.
        """
        with self.listening(segments, stop_early=stop_early, keep_chosen=keep_chosen) as current:
            with suppress(_AllSitesRead):
                forward()
            return current.result()

    @contextmanager
    def listening(self, segments: Tensor, *, stop_early: bool = False, keep_chosen: bool = False) -> Iterator["_Pass"]:
        """Count what runs inside the block; `.result()` checks that every site was seen exactly once."""
        self._pass = _Pass(self.sites, self.n_experts, segments, stop_early)
        self._pass.chosen = {} if keep_chosen else None
        try:
            yield self._pass
        finally:
            self._pass = None

    def _on_experts(self, i: int) -> Callable[..., None]:
        def hook(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._pass is not None:
                self._pass.add(i, *_read_arguments(self.sites[i], args, kwargs))

        return hook

    def _on_router(self, i: int) -> Callable[..., None]:
        def hook(_module: object, _args: object, output: object) -> None:
            if self._pass is not None:
                self._pass.add(i, *_read_router(self.sites[i], output))

        return hook


class _AllSitesRead(Exception):
    """Ends a forward pass whose routing is complete. Never leaves this module."""


class _Pass:
    """The counters of one forward pass."""

    def __init__(self, sites: tuple[MoeSite, ...], n_experts: int, segments: Tensor, stop_early: bool) -> None:
        self.sites, self.n_experts, self.stop_early = sites, n_experts, stop_early
        self.n_rows, self.n_tokens = segments.shape
        self.real = segments.reshape(-1) != Segment.NOTHING
        self.counted = segments.reshape(-1) < N_COUNTED
        rows = torch.arange(self.n_rows, device=segments.device).unsqueeze(1)
        # One bin per (row, segment, expert); everything that is not counted falls into one bin behind the last.
        bins = (rows * N_COUNTED + segments) * n_experts
        self.nowhere = self.n_rows * N_COUNTED * n_experts
        self.base = torch.where(self.counted, bins.reshape(-1), self.nowhere).unsqueeze(1)
        shape = (len(sites), self.nowhere + 1)
        self.counts = torch.zeros(shape, dtype=torch.int32, device=segments.device)
        self.weights: Tensor | None = torch.zeros(shape, dtype=torch.int32, device=segments.device)
        self.finite = torch.ones_like(self.real)
        self.seen = [False] * len(sites)
        self.chosen: dict[int, Tensor] | None = None

    @torch.no_grad()
    def add(self, i: int, index: Tensor, weights: Tensor | None) -> None:
        """Count the [token, k] indices that a site received. Raises RoutingUnreadable where they are not that."""
        spec = self.sites[i].spec
        if self.seen[i]:
            raise RoutingUnreadable(
                f"{spec.site} was run twice in one forward pass, so its counts would be doubled. "
                "Switch gradient checkpointing off; a model that runs a layer twice cannot be measured."
            )
        expected = (self.n_rows * self.n_tokens, spec.top_k)
        if tuple(index.shape) != expected:
            raise RoutingUnreadable(
                f"{spec.site} received expert indices of the shape {tuple(index.shape)}; {expected} "
                f"([tokens, experts per token]) was expected."
            )
        self.seen[i] = True
        index = index.long()
        known = (index >= 0) & (index < spec.n_experts) & self.counted.unsqueeze(1)
        bins = torch.where(known, self.base + index, self.nowhere).reshape(-1)
        self.counts[i].scatter_add_(0, bins, torch.ones_like(bins, dtype=torch.int32))
        self._add_weights(i, bins, index, weights)
        if self.chosen is not None:
            self.chosen[i] = index.int().view(self.n_rows, self.n_tokens, -1)
        if self.stop_early and all(self.seen):
            raise _AllSitesRead

    def _add_weights(self, i: int, bins: Tensor, index: Tensor, weights: Tensor | None) -> None:
        if weights is None:
            self.weights = None
            return
        if weights.shape != index.shape:
            weights = weights.gather(1, index)  # some families hand over one weight per expert, not per choice
        self.finite &= weights.isfinite().all(dim=1)
        if self.weights is not None:
            units = (weights.float().nan_to_num(0, 0, 0) * WEIGHT_SCALE).round().int()
            self.weights[i].scatter_add_(0, bins, units.reshape(-1))

    def result(self) -> Tapped:
        """Return the counts of the pass. Raises RoutingUnreadable if a site was not run."""
        missing = [site.spec.site for site, seen in zip(self.sites, self.seen, strict=True) if not seen]
        if missing:
            raise RoutingUnreadable(f"The forward pass never reached the experts at {', '.join(missing)}.")
        broken = (~self.finite & self.real).view(self.n_rows, self.n_tokens).any(dim=1)
        weights = self._by_row(self.weights) / WEIGHT_SCALE if self.weights is not None else None
        chosen = tuple(self.chosen[i] for i in range(len(self.sites))) if self.chosen is not None else ()
        return Tapped(self._by_row(self.counts), weights, ~broken, chosen)

    def _by_row(self, bins: Tensor) -> Tensor:
        shape = (len(self.sites), self.n_rows, N_COUNTED, self.n_experts)
        return bins[:, :-1].view(shape).permute(1, 2, 0, 3)


def _read_arguments(site: MoeSite, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Return (index [token, k], weights or None) from the arguments of an experts module, hidden states left out."""
    given = [*args, *kwargs.values()][1:] if args else [v for k, v in kwargs.items() if k != "hidden_states"]
    tensors = [_flat(value) for value in given if isinstance(value, Tensor) and value.dim() >= 2]
    index = next((t for t in tensors if not t.is_floating_point() and t.dtype != torch.bool), None)
    if index is None:
        raise RoutingUnreadable(f"{site.spec.site} received no expert indices.")
    widths = {index.shape[1], site.spec.n_experts}
    weights = (t for t in tensors if t.is_floating_point() and t.shape[0] == index.shape[0] and t.shape[1] in widths)
    return index, next(weights, None)


def _read_router(site: MoeSite, output: object) -> tuple[Tensor, Tensor | None]:
    """Return (index [token, k], weights or None) from a router's output, with proof that they are what was chosen.

    Proof: the indices themselves; or scores that are zero for every other expert; or the number of tokens that each
    expert was given.
    """
    outputs = list(output) if isinstance(output, (tuple, list)) else [output]
    tensors = [_flat(value) for value in outputs if isinstance(value, Tensor) and value.dim() >= 2]
    k, n_experts = site.spec.top_k, site.spec.n_experts
    whole = [t for t in tensors if not t.is_floating_point() and t.dtype != torch.bool and t.shape[1] == k]
    if whole:
        return whole[0], next((t for t in tensors if t.is_floating_point() and t.shape == whole[0].shape), None)
    full = [t for t in tensors if t.is_floating_point() and t.shape[1] == n_experts]
    if full:
        index = full[-1].topk(k, dim=1).indices
        for scores in full[:-1]:
            rest = scores.scatter(1, index, 0.0).nan_to_num()
            if not rest.any():
                return index, scores.gather(1, index)
        sizes = [v for v in outputs if isinstance(v, list) and len(v) == n_experts]
        if sizes and torch.bincount(index.reshape(-1), minlength=n_experts).tolist() == sizes[0]:
            return index, None
    raise RoutingUnreadable(
        f"The router at {site.spec.site} ({type(site.router).__name__}) does not show which experts it chose."
    )


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
