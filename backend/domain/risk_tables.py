"""Published risk-difference tables, read as counts: SteerMoE's, the original scripts' and our own.

SteerMoE (custom_steering.ipynb, `calc_risk_diff`) writes per (layer, expert): a1, a2, tokens of group 1 and 2 that the
expert took; d1, d2, tokens that it did not take; risk_diff = a1 / (a1 + d1) − a2 / (a2 + d2). Its group 1 is the wanted
behaviour (safe), so its sign is the opposite of ours. We take the counts, compute risk_diff = rate_unsafe − rate_safe,
and compare the stated values with them; tables whose d is the whole number of tokens are recognised by that. Layers are
numbered by position among the MoE layers there. Rates are over tokens: pool `pooled`. Not covered: prompts (a table
holds none, so nothing can be resampled), pickles (pickled_tables.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.canonical import digest, sha256_hex
from backend.domain.errors import ImportRefused, InvalidInput, RowProblem
from backend.domain.reading_csv import open_csv
from backend.domain.reading_lines import Opened
from backend.domain.reading_parquet import open_parquet
from backend.domain.risk import COLUMNS
from backend.domain.vocabulary import Label

MAX_ROWS = 200_000
MAX_CELLS = 1_000_000
MAX_COUNT = 2**53
MAX_PROBLEMS = 50
TOLERANCE = 1e-4
"""A stated risk_diff may differ by this much from its counts: tables are printed with few digits."""

NAMES = {
    "a1, a2, d1, d2": ("a1", "a2", "d1", "d2"),
    "a_safe, a_unsafe, d_safe, d_unsafe": ("a_safe", "a_unsafe", "d_safe", "d_unsafe"),
    "count_safe, count_unsafe, tokens_safe, tokens_unsafe": (
        "count_safe",
        "count_unsafe",
        "tokens_safe",
        "tokens_unsafe",
    ),
}
"""The columns that a table may have: taken by group 1 and 2, then what makes their denominators."""
REST, TOKENS = "rest", "tokens"
"""What the second pair of columns counts: tokens the expert did not take (SteerMoE), or all tokens."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PublishedTable:
    """Counts of a published table. counts, tokens: int64 [label, layer, expert]; tokens 0: no rate (see `reasons`).

    columns: which names the file used. denominator: `rest` or `tokens`. stated: `safe − unsafe`, `unsafe − safe`, or
    None where the file states no risk_diff. n_mismatched: rows whose stated value its counts do not give (accepted).
    reasons: how many cells have no rate, by why.
    """

    layers: tuple[int, ...]
    counts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    n_rows: int
    columns: str
    denominator: str
    stated: str | None
    n_mismatched: int
    reasons: Mapping[str, int]

    @property
    def n_experts(self) -> int:
        """Number of experts of the widest layer."""
        return int(self.counts.shape[2])

    @property
    def sha256(self) -> str:
        """Identity: the layers and the counts, however the file wrote them."""
        return table_digest(self.layers, self.counts, self.tokens)


def table_digest(layers: Sequence[int], counts: NDArray[Any], tokens: NDArray[Any]) -> str:
    """Return the identity of a table. counts, tokens: [label, layer, expert]."""
    arrays = [sha256_hex(np.ascontiguousarray(own, "<i8").tobytes()) for own in (counts, tokens)]
    return digest(
        {"layers": tuple(layers), "n_experts": int(counts.shape[2]), "counts": arrays[0], "tokens": arrays[1]}
    )


def rates_of(counts: NDArray[Any], tokens: NDArray[Any]) -> Matrix:
    """Return rates [label, layer, expert]; NaN where there are no tokens."""
    there = np.asarray(tokens, dtype=np.float64)
    rates: Matrix = np.divide(counts, there, out=np.full(there.shape, np.nan), where=there > 0)
    return rates


