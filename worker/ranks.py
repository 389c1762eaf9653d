"""The processes that train together, and what they tell each other. One process alone needs none of it.

Gradients are added up by ourselves, not by DistributedDataParallel: it would average them, send the rows of experts
that do not learn, and wait for a forward of a process that has no sample. Not covered: how the processes are started
(launching.py).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_PATIENCE = timedelta(hours=2)
"""How long a process waits for the others, who may be writing a large checkpoint. A dead one ends all at once."""
_BUCKET_BYTES = 64 * 2**20
"""Gradients are sent in pieces of about this size."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together. Every method must be called by all of them, in the same order."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> "Ranks":
        """Meet the processes that the launcher started beside this one (it names them in the environment)."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
            if device.startswith("cuda"):
                torch.cuda.set_device(device)
            dist.init_process_group(backend, timeout=_PATIENCE)
        return cls(int(os.environ.get("RANK", "0")), size) if size > 1 else cls()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes: records, checkpoints, the model."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in rank order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def share(self, value: T) -> T:
        """Return the first process' value; what the others pass does not matter."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.gather(None)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in float32 at least; all end with the same bits."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            wide = torch.promote_types(bucket[0].dtype, torch.float32)
            flat = torch.cat([tensor.reshape(-1).to(wide) for tensor in bucket])
            dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in order, in groups of one type and device and of about `_BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        other = bucket and (tensor.dtype, tensor.device) != (bucket[0].dtype, bucket[0].device)
        if bucket and (other or filled + tensor.nbytes > _BUCKET_BYTES):
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.nbytes
    if bucket:
        yield bucket
