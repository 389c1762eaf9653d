"""All statistics of one analysis in one token scope and pool: the parts one after another, and what they say in short.

Where a part cannot say anything it says why, in the words of the part, and the others are done all the same. Not
covered: where the counts come from and where the findings go (backend/store/statistics.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.domain.canonical import digest, sha256_hex
from backend.domain.errors import InvalidInput, NoTokens
from backend.domain.experts import SelectionRule
from backend.domain.statistics.baselines import PENALTIES, baselines
from backend.domain.statistics.bootstrap import FEWEST_UNITS, Intervals, bootstrap_intervals
from backend.domain.statistics.context import drift, load
from backend.domain.statistics.design import Scheme
from backend.domain.statistics.permutation import PermutationTest, permutation_test
from backend.domain.statistics.samples import Progress, Samples
from backend.domain.statistics.stability import choice_by_rule, choice_by_t, stability
from backend.domain.statistics.summary import figures_of, not_tested, of_intervals, of_load, of_test, plain
from backend.domain.vocabulary import Site

METHOD = 1
"""Version of what is computed here. Findings of another version are not taken for an answer to the same request."""

FIGURES = (
    "difference",
    "t",
    "p",
    "p_max_t",
    "q",
    "standard_error",
    "ci_low",
    "ci_high",
    "frequency",
    "drift_slope",
    "load",
)
"""The tables of the findings, in the order in which they are stored: each [site, expert]."""

WHOLE = 1000
"""Progress is told in parts of this."""

Tables = dict[str, NDArray[np.float64] | None]
"""Figures by name, [site, expert] each; None where there are none."""

Told = Callable[[str, int, int], None]
"""Called with (part in words, done, total) now and then. What it raises, ends the examination."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is computed. stability_top_k: null judges the choice that the permutation test makes, a number that rule."""

    n_permutations: int = 10_000
    n_resamples: int = 1999
    n_stability: int = 200
    n_splits: int = 50
    level: float = 0.95
    alpha: float = 0.05
    stability_top_k: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What the statistics of one analysis stand on.

    samples: None where nothing can be compared; `reason` then says why. token_ids: of every sample that `samples` was
    made from, in that order. batch_risk_diffs: [batch, site, expert] in the order of the batches, NaN where a batch has
    none. counts: int64 [site, expert] over both labels; tokens: how many tokens that is.
    """

    sites: tuple[Site, ...]
    samples: Samples | None
    reason: str
    token_ids: Sequence[NDArray[Any]]
    batch_risk_diffs: NDArray[np.float32]
    counts: NDArray[np.int64]
    tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """figures: float64 [figure, site, expert] in the order of FIGURES; NaN where there is none. summary: plain JSON."""

    figures: NDArray[np.float64]
    summary: dict[str, Any]


def examine(material: Material, asked: Asked, *, seed: str, told: Told | None = None) -> Findings:
    """Do every part. Deterministic in (material, asked, seed)."""
    course = _Course(material, asked, told)
    summary, tables = _compare(material, asked, seed, course)
    summary["drift"], tables["drift_slope"] = _drift(material, seed, course)
    summary["load"], tables["load"] = _load(material)
    return Findings(figures_of(tables, FIGURES, material.sites), plain(summary))


def _compare(material: Material, asked: Asked, seed: str, course: "_Course") -> tuple[dict[str, Any], Tables]:
    """The parts that compare unsafe with safe prompts."""
    samples = material.samples
    if samples is None:
        return not_tested(material.reason, asked.level, asked.alpha), {}
    test = permutation_test(
        samples,
        seed=seed,
        n_permutations=asked.n_permutations,
        alpha=asked.alpha,
        progress=course.part("permutations"),
    )
    intervals = bootstrap_intervals(
        samples, seed=seed, n_resamples=asked.n_resamples, level=asked.level, progress=course.part("intervals")
    )
    steadiness, frequency = _stability(material, samples, test, intervals, asked, seed, course)
    beside = baselines(samples, material.token_ids, seed=seed, progress=course.part("baselines"))
    summary = of_test(test) | {
        "intervals": of_intervals(intervals),
        "stability": steadiness,
        "baselines": beside,
    }
    tables: Tables = {name: getattr(test, name) for name in ("difference", "t", "p", "p_max_t", "q")}
    tables |= {"standard_error": intervals.standard_error, "ci_low": intervals.low, "ci_high": intervals.high}
    return summary, tables | {"frequency": frequency}


def _stability(
    material: Material,
    samples: Samples,
    test: PermutationTest,
    intervals: Intervals,
    asked: Asked,
    seed: str,
    course: "_Course",
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    by_t = asked.stability_top_k is None and test.design.scheme is not Scheme.NOT_TESTABLE
    n_experts = sum(site.n_experts for site in material.sites)
    k = min(asked.stability_top_k or -(-n_experts // 10), n_experts)
    if by_t:
        choose = choice_by_t(test.critical_t, "both")
        words = (
            f"every expert with |risk_diff / its standard error| above {test.critical_t:.2f}: what the permutation "
            f"test calls significant at {asked.alpha:g}"
        )
    else:
        choose = choice_by_rule(SelectionRule("top_k", k=k, direction="both"), material.sites)
        words = f"the {k} experts with the largest |risk_diff|" if k > 1 else "the expert with the largest |risk_diff|"
    nothing = np.full(samples.shape, np.nan)
    if intervals.n_units < FEWEST_UNITS:
        reason = f"One label has only {intervals.n_units} units: too few to draw anew (at least {FEWEST_UNITS})."
        return {"rule": words, "reason": reason}, nothing
    found = stability(
        samples,
        choose,
        seed=seed,
        n_resamples=asked.n_stability,
        n_splits=asked.n_splits,
        progress=course.part("stability"),
    )
    names = ("n_resamples", "n_splits", "jaccard", "jaccard_by_chance", "correlation")
    halves = {name: getattr(found, name) for name in (*names, "risk_diff_in_half", "risk_diff_in_other")}
    return {"rule": words, "reason": ""} | halves, found.frequency


def _drift(material: Material, seed: str, course: "_Course") -> tuple[dict[str, Any], NDArray[np.float64] | None]:
    n_batches = int(np.isfinite(material.batch_risk_diffs).all(axis=(1, 2)).sum())
    course.tell("drift", 0, 1)
    try:
        found = drift(material.batch_risk_diffs, seed=seed)
    except InvalidInput as error:
        return {"n_batches": n_batches, "reason": str(error)[:1].upper() + str(error)[1:] + "."}, None
    site, expert = found.largest
    largest = {
        "layer": material.sites[site].layer,
        "site": material.sites[site].site,
        "expert": expert,
        "slope": float(found.slope[site, expert]),
    }
    reason = "" if np.isfinite(found.p) else "A test of drift needs at least four batches whose risk_diff varies."
    course.tell("drift", 1, 1)
    distance = [float(f"{one:.5g}") for one in found.distance]
    figures = {"p": found.p, "smallest_p": found.smallest_p, "correlation": found.correlation, "largest": largest}
    figures["distance"] = distance
    return {"n_batches": n_batches, "reason": reason} | figures, found.slope


def _load(material: Material) -> tuple[dict[str, Any], NDArray[np.float64] | None]:
    try:
        found = load(material.counts, material.tokens, material.sites)
    except NoTokens as error:
        return {"reason": str(error)}, None
    return of_load(found, material.sites), found.relative


class _Course:
    """One progress over all parts, each weighed by what it is expected to cost."""

    def __init__(self, material: Material, asked: Asked, told: Told | None) -> None:
        self.told, self.starts, costs = told, dict[str, tuple[float, float]](), _costs(material, asked)
        before = 0.0
        for name, cost in costs.items():
            self.starts[name] = before, cost / sum(costs.values())
            before += self.starts[name][1]

    def tell(self, name: str, done: int, total: int) -> None:
        """Say how far one part is."""
        if self.told:
            before, share = self.starts[name]
            self.told(name, min(WHOLE, int(WHOLE * (before + share * done / max(total, 1)))), WHOLE)

    def part(self, name: str) -> Progress:
        """Return the progress that a part is given."""
        self.tell(name, 0, 1)
        return lambda done, total: self.tell(name, done, total)


def _costs(material: Material, asked: Asked) -> dict[str, float]:
    """Return the relative cost of every part, in multiplications (those of float64 count twice)."""
    cells = material.counts.size
    n = len(material.samples.labels) if material.samples is not None else 0
    learned = min(n, 2000)
    return {
        "permutations": 2.0 * asked.n_permutations * n * cells,
        "intervals": 2.0 * asked.n_resamples * n * cells,
        "stability": 3.0 * (asked.n_stability + 2 * asked.n_splits) * n * cells,
        "baselines": 2.0 * learned**2 * cells + 7.0 * len(PENALTIES) * learned**3,
        "drift": 1000.0 * len(material.batch_risk_diffs) * cells + 1,
    }


def findings_digest(
    input_digest: str, params: Mapping[str, Any], summary: Mapping[str, Any], figures: NDArray[np.float64]
) -> str:
    """Return the identity of findings: what they stand on, what was asked, and what was found."""
    little = np.ascontiguousarray(figures, dtype="<f8")
    found = {"shape": list(little.shape), "sha256": sha256_hex(little.tobytes())}
    return digest({"input": input_digest, "params": params, "summary": summary, "figures": found})
