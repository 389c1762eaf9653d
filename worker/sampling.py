"""Which rows of a training set stand in which step: whole analysis batches, or the reshuffled baseline.

Both samplers are torch *batch* samplers: pass one as `DataLoader(batch_sampler=...)`. The order is a function of
(seed, epoch) alone (backend/domain/step_order.py), so it is the same for every world size and after a resume.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch.utils.data import Sampler

from backend.domain.errors import InvalidInput
from backend.domain.step_order import batch_order, seeded_order
from backend.domain.vocabulary import LABELS, Label


class Rows(Protocol):
    """A map-style data set whose rows are mappings: a `datasets.Dataset`, or `worker.dataset.ExampleRows`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...


def share_of(is_safe: Sequence[bool], rank: int, world_size: int) -> list[int]:
    """Return the places of a batch that one process trains, in the batch's order. is_safe: of each place.

    Safe and unsafe places are each dealt in slices of neighbours, as even as can be; the odd ones of the safe side go
    to the first ranks, those of the unsafe side to the last, so that no rank has two more than another.
    """
    safe = [place for place, safe in enumerate(is_safe) if safe]
    unsafe = [place for place, safe in enumerate(is_safe) if not safe]
    from_behind = world_size - 1 - rank
    mine = safe[_slice(len(safe), rank, world_size)]
    mine += unsafe[::-1][_slice(len(unsafe), from_behind, world_size)]
    return sorted(mine)


def _slice(n: int, part: int, parts: int) -> slice:
    """Return where the part-th of `parts` slices of n things lies; the first ones are one longer where it must be."""
    size, longer = divmod(n, parts)
    start = part * size + min(part, longer)
    return slice(start, start + size + (part < longer))


class BatchPreservingSampler(Sampler[list[int]]):
    """Yields, per step, the row indices of one analysis batch, in the batch's own order.

    Only the order of the batches changes from epoch to epoch (`set_epoch`), and only with `shuffle_batches`; a batch is
    never split up, refilled, sorted or dropped, and a short last batch stays as it is.

    dataset: rows with `batch_idx`, and where known `in_batch_idx` (else the order of the rows) and `label`.
    batch_size: the analysis' batch size; a larger batch in the data raises InvalidInput.
    rank, world_size: each process gets its share of every batch (`share_of`), so that the ratio is kept as well as
    whole samples allow; a share may be empty, and then `[]` is yielded.
    """

    def __init__(
        self,
        dataset: Rows,
        batch_size: int,
        shuffle_batches: bool = True,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shuffle_batches, self.seed, self.epoch = shuffle_batches, seed, 0
        self.rank, self.world_size = _checked_rank(rank, world_size)
        self.batches = _group(dataset)
        for idx, rows in self.batches.items():
            if len(rows) > batch_size:
                raise InvalidInput(
                    f"batch {idx} holds {len(rows)} samples, more than the analysis' batch size of {batch_size}; "
                    "training must use the batch size of the analysis.",
                    ("batch_size",),
                )
        labels = _column(dataset, "label")
        self._is_safe = None if labels is None else [_is_safe(label) for label in labels]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) whose order the next iteration follows."""
        self.epoch = epoch

    def order(self, epoch: int) -> list[int]:
        """Return the batch_idx of every step of an epoch."""
        return batch_order(self.batches, self.seed, epoch, self.shuffle_batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for idx in self.order(self.epoch):
            yield self._share(self.batches[idx])

    def _share(self, rows: Sequence[int]) -> list[int]:
        is_safe = [self._is_safe is None or self._is_safe[row] for row in rows]
        return [rows[place] for place in share_of(is_safe, self.rank, self.world_size)]


class ShuffledSampler(Sampler[list[int]]):
    """The baseline: all samples flattened, reshuffled every epoch, cut into batches of `batch_size`.

    The last batch of an epoch may be short. Same (seed, epoch) rule and same `set_epoch` as BatchPreservingSampler.
    """

    def __init__(self, dataset: Rows, batch_size: int, *, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise InvalidInput(f"batch_size is {batch_size}; it must be at least 1.", ("batch_size",))
        self.n_rows, self.batch_size, self.seed, self.epoch = len(dataset), batch_size, seed, 0
        self.rank, self.world_size = _checked_rank(rank, world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return (self.n_rows + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = seeded_order(self.n_rows, self.seed, self.epoch)
        for start in range(0, self.n_rows, self.batch_size):
            yield order[start : start + self.batch_size][self.rank :: self.world_size]


def _checked_rank(rank: int, world_size: int) -> tuple[int, int]:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} does not exist among {world_size} processes")
    return rank, world_size


def _group(dataset: Rows) -> dict[int, list[int]]:
    """Return {batch_idx: row indices in the batch's order}, by rising batch_idx."""
    batch_of = _column(dataset, "batch_idx")
    if not batch_of:
        raise InvalidInput("the training set has no rows with a batch_idx: its batches are unknown.", ("batch_idx",))
    places = _column(dataset, "in_batch_idx") or range(len(batch_of))
    groups: dict[int, list[tuple[int, int]]] = {}
    for row, (idx, place) in enumerate(zip(batch_of, places, strict=True)):
        groups.setdefault(int(idx), []).append((int(place), row))
    return {idx: [row for _, row in sorted(groups[idx])] for idx in sorted(groups)}


def _column(dataset: Rows, name: str) -> list[Any] | None:
    names = getattr(dataset, "column_names", None)
    if names is not None:
        return list(dataset[name]) if name in names else None
    rows: Iterable[Mapping[str, Any]] = (dataset[i] for i in range(len(dataset)))
    values = [row.get(name) for row in rows]
    return None if None in values or not values else values


def _is_safe(label: Any) -> bool:
    return (Label(label) if isinstance(label, str) else LABELS[int(label)]) is Label.SAFE
