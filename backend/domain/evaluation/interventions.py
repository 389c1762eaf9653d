"""Interventions on the router, and the random expert sets that a real one is measured against.

A set is only worth a word about behaviour if it does more than sets of the same size drawn at random. Two families are
drawn: `random`, with as many experts of every layer as the real set; `load_matched`, with besides as many from every
bin of experts of similar load. The real set is never among them, and no set is drawn twice. Not covered: how a router
is steered (worker/steering.py).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from backend.domain.errors import InvalidInput, NotSupported
from backend.domain.statistics.draws import random_bits
from backend.domain.vocabulary import Expert, Site

Experts = tuple[Expert, ...]


class Intervention(StrEnum):
    """What is done to the model. NONE: nothing, a baseline alone. TRAINED: a trained model against its base model."""

    NONE = "none"
    DEACTIVATE = "deactivate"
    ACTIVATE = "activate"
    TRAINED = "trained"


STEERS = (Intervention.DEACTIVATE, Intervention.ACTIVATE)


class Family(StrEnum):
    """What an arm is. RANDOM and LOAD_MATCHED are the controls."""

    BASELINE = "baseline"
    REAL = "real"
    RANDOM = "random"
    LOAD_MATCHED = "load_matched"


CONTROLS = (Family.RANDOM, Family.LOAD_MATCHED)


def sizes_of(sites: Sequence[Site]) -> dict[int, tuple[int, int]]:
    """Return {layer: (experts, top-k)}; a layer with two sites has the fewer experts and the larger top-k of them."""
    sizes: dict[int, tuple[int, int]] = {}
    for site in sites:
        experts, top_k = sizes.get(site.layer, (site.n_experts, site.top_k))
        sizes[site.layer] = min(experts, site.n_experts), max(top_k, site.top_k)
    return sizes


def by_layer(experts: Sequence[Expert]) -> dict[int, list[int]]:
    """Return {layer: [expert, ...]}."""
    found: dict[int, list[int]] = {}
    for layer, expert in sorted(experts):
        found.setdefault(layer, []).append(expert)
    return found


def check_deactivate(experts: Sequence[Expert], sites: Sequence[Site]) -> None:
    """Raise NotSupported, naming the layer, where fewer than top-k experts would be left."""
    sizes = sizes_of(sites)
    for layer, own in by_layer(experts).items():
        n_experts, top_k = sizes[layer]
        if n_experts - len(own) < top_k:
            raise NotSupported(
                f"Layer {layer} has {n_experts} experts and sends every token to {top_k}; without the {len(own)} of "
                f"this set only {n_experts - len(own)} would be left. Choose a smaller set."
            )


def used_for_activate(
    experts: Sequence[Expert], sites: Sequence[Site], strength: Mapping[Expert, float]
) -> tuple[Experts, Experts]:
    """Return (used, left out): at most top-k experts of a layer can be in every token's top-k.

    strength: |risk_diff| of each expert; the strongest are used, the lower number where they are equal.
    """
    used: list[Expert] = []
    sizes = sizes_of(sites)
    for layer, own in by_layer(experts).items():
        best = sorted(own, key=lambda e: (-strength.get((layer, e), 0.0), e))
        used += [(layer, expert) for expert in best[: sizes[layer][1]]]
    return tuple(sorted(used)), tuple(sorted(set(experts) - set(used)))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Sets drawn at random. n_possible: how many there are without the real one; fewer than asked for if so few."""

    sets: tuple[Experts, ...]
    n_possible: int


def random_sets(experts: Sequence[Expert], sites: Sequence[Site], n: int, seed: int) -> Drawn:
    """Draw sets with as many experts of every layer as the real one. Deterministic in (experts, sites, n, seed)."""
    sizes = sizes_of(sites)
    strata = [([(layer, e) for e in range(sizes[layer][0])], len(own)) for layer, own in by_layer(experts).items()]
    return _draw(tuple(sorted(experts)), strata, n, f"{seed}", "random expert sets")


def matched_sets(
    experts: Sequence[Expert], sites: Sequence[Site], load: Mapping[Expert, float], n: int, seed: int
) -> Drawn:
    """Draw sets that also take, from every bin of experts of similar load, as many as the real one does.

    load: how much each expert was used in the analysis; any unit. Bins are made of neighbours in rank.
    """
    sizes, strata = sizes_of(sites), []
    for layer, own in by_layer(experts).items():
        ranked = sorted(range(sizes[layer][0]), key=lambda e: (load.get((layer, e), 0.0), e))
        for bin_ in _bins(ranked):
            if wanted := len(set(bin_) & set(own)):
                strata.append(([(layer, e) for e in sorted(bin_)], wanted))
    return _draw(tuple(sorted(experts)), strata, n, f"{seed}", "load-matched expert sets")


def _bins(ranked: Sequence[int]) -> list[list[int]]:
    """Cut ranked experts into bins of about the square root of their number, and at least 4."""
    n_bins = max(1, len(ranked) // max(4, round(math.sqrt(len(ranked)))))
    return [part.tolist() for part in np.array_split(np.asarray(ranked), n_bins)]


Strata = Sequence[tuple[Sequence[Expert], int]]


def _draw(real: Experts, strata: Strata, n: int, seed: str, purpose: str) -> Drawn:
    if n < 1 or not strata:
        return Drawn((), 0)
    n_possible = math.prod(math.comb(len(from_), wanted) for from_, wanted in strata) - 1
    if n_possible <= n:
        return Drawn(tuple(one for one in _all(strata) if one != real), n_possible)
    found: dict[Experts, None] = {}
    for attempt in itertools.count():
        keys = random_bits(seed, purpose, attempt, (sum(len(from_) for from_, _ in strata),))
        one = _one(strata, keys)
        if one != real:
            found.setdefault(one)
        if len(found) == n:
            return Drawn(tuple(found), n_possible)
    raise AssertionError("not reached")


def _all(strata: Strata) -> list[Experts]:
    parts = [itertools.combinations(from_, wanted) for from_, wanted in strata]
    return sorted(tuple(sorted(itertools.chain.from_iterable(choice))) for choice in itertools.product(*parts))


def _one(strata: Strata, keys: NDArray[np.uint64]) -> Experts:
    chosen: list[Expert] = []
    start = 0
    for from_, wanted in strata:
        order = np.argsort(keys[start : start + len(from_)], kind="stable")[:wanted]
        chosen += [from_[int(place)] for place in order]
        start += len(from_)
    return tuple(sorted(chosen))


def load_share(experts: Sequence[Expert], load: Mapping[Expert, float]) -> float | None:
    """Return the share of all expert choices that went to these experts; None where nothing was counted."""
    total = sum(load.values())
    return sum(load.get(expert, 0.0) for expert in experts) / total if total else None


def check_possible(drawn: Drawn, family: Family) -> None:
    """Raise InvalidInput where there is not even one set to compare with."""
    if not drawn.sets:
        raise InvalidInput(
            f"There is no other set to compare with ({family.replace('_', '-')}): this one holds every expert of its "
            "layers or bins. Choose a smaller set, or ask for no random sets.",
            ("body", "n_random"),
        )
