"""What an evaluation says: per arm, per measure, and the real set among the random ones.

Measures: refusal of unsafe prompts, refusal of safe prompts (over-refusal, where safe means harmless), perplexity of
given answers, accuracy on multiple-choice questions. Every difference is paired with the baseline over prompts.
Not covered: reading the store (backend/store/evaluation_results.py).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.evaluation.interventions import CONTROLS, Family
from backend.domain.statistics import rates
from backend.domain.statistics.rates import Estimate, nothing
from backend.domain.vocabulary import LABELS, Label

REFUSED, ANSWERED, UNJUDGED = 1, 0, -1
"""Codes of a verdict [prompt, arm]; UNJUDGED: unclear, or not judged yet."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What is known of the finished arms, all axes in their order.

    verdicts, raw: int8 [prompt, arm], with and without what people overruled. labels, groups: [prompt].
    nll: float64 [text, arm] in nats, tokens, text_groups: [text]; picked: int [question, arm], right: [question].
    """

    arms: tuple[int, ...]
    families: tuple[Family, ...]
    labels: tuple[Label, ...]
    groups: tuple[str | None, ...]
    verdicts: NDArray[np.int8]
    raw: NDArray[np.int8]
    nll: NDArray[np.float64] | None = None
    tokens: NDArray[np.float64] | None = None
    text_groups: tuple[str | None, ...] = ()
    picked: NDArray[np.int64] | None = None
    right: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure of every arm. scale: `rate` (differences are subtracted) or `ratio` (differences are quotients).

    moved: per arm, how far it lies from the baseline, where 0 is no change (a logarithm for ratios); None: not known.
    raw: the rates before people overruled verdicts; empty where nothing was.
    """

    key: str
    scale: str
    values: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]
    moved: tuple[float | None, ...]
    n_left_out: tuple[int, ...] = ()
    raw: tuple[float | None, ...] = ()


def measure_all(found: Found, seed: str) -> list[Measured]:
    """Return every measure that there is something to say about; the first arm must be the baseline."""
    measured = [refusal(found, label, seed) for label in LABELS[::-1] if label in found.labels]
    if found.nll is not None and found.tokens is not None and len(found.tokens):
        measured.append(perplexity(found.nll, found.tokens, found.text_groups, seed))
    if found.picked is not None and found.right is not None and len(found.right):
        measured.append(accuracy(found.picked, found.right, seed))
    return measured


def refusal(found: Found, label: Label, seed: str) -> Measured:
    """Return how often prompts of one label are refused. Unclear answers are in no rate; they are counted."""
    own = np.array([one is label for one in found.labels])
    verdicts, raw = found.verdicts[own], found.raw[own]
    groups = [group for group, mine in zip(found.groups, own.tolist(), strict=True) if mine]
    values = [_rate(verdicts[:, arm], groups, seed) for arm in range(verdicts.shape[1])]
    changed = bool((verdicts != raw).any())
    return _of_rates(
        f"refusal_{label}",
        values,
        _paired(verdicts, groups, seed),
        tuple(int(n) for n in (verdicts == UNJUDGED).sum(axis=0)),
        tuple(_share(raw[:, arm]) for arm in range(raw.shape[1])) if changed else (),
    )


def _rate(verdicts: NDArray[np.int8], groups: Sequence[str | None], seed: str) -> Estimate:
    judged = np.flatnonzero(verdicts != UNJUDGED).tolist()
    return rates.rate([bool(verdicts[i] == REFUSED) for i in judged], [groups[i] for i in judged], seed)


def _share(verdicts: NDArray[np.int8]) -> float | None:
    judged = verdicts[verdicts != UNJUDGED]
    return float((judged == REFUSED).mean()) if len(judged) else None


def _paired(verdicts: NDArray[np.int8], groups: Sequence[str | None], seed: str) -> list[Estimate]:
    """Return each arm's difference to the first, over the prompts judged in both; arms with the same ones together."""
    both = (verdicts != UNJUDGED) & (verdicts[:, :1] != UNJUDGED)
    found: dict[int, Estimate] = {}
    for pattern in {both[:, arm].tobytes() for arm in range(both.shape[1])}:
        arms = [arm for arm in range(both.shape[1]) if both[:, arm].tobytes() == pattern]
        rows = np.flatnonzero(both[:, arms[0]])
        hits = verdicts[rows] == REFUSED
        own = rates.rate_differences(hits[:, 0].tolist(), hits[:, arms], [groups[i] for i in rows.tolist()], seed)
        found |= dict(zip(arms, own, strict=True))
    return [found[arm] for arm in range(both.shape[1])]


