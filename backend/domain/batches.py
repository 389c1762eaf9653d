"""How rows become batches: decided once, when an analysis is submitted, and never again.

A pure function of (prompt set, settings). Shuffling sorts by SHA-256 of (seed, row digest), so the same plan comes out
on every machine and with every library version. Not covered: how a batch is fed to a model (worker/capture).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

from backend.domain.errors import PlanImpossible
from backend.domain.plan import (
    MAX_BATCH_SIZE,
    MIN_BATCH_SIZE,
    BatchPlan,
    LeftOut,
    PlannedBatch,
    PlannedSample,
    PlanRow,
    PlanSettings,
    Strategy,
    batch_id,
    n_safe_of,
    round_half_up,
)
from backend.domain.vocabulary import Label

__all__ = [
    "MAX_BATCH_SIZE",
    "MIN_BATCH_SIZE",
    "BatchPlan",
    "LeftOut",
    "PlanRow",
    "PlanSettings",
    "PlannedBatch",
    "PlannedSample",
    "Strategy",
    "batch_id",
    "n_safe_of",
    "plan_batches",
    "plan_rows",
]

NO_PARTNER = "no partner of the other label in its group"
SHORT_NOT_WANTED = "its batch would be short, and short batches were not wanted"
TOO_FEW_LEFT = "too few rows left for a batch at this safe ratio"
NO_OTHER_LEFT = {
    Label.SAFE: "no unsafe row left to go with it at this safe ratio",
    Label.UNSAFE: "no safe row left to go with it at this safe ratio",
}


class _SetRow(Protocol):
    @property
    def digest(self) -> str: ...
    @property
    def label(self) -> Label: ...
    @property
    def category(self) -> str | None: ...
    @property
    def difficulty(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...


class _Set(Protocol):
    @property
    def rows(self) -> Sequence[_SetRow]: ...


def plan_rows(prompt_set: _Set) -> list[PlanRow]:
    """Return the rows of a prompt set as the plan sees them, in the set's order."""
    return [
        PlanRow(idx, row.digest, row.label, row.category, row.difficulty, row.group)
        for idx, row in enumerate(prompt_set.rows)
    ]


def plan_batches(rows: Sequence[PlanRow], prompt_set_sha256: str, settings: PlanSettings | None = None) -> BatchPlan:
    """Put rows into batches; what does not fit is listed with its reason, by row_idx.

    Raises PlanImpossible where not one batch can be made, or a strategy needs what the rows do not have.
    """
    settings = settings or PlanSettings()
    _check_rows(rows, settings)
    stock = _stock(rows, settings)
    shape = _shape(stock.sizes, settings)
    if not shape.n_batches:
        raise _impossible(stock, settings)
    if settings.strategy is Strategy.STRATIFIED:
        stock = _spread_strata(stock, shape, settings)
    queues = (iter(stock.queues[0]), iter(stock.queues[1]), iter(stock.queues[2]))
    batches = tuple(_make_batch(idx, _draw(queues, need)) for idx, need in enumerate(shape.needs()))
    return BatchPlan(settings, prompt_set_sha256, batches, _left_out(queues, stock, shape))


# --- the rows, as three queues to draw from: pairs, lone safe rows, lone unsafe rows

_Pair = tuple[PlanRow, PlanRow]  # the safe and the unsafe member
_Sizes = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Stock:
    queues: tuple[list[_Pair], list[PlanRow], list[PlanRow]]

    @property
    def sizes(self) -> _Sizes:
        pairs, safe, unsafe = self.queues
        return len(pairs), len(safe), len(unsafe)


def _stock(rows: Sequence[PlanRow], settings: PlanSettings) -> _Stock:
    ordered = list(rows) if settings.strategy is Strategy.AS_LISTED else _shuffled(rows, settings.seed)
    pairs: list[_Pair] = []
    if settings.strategy is Strategy.PAIRED:
        pairs, ordered = _pair_up(ordered)
    safe = [row for row in ordered if row.label is Label.SAFE]
    unsafe = [row for row in ordered if row.label is Label.UNSAFE]
    return _Stock((pairs, safe, unsafe))


