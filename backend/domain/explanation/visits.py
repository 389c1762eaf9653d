"""The losses of the batches of a training at every visit, and how far they fell.

A loss is recorded in the step itself, before its update: at its first visit a batch has not been learned from yet, but
the model has already learned from the batches before it. The fall of a batch is its loss at its first visit less its
loss at its last one, over the epochs that are complete, so that every batch had as many visits. Nobody measures a batch
again after the last update, so the loss after its last visit is not known.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Visit:
    """One step of a training, as far as it concerns its batch. loss: null or NaN where it was not finite."""

    batch_idx: int
    epoch: int
    step: int
    loss: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Visits:
    """batches: int64 [batch] batch_idx, ascending. steps: int64 [batch, epoch], 0: not visited. losses: NaN: none.

    n_complete: epochs in which every batch was visited, counted from the first.
    """

    batches: NDArray[np.int64]
    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    n_complete: int

    @property
    def first(self) -> Vector:
        """[batch] loss at the first visit, NaN where there is none."""
        return self._losses_of(0)

    @property
    def last(self) -> Vector:
        """[batch] loss at the visit in the last complete epoch; NaN with fewer than two of them."""
        return self._losses_of(self.n_complete - 1 if self.n_complete > 1 else -1)

    @property
    def fall(self) -> Vector:
        """[batch] loss at the first visit less loss at the last: positive where it fell."""
        return self.first - self.last

    def step_of(self, epoch: int) -> NDArray[np.int64]:
        """[batch] the step in which a batch was visited in an epoch; 0 where it was not."""
        inside = 0 <= epoch < self.steps.shape[1]
        return self.steps[:, epoch] if inside else np.zeros(len(self.batches), dtype=np.int64)

    def _losses_of(self, epoch: int) -> Vector:
        inside = 0 <= epoch < self.losses.shape[1]
        return self.losses[:, epoch] if inside else np.full(len(self.batches), np.nan)


def visits_of(batches: Sequence[int], visits: Iterable[Visit]) -> Visits:
    """Return the losses of these batches, visited or not. Raises KeyError for a visit to another batch."""
    known = np.unique(np.asarray(batches, dtype=np.int64))
    place = {int(idx): row for row, idx in enumerate(known)}
    found = list(visits)
    shape = (len(known), max((visit.epoch for visit in found), default=-1) + 1)
    steps, losses = np.zeros(shape, dtype=np.int64), np.full(shape, np.nan)
    for visit in found:
        here = place[visit.batch_idx], visit.epoch
        steps[here] = visit.step
        losses[here] = np.nan if visit.loss is None or not np.isfinite(visit.loss) else visit.loss
    complete = (steps > 0).all(axis=0) & bool(len(known))
    return Visits(known, steps, losses, int(np.cumprod(complete).sum()))