def table_columns(layers: Sequence[int], counts: NDArray[Any], tokens: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return COLUMNS, one entry per (layer, expert); rates and risk_diff NaN where there are no tokens."""
    rates = rates_of(counts, tokens)
    n_layers, n_experts = counts.shape[1:]
    values = (
        np.repeat(np.asarray(layers, dtype=np.int64), n_experts),
        np.tile(np.arange(n_experts), n_layers),
        *(part.ravel() for part in (*counts.astype(np.int64), *tokens.astype(np.int64), *rates, rates[1] - rates[0])),
    )
    return dict(zip(COLUMNS, values, strict=True))


def read_risk_table(
    path: Path, filename: str, *, group_1: Label = Label.SAFE, accept_mismatch: bool = False
) -> PublishedTable:
    """Read a CSV or Parquet table. group_1: which label a1 and d1 are of (columns that name a label need no answer).

    Raises ImportRefused, with every problem by row: what is no count, rows there twice, and (unless accept_mismatch)
    a stated risk_diff that the counts do not give in either sign. InvalidInput where the file is no such table.
    """
    opened = _open(path, filename)
    names = _names(opened.columns or [])
    rows = _read_rows(opened, names)
    chosen = _interpret(rows, names, accept_mismatch=accept_mismatch)
    return _table(rows, names, chosen, group_1 if names == "a1, a2, d1, d2" else Label.SAFE)


def _open(path: Path, filename: str) -> Opened:
    suffix = filename.lower().rpartition(".")[2]
    if suffix == "csv":
        return open_csv(path)
    if suffix == "parquet":
        return open_parquet(path)
    hint = (
        " Convert it on your own machine first: `routeprint convert-table OLD.pkl NEW.csv`." if suffix == "pkl" else ""
    )
    raise InvalidInput(f"A risk table is a .csv or a .parquet file, and this is {filename!r}.{hint}", ("file",))


def _names(columns: Sequence[str]) -> str:
    for words, names in NAMES.items():
        if {"layer", "expert", *names} <= set(columns):
            return words
    found = ", ".join(columns[:20])
    raise InvalidInput(
        f"A risk table has the columns layer, expert and one of: {'; or '.join(NAMES)}. This file has: {found}.",
        ("file",),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The file's rows. place: [row, (layer, expert)]. values: float64 [row, 4]; NaN: not given. stated: [row]."""

    numbers: NDArray[np.int64]
    place: NDArray[np.int64]
    values: Matrix
    stated: Matrix


def _read_rows(opened: Opened, names: str) -> _Rows:
    problems: list[RowProblem] = []
    seen: dict[tuple[int, int], int] = {}
    kept: list[tuple[int, int, int, list[float], float]] = []
    for number, cells in opened.rows:
        if number > MAX_ROWS:
            raise InvalidInput(f"The table has more than {MAX_ROWS:,} rows.", ("file",))
        if isinstance(cells, str):
            problems.append(RowProblem(number, cells))
        elif row := _row(number, cells, NAMES[names], problems):
            layer, expert = row[0], row[1]
            if (layer, expert) in seen:
                first = seen[layer, expert]
                problems.append(RowProblem(number, f"Layer {layer}, expert {expert} stands in row {first} already."))
            seen.setdefault((layer, expert), number)
            kept.append((number, *row))
        if len(problems) >= MAX_PROBLEMS:
            break
    if problems:
        raise ImportRefused(problems)
    if not kept:
        raise InvalidInput("The table has no row.", ("file",))
    return _Rows(
        np.array([row[0] for row in kept]),
        np.array([row[1:3] for row in kept], dtype=np.int64),
        np.array([row[3] for row in kept], dtype=np.float64),
        np.array([row[4] for row in kept], dtype=np.float64),
    )


def _row(
    number: int, cells: Mapping[str, Any], names: Sequence[str], problems: list[RowProblem]
) -> tuple[int, int, list[float], float] | None:
    found: list[float] = []
    for name in ("layer", "expert", *names, "risk_diff"):
        value, wrong = _number(cells.get(name))
        if name in ("layer", "expert"):
            wrong = wrong or ("" if 0 <= value <= 100_000 and value.is_integer() else "is no whole number of 0 or more")
        elif name != "risk_diff" and not math.isnan(value):
            wrong = wrong or ("" if 0 <= value <= MAX_COUNT and value.is_integer() else "is no count")
        if wrong:
            problems.append(RowProblem(number, f"{name} {wrong}.", column=name))
            return None
        found.append(value)
    return int(found[0]), int(found[1]), found[2:6], found[6]


def _number(cell: Any) -> tuple[float, str]:
    """Return a number (NaN: none given) and what is wrong with it."""
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in ("", "nan", "null", "none")):
        return math.nan, ""
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return math.nan, "is no number"
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return math.nan, "is no number"
    return (math.nan, "is infinite") if math.isinf(value) else (value, "")