def _shuffle_key(row: PlanRow, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{row.row_id}".encode()).digest()


def _shuffled(rows: Sequence[PlanRow], seed: int) -> list[PlanRow]:
    return sorted(rows, key=lambda row: _shuffle_key(row, seed))


def _pair_up(rows: Sequence[PlanRow]) -> tuple[list[_Pair], list[PlanRow]]:
    """Pair the n-th safe with the n-th unsafe row of each group; return pairs and the rest."""
    waiting: dict[str, list[PlanRow]] = {}
    pairs: list[_Pair] = []
    for row in rows:
        if row.group is None:
            continue
        queue = waiting.setdefault(row.group, [])
        if queue and queue[0].label is not row.label:
            partner = queue.pop(0)
            pairs.append((row, partner) if row.label is Label.SAFE else (partner, row))
        else:
            queue.append(row)
    paired = {row.row_idx for pair in pairs for row in pair}
    return pairs, [row for row in rows if row.row_idx not in paired]


# --- the shape: how many whole batches, and the short one


def _need(n_safe: int, n_unsafe: int, strategy: Strategy) -> _Sizes:
    """Return what one batch draws from the three queues."""
    pairs = min(n_safe, n_unsafe) if strategy is Strategy.PAIRED else 0
    return pairs, n_safe - pairs, n_unsafe - pairs


@dataclass(frozen=True, slots=True)
class _Shape:
    full: _Sizes
    n_full: int
    short: _Sizes | None  # what a short last batch could draw
    keep_short: bool

    @property
    def n_batches(self) -> int:
        return self.n_full + bool(self.short and self.keep_short)

    def needs(self) -> Iterator[_Sizes]:
        yield from (self.full for _ in range(self.n_full))
        if self.short and self.keep_short:
            yield self.short


def _shape(sizes: _Sizes, settings: PlanSettings) -> _Shape:
    n_safe = n_safe_of(settings.batch_size, settings.safe_ratio)
    full = _need(n_safe, settings.batch_size - n_safe, settings.strategy)
    n_full = min(have // need for have, need in zip(sizes, full, strict=True) if need)
    # A queue that full batches do not draw from stays closed to the short one: no lone row among pairs alone.
    rest = tuple(have - n_full * need if need else 0 for have, need in zip(sizes, full, strict=True))
    for size in range(min(settings.batch_size - 1, 2 * rest[0] + rest[1] + rest[2]), MIN_BATCH_SIZE - 1, -1):
        # Unlike a full batch, a short one is not forced to hold both labels: where rounding gives it one, the ratio
        # would be lost, and a smaller or no batch is the honest answer.
        n_safe = round_half_up(size, settings.safe_ratio)
        short = _need(n_safe, size - n_safe, settings.strategy)
        if 0 < n_safe < size and all(need <= have for need, have in zip(short, rest, strict=True)):
            return _Shape(full, n_full, short, settings.keep_short)
    return _Shape(full, n_full, None, settings.keep_short)


# --- stratified: deal each label's rows over the batches like cards


def _spread_strata(stock: _Stock, shape: _Shape, settings: PlanSettings) -> _Stock:
    pairs, safe, unsafe = stock.queues
    n_safe, n_unsafe = (_deal(queue, side, shape, settings) for side, queue in ((1, safe), (2, unsafe)))
    return _Stock((pairs, n_safe, n_unsafe))


def _deal(queue: list[PlanRow], side: int, shape: _Shape, settings: PlanSettings) -> list[PlanRow]:
    """Reorder one label's shuffled rows so that drawing batch after batch gives each the overall mix.

    Rows sorted by stratum are dealt round the full batches, so two full batches never differ by more than one row of
    any stratum. What is left out, and what the short batch gets, is picked at even distances from the same order.
    """
    in_strata = sorted(queue, key=lambda row: _stratum(row, settings.stratify_by))  # stable: stays shuffled inside
    n_short = shape.short[side] if shape.short else 0
    n_left = len(queue) - shape.n_full * shape.full[side] - n_short
    rest, left = _pick_evenly(in_strata, n_left)
    rest, short = _pick_evenly(rest, n_short)
    key = {row.row_idx: place for place, row in enumerate(queue)}
    hands = (sorted(rest[i :: shape.n_full], key=lambda row: key[row.row_idx]) for i in range(shape.n_full))
    return [*chain.from_iterable(hands), *sorted(short, key=lambda row: key[row.row_idx]), *left]


def _stratum(row: PlanRow, names: tuple[str, ...]) -> tuple[tuple[bool, str], ...]:
    values = (getattr(row, name) for name in names)
    return tuple((value is not None, value or "") for value in values)


def _pick_evenly(rows: list[PlanRow], n: int) -> tuple[list[PlanRow], list[PlanRow]]:
    """Split off n rows at even distances; return (the rest, the picked)."""
    chosen = {(2 * i + 1) * len(rows) // (2 * n) for i in range(n)}
    rest = [row for place, row in enumerate(rows) if place not in chosen]
    return rest, [rows[place] for place in sorted(chosen)]


# --- drawing


_Queues = tuple[Iterator[_Pair], Iterator[PlanRow], Iterator[PlanRow]]


def _draw(queues: _Queues, need: _Sizes) -> list[PlanRow]:
    pairs = list(islice(queues[0], need[0]))
    safe, unsafe = islice(queues[1], need[1]), islice(queues[2], need[2])
    return [*(pair[0] for pair in pairs), *safe, *(pair[1] for pair in pairs), *unsafe]


def _make_batch(idx: int, rows: list[PlanRow]) -> PlannedBatch:
    samples = tuple(PlannedSample(place, row.row_idx, row.row_id, row.label) for place, row in enumerate(rows))
    return PlannedBatch(idx, batch_id(samples), samples)


def _left_out(queues: _Queues, stock: _Stock, shape: _Shape) -> tuple[LeftOut, ...]:
    out: list[LeftOut] = []
    if shape.short and not shape.keep_short:
        out += [_out(row, SHORT_NOT_WANTED) for row in _draw(queues, shape.short)]
    pairs, safe, unsafe = list(queues[0]), list(queues[1]), list(queues[2])
    out += [_out(row, TOO_FEW_LEFT) for pair in pairs for row in pair]
    for side, rows, others in ((1, safe, unsafe), (2, unsafe, safe)):
        for row in rows:
            if not shape.full[side]:
                out.append(_out(row, NO_PARTNER))
            elif pairs or (others and not stock.queues[0]):
                out.append(_out(row, TOO_FEW_LEFT))
            else:
                out.append(_out(row, NO_OTHER_LEFT[row.label]))
    return tuple(sorted(out, key=lambda row: row.row_idx))


def _out(row: PlanRow, reason: str) -> LeftOut:
    return LeftOut(row.row_idx, row.row_id, row.label, reason)


# --- what cannot be planned


def _check_rows(rows: Sequence[PlanRow], settings: PlanSettings) -> None:
    if len({row.row_id for row in rows}) < len(rows) or len({row.row_idx for row in rows}) < len(rows):
        raise PlanImpossible("a row is listed twice; a plan needs a prompt set without duplicates.", ("dataset_id",))
    if len({row.label for row in rows}) < 2:
        raise PlanImpossible("a plan needs rows of both labels, safe and unsafe.", ("dataset_id",))
    if settings.strategy is Strategy.STRATIFIED:
        for name in settings.stratify_by:
            if all(getattr(row, name) is None for row in rows):
                raise PlanImpossible(
                    f"no row has a {name}, so there is nothing to stratify by; "
                    "import the set with that column, name another field, or use strategy 'shuffled'.",
                    ("stratify_by",),
                )


def _impossible(stock: _Stock, settings: PlanSettings) -> PlanImpossible:
    n_safe = n_safe_of(settings.batch_size, settings.safe_ratio)
    n_pairs, safe, unsafe = stock.sizes
    needs = f"a batch needs {n_safe} safe and {settings.batch_size - n_safe} unsafe rows"
    if settings.strategy is not Strategy.PAIRED:
        return PlanImpossible(
            f"{needs}; the set has {safe} safe and {unsafe} unsafe. "
            "Add rows, choose a smaller batch_size or another safe_ratio, or keep short batches.",
            ("batch_size",),
        )
    if not n_pairs:
        return PlanImpossible(
            "no group holds a safe and an unsafe row, so there is nothing to pair; import the set with a `group` "
            "column that names contrast pairs, or use strategy 'shuffled'.",
            ("strategy",),
        )
    return PlanImpossible(
        f"{needs}; the set has {n_pairs} pairs, and {safe} safe and {unsafe} unsafe rows without a partner to fill "
        "the larger side. Use safe_ratio 0.5 with an even batch_size, or a smaller batch_size.",
        ("safe_ratio",),
    )
