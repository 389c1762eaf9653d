"""How batches are grouped for speed: windows share forward passes, shards are what one worker takes at a time.

A window is a fixed run of consecutive batches, counted from batch 0. A shard is a run of whole windows. So the forward
passes, and with them every result, are the same whoever measures which shard.
"""

from collections.abc import Collection, Iterator

WINDOW = 16
WINDOWS_PER_SHARD = 16
_LAST = 4
"""The last shards of an analysis are this part of what one worker does of it: so much later can the last one end."""


def shards(n_batches: int, n_workers: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (first batch, stop) of each shard: first one for each worker that are half of it all, then smaller ones.

    n_workers: those that can take one. Workers of the same speed end together after three shards each, as a model is
    loaded for every shard; a slow one leaves the small ones to others. A shard is at most WINDOWS_PER_SHARD windows.
    """
    left = -(-n_batches // WINDOW)
    least = -(-left // (_LAST * n_workers)) if n_workers > 1 else WINDOWS_PER_SHARD
    first = size = number = 0
    while left:
        if number % n_workers == 0:
            size = min(max(-(-left // (2 * n_workers)), least), WINDOWS_PER_SHARD)
        taken, number = min(size, left), number + 1
        stop = min(first + taken * WINDOW, n_batches)
        yield first, stop
        first, left = stop, left - taken


def windows(first: int, stop: int, stored: Collection[int]) -> Iterator[range]:
    """Yield the windows of a shard that hold at least one batch that is not stored yet, each whole."""
    for start in range(first, stop, WINDOW):
        window = range(start, min(start + WINDOW, stop))
        if any(batch not in stored for batch in window):
            yield window
