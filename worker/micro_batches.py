"""A batch too large for memory is accumulated inside itself: several forwards, one optimizer step.

The loss of every part is divided by the answer tokens of the whole batch, so that the gradients of the parts add up to
the batch's own. Where memory runs out, the parts are halved. Not covered: the step around it (trainers.py).
"""

import gc
from collections.abc import Iterator
from typing import Any

import torch

from backend.domain.errors import RouteprintError
from worker.examples import IGNORED, Collated

MAX_HALVINGS = 3
_WORDS = ("out of memory", "can't allocate memory", "not enough memory")
"""What allocators say that have no exception of their own; the CPU's is a plain RuntimeError."""


class OutOfMemory(RouteprintError):
    """A step does not fit into memory, not even in the smallest parts that are tried. The step was not applied."""


class MicroBatches:
    """How many samples a process puts into one forward. asked: None for its whole share; largest: of its shares."""

    def __init__(self, asked: int | None, largest: int) -> None:
        self.size = min(asked or largest, largest)
        self.halved = 0

    def cut(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a collated share in parts, each without the padding that only longer rows elsewhere need."""
        batch: Collated = inputs["batch"]
        for start in range(0, len(batch.samples), self.size):
            cut = slice(start, start + self.size)
            part = {name: inputs[name][cut] for name in ("input_ids", "attention_mask", "labels")}
            width = int(part["attention_mask"].any(dim=0).nonzero().max()) + 1
            part = {name: value[:, :width] for name, value in part.items()}
            yield part | {"batch": Collated(batch.samples[cut], batch.answer_tokens[cut])}

    def halve(self, step: int) -> str:
        """Go on with half as many samples per forward; return what to tell. Raises OutOfMemory after three times."""
        before = self.size
        if before == 1 or self.halved == MAX_HALVINGS:
            raise OutOfMemory(self.no_room(step))
        self.size, self.halved = (before + 1) // 2, self.halved + 1
        return f"step {step}: out of memory with {before} samples per forward; going on with {self.size}"

    def no_room(self, step: int) -> str:
        """Return what to say when a step fits in no way that is tried."""
        tried = f", after halving {self.halved} times" if self.halved else ""
        return (
            f"Step {step}: out of memory with {self.size} samples per forward{tried}. The step was not applied. Use a "
            "smaller micro_batch_size, more processes, shorter answers, a smaller expert set, or a device with more "
            "memory."
        )

    def state(self) -> dict[str, int]:
        """Return what a checkpoint keeps, so that a resumed run cuts its batches where the undisturbed one did."""
        return {"size": self.size, "halved": self.halved}

    def restore(self, state: dict[str, int]) -> None:
        """Go on as a checkpoint says."""
        self.size, self.halved = int(state["size"]), int(state["halved"])


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def give_memory_back() -> None:
    """Let go of everything that a failed forward left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def idle_part(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a part without samples: one token that nothing learns from.

    Processes that hold parts of the weights need each other in every forward, also one that has no sample left.
    """
    ids = inputs["input_ids"][:1, :1]
    labels = torch.full((1, 2), IGNORED, device=ids.device)
    shape = {"input_ids": ids.expand(1, 2), "attention_mask": torch.ones_like(labels), "labels": labels}
    return shape | {"batch": Collated((), ())}


class RandomState:
    """The random state of this process: a step that is tried again draws the same numbers."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore(self) -> None:
        """Set the state back to where this was made."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)
