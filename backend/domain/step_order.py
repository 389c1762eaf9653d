"""In which order a training visits batches and samples: a function of (seed, epoch) alone.

Made with SHA-256, so it is the same on every machine, independent of any library's generator; `verify` makes it again.
Not covered: which process trains which sample (worker/sampling.py).
"""

import hashlib
from collections.abc import Iterable


def seeded_order(n: int, seed: int, epoch: int) -> list[int]:
    """Return 0 … n-1 in the order of (seed, epoch): sorted by the SHA-256 of seed, epoch and number."""
    return sorted(range(n), key=lambda i: hashlib.sha256(f"{seed}\n{epoch}\n{i}".encode()).digest())


def batch_order(batches: Iterable[int], seed: int, epoch: int, shuffle: bool) -> list[int]:
    """Return the batch_idx of every step of an epoch. shuffle: False keeps the order of the plan in every epoch."""
    planned = sorted(batches)
    return [planned[i] for i in seeded_order(len(planned), seed, epoch)] if shuffle else planned