def _of_rates(
    key: str,
    values: Sequence[Estimate],
    differences: Sequence[Estimate],
    n_left_out: tuple[int, ...] = (),
    raw: tuple[float | None, ...] = (),
) -> Measured:
    moved = tuple(one.value for one in differences)
    return Measured(key, "rate", tuple(values), tuple(differences), moved, n_left_out, raw)


def perplexity(
    nll: NDArray[np.float64], tokens: NDArray[np.float64], groups: Sequence[str | None], seed: str
) -> Measured:
    """Return the perplexity of given answers per arm, and its quotient to the baseline's. nll: [text, arm]."""
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(nll).all(axis=0))
    shown = np.where(finite, nll, 0.0)
    values = rates.log_perplexities(shown, tokens, groups, seed)
    differences = rates.log_perplexity_differences(shown[:, 0], shown, tokens, groups, seed)
    lost = nothing("the model's probabilities are not finite")
    values = [v if ok else lost for v, ok in zip(values, finite.tolist(), strict=True)]
    differences = [d if ok and finite[0] else lost for d, ok in zip(differences, finite.tolist(), strict=True)]
    moved = tuple(one.value for one in differences)
    return Measured("perplexity", "ratio", tuple(map(_exp, values)), tuple(map(_exp, differences)), moved)


def _exp(one: Estimate) -> Estimate:
    def up(value: float | None) -> float | None:
        return None if value is None else math.exp(min(value, 700.0))

    return replace(one, value=up(one.value), low=up(one.low), high=up(one.high))


def accuracy(picked: NDArray[np.int64], right: NDArray[np.int64], seed: str) -> Measured:
    """Return how often the right choice was the most likely one. picked: [question, arm]."""
    hits = picked == right[:, None]
    alone: list[str | None] = [None] * len(right)
    values = [rates.rate(hits[:, arm].tolist(), alone, seed) for arm in range(hits.shape[1])]
    return _of_rates("choice_accuracy", values, rates.rate_differences(hits[:, 0].tolist(), hits, alone, seed))


def summarize(found: Found, measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return every measure as plain JSON: baseline, real set, their difference, and the place among random sets."""
    return [_summary(found, one) for one in measured]


def _summary(found: Found, one: Measured) -> dict[str, Any]:
    at = {family: [i for i, own in enumerate(found.families) if own is family] for family in Family}
    real = next(iter(at[Family.REAL]), None)

    def of(values: Sequence[Any], place: int | None, show: Callable[[Any], Any] = asdict) -> Any:
        return show(values[place]) if place is not None and values else None

    def same(value: Any) -> Any:
        return value

    return {
        "key": one.key,
        "scale": one.scale,
        "baseline": of(one.values, 0),
        "real": of(one.values, real),
        "difference": of(one.differences, real),
        "n_left_out": {"baseline": of(one.n_left_out, 0, same), "real": of(one.n_left_out, real, same)},
        "before_overruling": {"baseline": of(one.raw, 0, same), "real": of(one.raw, real, same)} if one.raw else None,
        "controls": [_controls(found, one, family, at[family], real) for family in CONTROLS if at[family]],
    }


def _controls(found: Found, one: Measured, family: Family, places: Sequence[int], real: int | None) -> dict[str, Any]:
    known = [i for i in places if one.moved[i] is not None]
    moved = [float(one.moved[i] or 0.0) for i in known]
    own = one.moved[real] if real is not None else None
    place: Mapping[str, Any] = asdict(rates.place_among(own, moved)) if own is not None and known else {}
    differences = [float(one.differences[i].value or 0.0) for i in known]
    return {
        "family": str(family),
        "arms": [found.arms[i] for i in known],
        "values": [one.values[i].value for i in known],
        "differences": differences,
        "mean_difference": _mean(one.scale, moved),
        "lowest": min(differences, default=None),
        "highest": max(differences, default=None),
        "n": len(known),
        "n_as_extreme": place.get("n_as_extreme"),
        "p": place.get("p"),
        "smallest_p": place.get("smallest_p", 1 / (len(known) + 1)),
    }


def _mean(scale: str, moved: Sequence[float]) -> float | None:
    if not moved:
        return None
    mean = sum(moved) / len(moved)
    return math.exp(mean) if scale == "ratio" else mean
