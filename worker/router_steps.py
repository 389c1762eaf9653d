"""The steps in which routers learn, and what their loss is in all others.

A router step is one analysis batch like any other: the same samples, verified in the same forward calls. Safe samples
go through the model first, without gradients: their routing is the anchor, and every process hears of it. Then the
unsafe samples go through, and what differs from the anchor flows back into the routers alone. A pair whose samples
lie on two processes therefore counts exactly as on one. Not covered: the loss (consistency.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.domain.turns import Pair
from backend.domain.vocabulary import Label
from worker.consistency import RouterScores, Routing, consistency
from worker.examples import IGNORED, Collated, SampleKey, TrainBatch
from worker.micro_batches import is_out_of_memory
from worker.ranks import Ranks
from worker.sites import MoeSite


@dataclass(slots=True)
class PairedRouting:
    """Which samples are counterparts, and how this process' samples of the present step were routed.

    pairs: {batch_id: pairs}. own: {(batch_idx, in_batch_idx): bool [prompt token]}, the tokens of a prompt that count
    where not all do. routing: by in_batch_idx.
    """

    scores: RouterScores
    pairs: Mapping[str, Sequence[Pair]]
    own: Mapping[tuple[int, int], NDArray[np.bool_]]
    routing: dict[int, Routing] = field(default_factory=dict)

    @classmethod
    def of(cls, sites: Sequence[MoeSite], batches: Sequence[TrainBatch]) -> "PairedRouting":
        """Read pairs and counted tokens from the batches of a run."""
        own = {(e.batch_idx, e.in_batch_idx): e.own for b in batches for e in b.examples if e.own is not None}
        return cls(RouterScores(sites), {batch.batch_id: batch.pairs for batch in batches}, own)

    @contextmanager
    def looking(self, inputs: Mapping[str, Any], *, learning: bool) -> Iterator[None]:
        """Note how the samples of the forward inside are routed. learning: keep what gradients need."""
        with self.scores.watching():
            yield
        batch: Collated = inputs["batch"]
        if not batch.samples:
            return
        counted = self._counted(batch.samples, inputs["attention_mask"], inputs["labels"])
        for key, found in zip(batch.samples, self.scores.routing(counted), strict=True):
            self.routing[key.in_batch_idx] = found if learning else detached(found)

    def _counted(self, samples: Sequence[SampleKey], mask: Tensor, labels: Tensor) -> Tensor:
        """Return bool [row, token]: a prompt's tokens, or those of them that its analysis counted."""
        answer = (labels != IGNORED).cumsum(dim=1) > 0
        counted = mask.bool() & ~answer
        for row, key in enumerate(samples):
            own = self.own.get((key.batch_idx, key.in_batch_idx))
            if own is not None and own.any():
                counted[row, : len(own)] &= torch.from_numpy(own.astype(bool)).to(counted.device)
        return counted

    def loss(self, ranks: Ranks, batch_id: str) -> float:
        """Return the whole batch's loss in the present step, from what all processes noted; then forget it."""
        everyone = merged(ranks.gather({place: detached(found) for place, found in self.routing.items()}))
        self.routing = {}
        return float(consistency(self.pairs[batch_id], everyone))

    def learn(self, batch_id: str, places: Sequence[int], anchors: Mapping[int, Routing]) -> Tensor:
        """Return the part of the loss that these unsafe samples, just noted, bear. anchors: of all safe ones."""
        return consistency(self.pairs[batch_id], {**anchors, **self.routing}, places)


def detached(routing: Routing) -> Routing:
    """Return it without what gradients need."""
    return tuple(part.detach().cpu() for part in routing)


def merged(parts: Sequence[Mapping[int, Routing]]) -> dict[int, Routing]:
    """Return what several processes noted as one."""
    return {place: found for part in parts for place, found in part.items()}


def halves(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the safe and the unsafe rows of a share, which holds the safe ones first."""
    batch: Collated = inputs["batch"]
    n_safe = sum(key.label is Label.SAFE for key in batch.samples)
    cuts = (slice(0, n_safe), slice(n_safe, len(batch.samples)))
    names = [name for name, value in inputs.items() if isinstance(value, Tensor)]
    safe, unsafe = (
        {name: inputs[name][cut] for name in names} | {"batch": Collated(batch.samples[cut], batch.answer_tokens[cut])}
        for cut in cuts
    )
    return safe, unsafe


def teach_routers(
    paired: PairedRouting,
    batch_id: str,
    ranks: Ranks,
    shares: Sequence[Sequence[dict[str, Any]]],
    forward: Callable[[dict[str, Any]], None],
    backward: Callable[[Tensor], None],
) -> bool:
    """Take one router step's forwards and backwards; False if some process ran out of memory.

    shares: this process' safe and unsafe rows, in parts. forward: feeds a part, which is noted. All processes call the
    same collective operations in the same order.
    """
    safe, unsafe = shares

    def look() -> None:
        with torch.no_grad():
            for part in safe:
                forward(part)

    def learn() -> None:
        for part in unsafe:
            forward(part)
            places = [key.in_batch_idx for key in part["batch"].samples]
            loss = paired.learn(batch_id, places, anchors)
            if loss.requires_grad:
                backward(loss)
            paired.routing |= {place: detached(paired.routing[place]) for place in places}

    if not all(ranks.gather(_fits(look))):
        return False
    anchors = merged(ranks.gather({place: detached(found) for place, found in paired.routing.items()}))
    return all(ranks.gather(_fits(learn)))


def _fits(work: Callable[[], None]) -> bool:
    """Do something and return whether memory sufficed."""
    try:
        work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