def _interpret(rows: _Rows, names: str, *, accept_mismatch: bool) -> tuple[str, str | None, int]:
    """Return (denominator, stated sign, mismatched rows): the reading of the columns that gives the stated values."""
    first, second, third, fourth = rows.values.T
    readings = [TOKENS] if names.startswith("count") else [REST, TOKENS]
    fits: dict[tuple[str, str], NDArray[np.bool_]] = {}
    for denominator in readings:
        whole = (first + third, second + fourth) if denominator == REST else (third, fourth)
        if denominator == TOKENS and ((first > third) | (second > fourth)).any():
            continue
        ours = _divide(second, whole[1]) - _divide(first, whole[0])
        for sign, words in ((-1, "group 1 − group 2"), (1, "group 2 − group 1")):
            off = np.asarray(np.abs(rows.stated - sign * ours))
            fits[denominator, words] = np.asarray(off > TOLERANCE)  # NaN: nothing to compare
    if not fits:
        row = int(np.flatnonzero((first > third) | (second > fourth))[0])
        message = "An expert took more tokens than there are."
        raise ImportRefused([RowProblem(int(rows.numbers[row]), message, column=NAMES[names][0])])
    (denominator, words), wrong = min(fits.items(), key=lambda item: int(item[1].sum()))
    if wrong.any() and not accept_mismatch:
        raise ImportRefused([_mismatch(rows, int(at), names) for at in np.flatnonzero(wrong)[:MAX_PROBLEMS]])
    return denominator, words if np.isfinite(rows.stated).any() else None, int(wrong.sum())


def _mismatch(rows: _Rows, at: int, names: str) -> RowProblem:
    a1, a2, d1, d2 = rows.values[at].tolist()
    whole = (d1, d2) if names.startswith("count") else (a1 + d1, a2 + d2)
    rest = (a1 / whole[0] if whole[0] else math.nan) - (a2 / whole[1] if whole[1] else math.nan)
    return RowProblem(
        int(rows.numbers[at]),
        f"risk_diff says {rows.stated[at]:.6g}, but its counts ({names}) give {rest:.6g} or {-rest:.6g}. If it was not "
        "computed from these counts (a mean over batches, say), accept the mismatch: the counts then decide.",
        column="risk_diff",
    )


def _divide(part: Matrix, whole: Matrix) -> Matrix:
    found: Matrix = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return found


def _table(rows: _Rows, names: str, chosen: tuple[str, str | None, int], group_1: Label) -> PublishedTable:
    denominator, stated, n_mismatched = chosen
    layers = np.unique(rows.place[:, 0])
    n_experts = int(rows.place[:, 1].max()) + 1
    if len(layers) * n_experts > MAX_CELLS:
        raise InvalidInput(f"{len(layers)} layers of {n_experts} experts are more than this reads.", ("file",))
    given: NDArray[np.bool_] = np.asarray(np.isfinite(rows.values).all(axis=1))
    values = np.where(given[:, None], rows.values, 0).astype(np.int64)
    taken = values[:, :2].T
    whole = values[:, 2:].T + (taken if denominator == REST else 0)
    shape = (2, len(layers), n_experts)
    counts, tokens, there = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape[1:], bool)
    at = (np.searchsorted(layers, rows.place[:, 0]), rows.place[:, 1])
    order = [0, 1] if group_1 is Label.SAFE else [1, 0]
    for label, group in enumerate(order):
        counts[label][at], tokens[label][at] = taken[group], whole[group]
    there[at] = True
    reasons = {
        "not in the table": int((~there).sum()),
        "a count is missing or NaN": int((~given).sum()),
        "no tokens on one side": int(((whole == 0).any(axis=0) & given).sum()),
    }
    if (tokens > 0).all(axis=0).sum() == 0:
        raise InvalidInput("No row has tokens on both sides, so there is no risk_diff in this table.", ("file",))
    return PublishedTable(
        layers=tuple(layers.tolist()),
        counts=counts,
        tokens=tokens,
        n_rows=len(rows.numbers),
        columns=names,
        denominator=denominator,
        stated=stated and _in_labels(stated, group_1),
        n_mismatched=n_mismatched,
        reasons={why: n for why, n in reasons.items() if n},
    )


def _in_labels(words: str, group_1: Label) -> str:
    other = Label.UNSAFE if group_1 is Label.SAFE else Label.SAFE
    return words.replace("group 1", group_1).replace("group 2", other)
