"""Training in turns: which steps teach the experts, which the routers, and which samples are counterparts.

After: Routers in turn, docs/concepts.md. Not covered: the loss of a router step (worker/consistency.py).
"""

from collections import defaultdict
from collections.abc import Iterable
from enum import StrEnum

from backend.domain.vocabulary import Label

Pair = tuple[int, int]
"""(in_batch_idx of the safe sample, in_batch_idx of its unsafe counterpart)."""


class Turn(StrEnum):
    """What a step teaches."""

    EXPERTS = "experts"
    ROUTERS = "routers"


def turn_of(step: int, steps_per_epoch: int) -> Turn:
    """Return what a step (from 1) of a run with router steps teaches: experts and routers in turn.

    Every second epoch begins with the routers, so that over two epochs in one order each batch teaches both once.
    """
    epoch, place = divmod(step - 1, steps_per_epoch)
    return Turn.ROUTERS if (epoch + place) % 2 else Turn.EXPERTS


def pairs_in(samples: Iterable[tuple[int, str, str | None]]) -> tuple[Pair, ...]:
    """Pair the n-th safe with the n-th unsafe sample of each group of a batch; the rest has no counterpart.

    samples: (in_batch_idx, label, group) in the batch's order. Pairs come in the order of their safe samples.
    """
    sides: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for place, label, group in samples:
        if group is not None:
            sides[group][Label(label) is Label.UNSAFE].append(place)
    return tuple(sorted(pair for safe, unsafe in sides.values() for pair in zip(safe, unsafe, strict=False)))
