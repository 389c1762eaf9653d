"""How batches are grouped for speed: windows share forward passes, shards are what one worker takes at a time.

A window is a fixed run of consecutive batches, counted from batch 0. A shard is a run of whole windows. So the forward
passes, and with them every result, are the same whoever measures which shard.
"""

from collections.abc import Collection, Iterator

WINDOW = 16
WINDOWS_PER_SHARD = 16
_SHARDS_PER_WORKER = 16


def shards(n_batches: int, n_workers: int = 1) -> Iterator[tuple[int, int]]:
    """Yield (first batch, stop) of each shard: large ones first, smaller ones last, so that all workers end together.

    n_workers: those that can take one. A shard is at most WINDOWS_PER_SHARD windows, as a model is loaded for each;
    one worker alone gets no smaller ones.
    """
    left = -(-n_batches // WINDOW)
    least = max(1, left // (_SHARDS_PER_WORKER * n_workers)) if n_workers > 1 else WINDOWS_PER_SHARD
    first = 0
    while left:
        size = min(max(-(-left // (2 * n_workers)), least), WINDOWS_PER_SHARD, left)
        stop = min(first + size * WINDOW, n_batches)
        yield first, stop
        first, left = stop, left - size


def windows(first: int, stop: int, stored: Collection[int]) -> Iterator[range]:
    """Yield the windows of a shard that hold at least one batch that is not stored yet, each whole."""
    for start in range(first, stop, WINDOW):
        window = range(start, min(start + WINDOW, stop))
        if any(batch not in stored for batch in window):
            yield window
